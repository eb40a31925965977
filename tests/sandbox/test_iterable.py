"""The local Iterable on its socket: headers, latency, its log, its thread and its process."""

import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from sandbox.iterable import IterableSandbox
from tests.conftest import ROOT
from tests.sandbox.conftest import user


@pytest.mark.parametrize("latency_ms", [300, {"users/update": 300}])
def test_latency_delays_answers_but_not_each_other(client, latency_ms):
    client.iterable.change(latency_ms=latency_ms)
    began = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda n: client.update(f"u{n}@example.com"), range(10)))
    assert 0.3 <= time.monotonic() - began < 2.7


def test_the_log_holds_the_latest_requests(client):
    client.iterable.change(log_requests=2)
    for name in "abc":
        client.update(f"{name}@example.com")
    second, third = client.iterable.requests
    assert (third.method, third.path, third.status) == ("POST", "/api/users/update", 200)
    assert third.headers["content-type"] == "application/json"
    assert json.loads(third.body) == user("c@example.com")
    assert time.time() - 60 < second.at <= third.at


def test_state_can_be_read_after_the_end_and_no_thread_is_left():
    with IterableSandbox(api_key="k") as iterable, requests.Session() as session:
        url, headers = f"{iterable.url}/api/users/update", {"Api-Key": "k"}
        session.post(url, json=user("a@b.co"), headers=headers, timeout=5)
    assert list(iterable.users) == ["a@b.co"]
    assert iterable.stats["connections"] == 1
    assert not [t for t in threading.enumerate() if t.name == "iterable-sandbox"]
    iterable.reset()
    assert (iterable.users, iterable.requests, iterable.stats["connections"]) == ({}, [], 0)


def test_alone_it_says_its_url_and_is_controlled_over_http():
    command = [sys.executable, "-m", "sandbox.iterable", "--port", "0"]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
        requests.Session() as session,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().strip()

        def tell(name: str, order: Any) -> int:
            return session.post(f"{url}/sandbox/{name}", json=order, timeout=5).status_code

        def ask(name: str) -> Any:
            return session.get(f"{url}/sandbox/{name}", timeout=5).json()

        assert tell("settings", {"api_key": "k"}) == 200
        assert tell("faults", [{"kind": "server_error", "skip": 1, "times": 1}]) == 200
        for key in ("k", "k", "wrong"):
            headers = {"Api-Key": key}
            session.post(f"{url}/api/users/update", json=user("a@b.co"), headers=headers, timeout=5)
        assert ask("stats") == {
            "requests": {"users/update": {"200": 1, "500": 1, "401": 1}},
            "faults": {"server_error": 1},
            "users": 1,
            "events": 0,
            "connections": 1,
        }
        (line,) = ask("requests?offset=1&limit=1")
        assert (line["path"], line["status"]) == ("/api/users/update", 500)
        refused = tell("settings", {"latency": 1}), tell("faults", [{"kind": "explode"}])
        assert (*refused, tell("no-such-order", {})) == (400, 400, 404)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
