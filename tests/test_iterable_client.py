"""The client against the local Iterable: what it sends, how it judges answers, when it repeats."""

import json
import threading
from typing import Any

import pytest

import iterable_client
from iterable_api import limiter
from iterable_api.answers import Repeat
from iterable_api.payloads import Payloads
from iterable_api.transport import Network, Response
from iterable_client import IterableClient
from records.outcomes import SUPERSEDED, UNCHANGED, CallOutcome, CallStatus, RowStatus
from sandbox.faults import Fault
from tests.brisk import Brisk, hurry
from tests.iterable_api.simulation import Clock
from tests.rows import bodies_of, make_prepared, make_row, settled

DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN, NOT_SENT = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN, CallStatus.NOT_SENT
HTML = "<html><head><title>Action not found</title></head></html>"
SPEED = 100


@pytest.fixture(autouse=True)
def _brisk(monkeypatch):
    hurry(monkeypatch, SPEED)


@pytest.fixture
def client(iterable):
    with client_for(iterable) as client:
        yield client


def client_for(iterable, timeout_s=5.0, **options):
    defaults: dict[str, Any] = {"max_attempts": 3, "wait": Brisk(SPEED).sleep}
    payloads, network = Payloads("iterable_challenge"), Network(timeout_s)
    options = defaults | options
    return IterableClient("test-key", iterable.url, payloads=payloads, network=network, **options)


def update(client):
    return client.update_user("user1@example.com", {"first_name": "Sarah"})


def envelope(code, msg=""):
    return json.dumps({"msg": msg, "code": code, "params": None})


# --- What is sent


def test_a_row_is_sent_as_two_requests_in_order_exactly_as_specified(iterable):
    iterable.change(api_key="test-key")
    with client_for(iterable) as client:
        outcome = client.process_user_record(make_row())
    assert outcome.status is RowStatus.SUCCESSFUL
    first, second = iterable.requests
    assert (first.method, first.path) == ("POST", "/api/users/update")
    assert (second.method, second.path) == ("POST", "/api/events/track")
    bodies = bodies_of(client.payloads, make_row())
    assert (json.loads(first.body), json.loads(second.body)) == bodies
    assert outcome.event_id == json.loads(second.body)["id"]


def test_an_event_keeps_what_it_is_given(client, iterable):
    event = {"event_id": "e-1", "created_at": 1768314645}
    assert client.track_event("a@example.com", "signup", {"n": 1}, **event).status is DELIVERED
    held = iterable.events["e-1"]
    found = (held.event_name, held.created_at, held.data_fields)
    assert found == ("signup", 1768314645, {"n": 1})


@pytest.mark.parametrize("code", ["InvalidEmailAddressError", "ForgottenUserError"])
def test_no_event_is_sent_for_a_user_that_was_not_accepted(client, iterable, code):
    iterable.set_faults(Fault("answer", status=400, body=envelope(code)))
    outcome = client.process_user_record(make_row())
    forgotten = code == "ForgottenUserError"
    assert outcome.status is (RowStatus.FORGOTTEN if forgotten else RowStatus.TOTAL_FAILURE)
    assert outcome.profile.outcome.status is (FORGOTTEN if forgotten else REFUSED)
    assert (outcome.event.outcome.status, outcome.event.outcome.attempts) == (NOT_SENT, 0)
    assert len(iterable.requests) == 1


def test_a_delivered_user_with_a_blocked_event_is_a_partial_failure(client, iterable):
    iterable.disallow("page_view")
    outcome = client.process_user_record(make_row())
    assert outcome.status is RowStatus.PARTIAL_FAILURE
    # Iterable says 200 and "Success" here; only the message tells.
    track = outcome.event.outcome
    assert (track.status, track.http_status, track.code) == (UNAVAILABLE, 200, "Success")


def test_a_project_that_identifies_users_otherwise_says_so(client, iterable):
    iterable.change(project_type="userID")
    outcome = client.process_user_record(make_row())
    assert "change ITERABLE_IDENTITY" in outcome.profile.outcome.message


def processed(client, row):
    client.process_rows([row])
    return row


@pytest.mark.parametrize("known", [UNCHANGED, SUPERSEDED])
def test_a_call_whose_outcome_is_known_is_not_made(client, iterable, known):
    outcome = processed(client, settled(make_prepared(), known))
    assert (outcome.profile.outcome, outcome.event.outcome.status) == (known, DELIVERED)
    outcome = processed(client, settled(make_prepared(), track=known))
    assert (outcome.profile.outcome.status, outcome.event.outcome) == (DELIVERED, known)
    paths = [request.path for request in iterable.requests]
    assert paths == ["/api/events/track", "/api/users/update"]


def test_a_row_that_cannot_be_sent_reaches_nobody(client, iterable):
    failed = CallOutcome(REFUSED, 400)
    outcome = processed(client, settled(make_prepared(), failed))
    assert (outcome.profile.outcome, outcome.event.outcome.status) == (failed, NOT_SENT)
    outcome = client.process_user_record(make_row(email=None))
    assert outcome.status is RowStatus.TOTAL_FAILURE
    assert outcome.profile.outcome.message == "email is empty"
    assert iterable.requests == []


def test_each_request_says_whether_new_fields_are_created(iterable):
    body, event = b'{"email":"user1@example.com"}', b'{"email":"user1@example.com","eventName":"e"}'
    with client_for(iterable, create_new_fields=False) as client:
        update(client)
        client.track_event("user1@example.com", "e", {}, event_id="e-1", created_at=1768314645)
        for answer in (client.update_users([body] * 2), client.track_events([event] * 2)):
            assert (answer.outcome.status, answer.document["successCount"]) == (DELIVERED, 2)
    *single, users, events = (json.loads(request.body) for request in iterable.requests)
    assert [each["createNewFields"] for each in (*single, users, *events["events"])] == [False] * 5
    paths = [request.path for request in iterable.requests[2:]]
    assert paths == ["/api/users/bulkUpdate", "/api/events/trackBulk"]


# --- What an answer means, and what is sent again


def test_an_answer_is_judged_by_the_table(client):
    response = Response(429, {}, envelope("RateLimitExceeded", "Slow down").encode())
    answer = client._handle_response(response)
    assert (answer.outcome.status, answer.repeat) == (UNAVAILABLE, Repeat.THROTTLE)
    assert answer.outcome.message == "Slow down"
    assert answer.document["code"] == "RateLimitExceeded"


@pytest.mark.parametrize(
    ("http_status", "body", "status", "requests"),
    [
        (400, envelope("InvalidEmailAddressError"), REFUSED, 1),
        (500, envelope("GenericError"), UNAVAILABLE, 3),
        (200, HTML, UNKNOWN, 3),
        (202, envelope("Success"), DELIVERED, 1),
    ],
)
def test_a_call_is_repeated_if_that_may_help(client, iterable, http_status, body, status, requests):
    iterable.set_faults(Fault("answer", status=http_status, body=body))
    outcome = update(client)
    assert (outcome.status, outcome.http_status) == (status, http_status)
    assert outcome.attempts == len(iterable.requests) == requests


@pytest.mark.parametrize(
    "kind", ["server_error", "reset_before", "reset_after", "garbage", "truncated", "gateway"]
)
def test_a_passing_fault_is_outlived_and_the_event_is_held_once(client, iterable, kind):
    event = Fault(kind, endpoint="events/track", times=1)
    iterable.set_faults(Fault(kind, endpoint="users/update", times=2), event)
    outcome = client.process_user_record(make_row())
    assert outcome.status is RowStatus.SUCCESSFUL
    assert (outcome.profile.outcome.attempts, outcome.event.outcome.attempts) == (3, 2)
    assert len(iterable.users) == len(iterable.events) == 1
    counted = client.statistics.to_json()
    assert (counted["users/update"]["requests"], counted["events/track"]["requests"]) == (3, 2)
    assert client.retries == 3


def test_a_rate_limit_uses_up_no_attempt_and_the_seconds_below_the_limit_are_told(
    iterable, monkeypatch
):
    clock = Clock()
    for module in (iterable_client, limiter):
        monkeypatch.setattr(module, "time", clock)
    with client_for(iterable, wait=clock.sleep) as client:
        iterable.set_faults(Fault("rate_limited", times=4))
        outcome = update(client)
        assert (outcome.status, outcome.attempts) == (DELIVERED, 5)
        assert client.rate_limited_seconds == 0
        # At so low a limit one is enough to lower the rate.
        iterable.set_faults(Fault("rate_limited", times=1))
        assert client.update_users([b'{"email":"a@example.com"}']).outcome.status is DELIVERED
        assert client.rate_limited_seconds > 0


def test_a_rate_limit_without_end_ends_the_call(client, iterable, monkeypatch):
    monkeypatch.setattr(iterable_client, "RATE_LIMIT_PATIENCE_S", 0.0)
    iterable.set_faults(Fault("rate_limited"))
    outcome = update(client)
    assert (outcome.status, outcome.http_status, outcome.attempts) == (UNAVAILABLE, 429, 1)


@pytest.mark.parametrize("status", [200, 404, 429, 503])
def test_retry_after_is_obeyed_by_the_next_call_too_whatever_the_status(iterable, status):
    fault = Fault("answer", status=status, headers={"Retry-After": "25"}, body="?", times=1)
    iterable.set_faults(fault)
    with client_for(iterable, max_attempts=1) as client:
        update(client)
        assert update(client).status is DELIVERED
    first, second, *_ = iterable.requests
    assert SPEED * (second.at - first.at) >= 25


def test_no_answer_is_unknown_and_stays_so_when_only_errors_follow(iterable):
    iterable.set_faults(Fault("hang"))
    outcome = update(client_for(iterable, timeout_s=0.05, max_attempts=2))
    assert (outcome.status, outcome.attempts, outcome.http_status) == (UNKNOWN, 2, None)
    assert outcome.message == "ReadTimeout: no answer within 0.05 s"
    iterable.set_faults(Fault("reset_after", times=1), Fault("server_error"))
    outcome = update(client_for(iterable))
    assert (outcome.status, outcome.http_status) == (UNKNOWN, 500)


# --- When nothing more is sent


def test_a_stop_ends_the_waiting_and_the_call_is_told_as_it_stands(iterable):
    iterable.set_faults(Fault("server_error"))
    stop = threading.Event()
    stop.set()
    outcome = update(client_for(iterable, wait=stop.wait, max_attempts=5))
    assert (outcome.status, outcome.attempts) == (UNAVAILABLE, 1)


def test_after_a_refused_key_at_one_endpoint_nothing_is_sent_to_any(client, iterable):
    iterable.set_faults(Fault("server_error", endpoint="users/update"), Fault("unauthorized"))
    update(client)
    event = {"event_id": "e-1", "created_at": 1768314645}
    assert client.track_event("a@example.com", "signup", {}, **event).fault == "key"
    sent = len(iterable.requests)
    outcome = client.process_user_record(make_row())
    assert (outcome.status, outcome.profile.outcome.status) == (RowStatus.NOT_ATTEMPTED, NOT_SENT)
    assert len(iterable.requests) == sent


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault("answer", status=403, body=HTML), "answered 403, but not by Iterable"),
        (Fault("hang"), "no answer within 0.1 s"),
        (Fault("answer", status=400, body=envelope("BadParams")), None),
        (Fault("rate_limited"), None),
    ],
    ids=["403", "hang", "400", "429"],
)
def test_an_endpoint_that_gives_no_definite_answer_is_an_outage(
    iterable, fault, cause, monkeypatch
):
    monkeypatch.setattr(limiter, "OUTAGE_S", 0.0)
    monkeypatch.setattr(iterable_client, "RATE_LIMIT_PATIENCE_S", 0.0)
    outages: list[str] = []
    iterable.set_faults(fault)
    with client_for(iterable, 0.1, max_attempts=1, outage=outages.append) as client:
        for _ in range(2):
            update(client)
    assert outages == ([f"no definite answer for 0 s; {cause}"] if cause else [])


def test_a_silence_is_that_of_one_endpoint_and_of_bulk_only_with_its_single_twin(
    iterable, monkeypatch
):
    monkeypatch.setattr(limiter, "OUTAGE_S", 0.0)
    outages: list[str] = []
    with client_for(iterable, max_attempts=1, outage=outages.append) as client:
        iterable.set_faults(Fault("gateway", status=503, endpoint="users/bulkUpdate"))
        for _ in range(2):
            client.update_users([b'{"email":"user1@example.com"}'])
            assert update(client).status is DELIVERED
        assert outages == []
        iterable.set_faults(Fault("gateway", status=503, endpoint="events/track"))
        for _ in range(2):
            client.process_user_record(make_row())
    assert outages[0].endswith("; answered 503")


def test_a_closed_client_sends_nothing(iterable):
    with client_for(iterable) as client:
        assert update(client).status is DELIVERED
    assert update(client).status is NOT_SENT
    assert len(iterable.requests) == 1
