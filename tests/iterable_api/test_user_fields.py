"""The profile fields of a project: how they are asked for, and what is said when none come."""

import socket
import time

import pytest

from iterable_api import transport, user_fields
from iterable_api.user_fields import fetch_user_fields
from iterable_client import IterableClient
from sandbox.faults import Fault


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(user_fields, "READ_RETRY_S", 0.0)


def fetch(iterable, timeout_s=5.0):
    return fetch_user_fields("key", iterable.url, timeout_s)


def test_the_types_of_the_fields_come_by_name(iterable):
    with IterableClient("key", iterable.url) as client:
        client.update_user("ann@example.com", {"first_name": "Ann", "candidate": True})
    answer = fetch(iterable)
    assert answer.types["first_name"] == "string"
    assert answer.types["candidate"] == "boolean"
    assert (answer.http_status, answer.problem) == (200, "")
    request = iterable.requests[-1]
    assert (request.method, request.path, request.body) == ("GET", "/api/users/getFields", b"")


def test_the_key_goes_along(iterable):
    iterable.change(api_key="another-key")
    answer = fetch(iterable)
    assert (answer.types, answer.http_status) == (None, 401)


@pytest.mark.parametrize(
    ("fault", "http_status", "problem", "requests"),
    [
        (Fault("unauthorized"), 401, "", 1),
        (Fault("redirect"), 302, "", 1),
        (Fault("answer", status=404), 404, "", 1),
        (Fault("garbage"), 200, "", 1),
        (Fault("answer", body='{"fields": []}'), 200, "", 1),
        (Fault("answer", status=400, body='{"fields": {}}'), 400, "", 1),
        (Fault("hang"), None, "ReadTimeout", 1),
        (Fault("truncated"), None, "ProtocolError", 1),
        (Fault("rate_limited"), 429, "", 2),
        (Fault("server_error"), 500, "", 2),
        (Fault("gateway", status=503), 503, "", 2),
        (Fault("reset_before"), None, "ConnectionError", 2),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_what_came_instead_is_told_and_asked_again_if_it_may_pass(
    iterable, fault, http_status, problem, requests
):
    iterable.set_faults(fault)
    answer = fetch(iterable, timeout_s=0.3)
    assert (answer.types, answer.http_status, answer.problem) == (None, http_status, problem)
    assert len(iterable.requests) == requests


@pytest.mark.parametrize("kind", ["server_error", "rate_limited", "reset_before"])
def test_a_fault_that_passes_is_outlived(iterable, kind):
    iterable.set_faults(Fault(kind, times=1))
    assert fetch(iterable).types is not None


def test_a_server_that_is_not_there_is_told():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert fetch_user_fields("key", url, 5.0).problem == "NewConnectionError"


def test_a_name_that_does_not_resolve_is_told():
    answer = fetch_user_fields("key", "http://no.such.host.invalid", 5.0)
    assert answer.problem == "NameResolutionError"


def test_a_certificate_nobody_signed_is_told_before_the_key_is_sent(tls_server):
    assert fetch_user_fields("key", tls_server.url, 5.0).problem == "SSLError"
    assert tls_server.received == []


def test_an_answer_that_trickles_in_is_given_up(iterable, monkeypatch):
    monkeypatch.setattr(transport, "WATCH_INTERVAL_S", 0.05)
    iterable.set_faults(Fault("drip", seconds=20))
    began_s = time.monotonic()
    assert fetch(iterable, timeout_s=0.4).types is None
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("skew_s", [3600, -3600])
def test_the_answer_tells_how_far_this_clock_is_ahead(iterable, skew_s):
    iterable.change(clock_skew_s=skew_s)
    assert fetch(iterable).clock_ahead_s == pytest.approx(-skew_s, abs=5)


def test_without_a_date_nothing_is_said_of_the_clock(iterable):
    iterable.change(send_date=False)
    assert fetch(iterable).clock_ahead_s is None
