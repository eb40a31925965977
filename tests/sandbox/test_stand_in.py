"""The local Iterable's door: paths, keys, the log of who came, and how it is controlled."""

import json
import time
from typing import Any

import pytest
import requests

from sandbox.endpoints import ENDPOINTS
from sandbox.faults import Fault
from tests.sandbox.conftest import example, user

# --- Who comes in (rows 24, 25, 31, 32) -------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "another"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_missing_or_wrong_key_is_a_401_that_uses_up_no_limit(client, endpoint, key):
    client.iterable.change(api_key="secret-key")
    response = client.post(endpoint, example(endpoint), headers={"Api-Key": key})
    assert response.status_code == 401
    assert response.json() == {
        "msg": "Invalid API key",
        "code": "BadApiKey",
        "params": {"ip": "127.0.0.1", "endpoint": f"/api/{endpoint}"},
    }
    assert client.iterable.stats["peak_per_s"] == {}


@pytest.mark.parametrize(
    ("variant", "code", "params"),
    [
        ("code_success", "Success", {"endpoint"}),
        ("no_permission", "BadApiKey", {"ip", "endpoint", "apiKeyIdentifier", "apiKeyType"}),
        ("bad_jwt", "InvalidJwtPayload", {"endpoint"}),
    ],
)
def test_a_401_has_its_variants(client, variant, code, params):
    client.iterable.change(api_key="another", unauthorized=variant)
    response = client.update()
    assert (response.status_code, response.json()["code"]) == (401, code)
    assert response.json()["params"].keys() == params


def test_an_unknown_path_is_an_html_page(client):
    response = client.post("users/updates", {})
    assert response.status_code == 404
    assert "Action not found" in response.text
    assert response.headers["Content-Type"] == "text/html"


def test_another_method_or_content_type_is_refused(client):
    url = f"{client.iterable.url}/api/users/update"
    assert client.session.get(url, timeout=5).status_code == 405
    assert client.session.post(url, data={"email": "a@b.co"}, timeout=5).status_code == 415


# --- What it can be asked and told ------------------------------------------------------------


def test_the_log_holds_a_copy_of_each_request_without_the_key(client):
    client.iterable.set_faults(Fault("reset_before", skip=1))
    client.update("ann@example.com", first_name="Ann")
    with pytest.raises(requests.ConnectionError):
        client.track()
    first, second = client.iterable.requests
    assert (first.method, first.path, first.status) == ("POST", "/api/users/update", 200)
    assert json.loads(first.body) == user("ann@example.com", first_name="Ann")
    assert first.headers["api-key"].startswith("sha256:")
    assert "secret-key" not in repr(first)
    client.iterable.change(api_key="secret-key")
    shown = client.session.get(f"{client.iterable.url}/sandbox/settings", timeout=5)
    assert shown.json()["api_key"] == first.headers["api-key"]
    assert abs(first.at - time.time()) < 5
    assert (second.status, second.fault) == (None, "reset_before")


def test_the_log_is_bounded_in_number_and_bytes(client):
    client.iterable.change(log_requests=2)
    for name in "abc":
        client.update(f"{name}@example.com")
    emails = [json.loads(line.body)["email"] for line in client.iterable.requests]
    assert emails == ["b@example.com", "c@example.com"]
    client.iterable.change(log_bytes=10)
    client.update("d@example.com")
    assert client.iterable.requests == []


def test_state_settings_and_commands_go_over_http_too(client):
    def ask(name: str) -> Any:
        return client.session.get(f"{client.iterable.url}/sandbox/{name}", timeout=5).json()

    def tell(name: str, order: object) -> None:
        client.session.post(f"{client.iterable.url}/sandbox/{name}", json=order, timeout=5)

    tell("settings", {"latency_ms": 1, "other_clients": {"users/update": 250}})
    tell("faults", [{"kind": "server_error", "times": 1}])
    tell("forget", ["gone@example.com"])
    tell("disallow", ["x"])
    statuses = [client.update(f"u{n}@example.com").status_code for n in range(4)]
    assert statuses == [500, 200, 200, 200]
    assert client.update("gone@example.com").status_code == 409
    assert "disallowed" in client.track("u1@example.com", eventName="x").json()["msg"]
    client.track("u1@example.com", id="e-1")

    page = ask("users?offset=1&limit=1")
    assert [line["email"] for line in page] == ["u2@example.com"]
    assert [line["id"] for line in ask("events")] == ["e-1"]
    assert [line["fault"] for line in ask("requests?limit=2")] == ["server_error", None]
    assert ask("settings")["latency_ms"] == 1
    assert ask("stats") == {
        "requests": {
            "users/update": {"500": 1, "200": 3, "409": 1},
            "events/track": {"200": 2},
        },
        "faults": {"server_error": 1},
        "users": 3,
        "events": 1,
        "peak_per_s": {"users/update": 5, "events/track": 2},
        "connections": 1,
    }
    tell("reset", None)
    assert (ask("users"), ask("events"), ask("requests")) == ([], [], [])
    assert ask("settings")["latency_ms"] == 1


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("settings", {"latency": 1}),
        ("settings", {"limits": "no"}),
        ("settings", {"unauthorized": "maybe"}),
        ("faults", [{"kind": "explode"}]),
        ("faults", [{"kind": "hang", "secs": 1}]),
    ],
)
def test_a_command_that_cannot_be_is_refused_with_a_reason(client, name, order: Any):
    url = f"{client.iterable.url}/sandbox/{name}"
    response = client.session.post(url, json=order, timeout=5)
    assert response.status_code == 400
    assert response.json()["error"]
