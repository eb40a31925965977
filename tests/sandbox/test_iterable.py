"""The local Iterable on its socket: headers, latency, its thread and its process."""

import email.utils
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from sandbox.iterable import IterableSandbox
from tests.sandbox.conftest import user


def test_json_answers_carry_the_headers_of_the_ingress_and_none_about_rates(client):
    headers = client.update().headers
    assert headers["Content-Type"] == "application/json"
    assert headers["Vary"] == "Origin"
    assert headers["Request-Time"].isdigit()
    assert headers["Server"].startswith("iterable-ingress")
    assert not [name for name in headers if "rate" in name.lower() or "retry" in name.lower()]


@pytest.mark.parametrize("skew_s", [0, 3600, -86400])
def test_answers_carry_the_date_of_its_clock(client, skew_s):
    client.iterable.change(clock_skew_s=skew_s)
    then = email.utils.parsedate_to_datetime(client.update().headers["Date"])
    assert then.timestamp() - time.time() == pytest.approx(skew_s, abs=3)


def test_the_date_can_be_left_out(client):
    client.iterable.change(send_date=False)
    assert "Date" not in client.update().headers


def test_latency_delays_answers_but_not_each_other(client):
    client.iterable.change(latency_ms={"users/update": (30, 40)})
    began = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda n: client.update(f"u{n}@example.com"), range(10)))
    assert 0.03 <= time.monotonic() - began < 0.28


def test_state_can_be_read_after_the_end_and_no_thread_is_left():
    with IterableSandbox(limits=False) as iterable, requests.Session() as session:
        session.post(
            f"{iterable.url}/api/users/update",
            json=user("a@b.co"),
            headers={"Api-Key": "k"},
            timeout=5,
        )
    assert list(iterable.users) == ["a@b.co"]
    assert iterable.stats["connections"] == 1
    assert not [t for t in threading.enumerate() if t.name == "iterable-sandbox"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_alone_it_says_its_url_and_ends_with_0_on_a_signal(number):
    command = [sys.executable, "-m", "sandbox.iterable", "--port", "0", "--api-key", "right"]
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        statuses = [
            requests.post(
                f"{url}/api/users/update", json=user("a@b.co"), headers={"Api-Key": key}, timeout=5
            ).status_code
            for key in ("right", "wrong")
        ]
        os.kill(process.pid, number)
        assert (statuses, process.wait(5)) == ([200, 401], 0)
