"""The client against the local Iterable: what it sends, how it judges answers, when it repeats."""

import json
import socket
import threading
import time
from typing import Any

import pytest

import iterable_client
from iterable_api import limiter
from iterable_api.answers import Repeat
from iterable_api.payloads import Payloads
from iterable_api.transport import Response
from iterable_client import IterableClient
from records.outcomes import SUPERSEDED, UNCHANGED, CallOutcome, CallStatus, RowStatus
from sandbox.faults import Fault
from tests.brisk import Brisk, hurry
from tests.rows import bodies_of, make_prepared, make_row

DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN, NOT_SENT = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN, CallStatus.NOT_SENT

BAD_KEY = '{"msg":"Invalid API key","code":"BadApiKey","params":{"ip":"1.2.3.4","endpoint":"x"}}'
BAD_JWT = '{"msg":"","code":"InvalidJwtPayload","params":{"endpoint":"/api/events/track"}}'
HTML = "<html><head><title>Action not found</title></head></html>"


@pytest.fixture
def client(iterable):
    with client_for(iterable) as client:
        yield client


SPEED = 100


@pytest.fixture(autouse=True)
def _brisk(monkeypatch):
    hurry(monkeypatch, SPEED)


def client_for(iterable, **options):
    defaults: dict[str, Any] = {"max_attempts": 3, "wait": Brisk(SPEED).sleep, "timeout_s": 5.0}
    payloads = Payloads("iterable_challenge")
    return IterableClient("test-key", iterable.url, payloads=payloads, **(defaults | options))


def update(client):
    return client.update_user("user1@example.com", {"first_name": "Sarah"})


def envelope(code, msg="", params=None):
    return json.dumps({"msg": msg, "code": code, "params": params})


def test_a_row_is_sent_as_two_requests_in_order_exactly_as_specified(client, iterable):
    outcome = client.process_user_record(make_row())
    assert outcome.status is RowStatus.SUCCESSFUL
    first, second = iterable.requests
    assert (first.method, first.path) == ("POST", "/api/users/update")
    assert (second.method, second.path) == ("POST", "/api/events/track")
    for request in (first, second):
        assert request.headers["content-type"] == "application/json"
        assert "api-key" in request.headers
    bodies = bodies_of(client.payloads, make_row())
    assert (json.loads(first.body), json.loads(second.body)) == bodies
    assert outcome.event_id == json.loads(second.body)["id"]


def test_the_key_goes_into_the_header_api_key(iterable):
    iterable.change(api_key="test-key")
    assert update(client_for(iterable)).status is DELIVERED
    iterable.change(api_key="another-key")
    outcome = update(client_for(iterable))
    assert (outcome.status, outcome.http_status, outcome.key_refused) == (UNAVAILABLE, 401, True)


def test_an_event_keeps_what_it_is_given(client, iterable):
    outcome = client.track_event(
        "a@example.com", "signup", {"n": 1}, event_id="e-1", created_at=1768314645
    )
    assert outcome.status is DELIVERED
    event = iterable.events["e-1"]
    assert (event.event_name, event.created_at, event.data_fields) == (
        "signup",
        1768314645,
        {"n": 1},
    )


def test_no_event_is_sent_for_a_user_that_was_refused(client, iterable):
    iterable.set_faults(Fault("answer", status=400, body=envelope("InvalidEmailAddressError")))
    outcome = client.process_user_record(make_row())
    assert outcome.status is RowStatus.TOTAL_FAILURE
    assert (outcome.users_update.http_status, outcome.events_track.status) == (400, NOT_SENT)
    assert outcome.events_track.attempts == 0
    assert len(iterable.requests) == 1


def test_a_forgotten_person_is_asked_for_once_and_is_no_failure(client, iterable):
    iterable.forget("user1@example.com")
    outcome = client.process_user_record(make_row())
    assert outcome.status is RowStatus.FORGOTTEN
    assert (outcome.users_update.status, outcome.events_track.status) == (FORGOTTEN, NOT_SENT)
    assert len(iterable.requests) == 1


def test_a_delivered_user_with_a_blocked_event_is_a_partial_failure(client, iterable):
    iterable.disallow("page_view")
    outcome = client.process_user_record(make_row())
    assert outcome.status is RowStatus.PARTIAL_FAILURE
    # Iterable says 200 and "Success" here; only the message tells.
    assert (outcome.events_track.status, outcome.events_track.http_status) == (UNAVAILABLE, 200)
    assert outcome.events_track.code == "Success"
    assert "allow it in the project's settings" in outcome.events_track.message


@pytest.mark.parametrize("known", [UNCHANGED, SUPERSEDED])
def test_a_call_whose_outcome_is_known_is_not_made(client, iterable, known):
    outcome = client.process_prepared(make_prepared()._replace(users_update=known))
    assert (outcome.users_update, outcome.events_track.status) == (known, DELIVERED)
    outcome = client.process_prepared(make_prepared()._replace(events_track=known))
    assert (outcome.users_update.status, outcome.events_track) == (DELIVERED, known)
    assert [request.path for request in iterable.requests] == [
        "/api/events/track",
        "/api/users/update",
    ]


def test_an_event_is_not_sent_when_its_profile_is_known_not_to_have_arrived(client, iterable):
    failed = CallOutcome(REFUSED, 400)
    outcome = client.process_prepared(make_prepared()._replace(users_update=failed))
    assert (outcome.users_update, outcome.events_track.status) == (failed, NOT_SENT)
    assert iterable.requests == []


def test_a_row_that_cannot_be_sent_reaches_nobody(client, iterable):
    outcome = client.process_user_record(make_row(email=None))
    assert outcome.status is RowStatus.TOTAL_FAILURE
    assert outcome.users_update.message == "email is empty"
    assert iterable.requests == []


# tests/iterable_api/test_answers.py has every line of the table.
@pytest.mark.parametrize(
    ("http_status", "body", "status", "requests"),
    [
        (401, BAD_KEY, UNAVAILABLE, 1),
        (401, BAD_JWT, UNAVAILABLE, 1),
        (401, HTML, UNAVAILABLE, 3),
        (400, envelope("InvalidEmailAddressError"), REFUSED, 1),
        (500, envelope("GenericError"), UNAVAILABLE, 3),
        (200, HTML, UNKNOWN, 3),
        (202, envelope("Success"), DELIVERED, 1),
    ],
)
def test_an_answer_is_judged_by_the_table_and_asked_for_again_if_that_may_help(
    client, iterable, http_status, body, status, requests
):
    iterable.set_faults(Fault("answer", status=http_status, body=body))
    outcome = update(client)
    assert (outcome.status, outcome.http_status) == (status, http_status)
    assert outcome.attempts == len(iterable.requests) == requests
    # One user's token is not the run's key, and a proxy knows nothing of it.
    assert outcome.key_refused == (body == BAD_KEY)


def test_what_may_be_logged_tells_client_and_server_errors_apart(client, iterable):
    iterable.set_faults(
        Fault("answer", status=400, body=envelope("BadParams", "x@y.z is bad"), times=1),
        Fault("server_error"),
    )
    outcome = update(client)
    assert str(outcome) == "refused (client error 400 BadParams)"
    assert outcome.message == "x@y.z is bad"
    assert str(update(client)) == "unavailable (server error 500 GenericError)"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("server_error", times=2),
        Fault("gateway", status=504, times=2),
        Fault("reset_before", times=2),
        Fault("reset_after", times=2),
        Fault("truncated", times=2),
        Fault("garbage", times=2),
        Fault("not_success", times=2),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_passing_fault_is_outlived_and_the_event_is_held_once(client, iterable, fault):
    iterable.set_faults(fault)
    outcome = client.process_user_record(make_row())
    assert outcome.status is RowStatus.SUCCESSFUL
    assert outcome.users_update.attempts == 3
    assert len(iterable.users) == len(iterable.events) == 1


def test_an_event_that_landed_unseen_is_sent_again_under_its_id(client, iterable):
    iterable.set_faults(Fault("reset_after", endpoint="events/track", times=1))
    assert client.process_user_record(make_row()).events_track.attempts == 2
    (event,) = iterable.events.values()
    assert event.received == 2


def test_a_rate_limit_uses_up_no_attempt(client, iterable):
    iterable.set_faults(Fault("rate_limited", times=4))
    outcome = update(client)
    assert (outcome.status, outcome.attempts) == (DELIVERED, 5)


def test_the_seconds_below_the_limit_are_told(client, iterable):
    assert client.rate_limited_seconds == 0
    iterable.set_faults(Fault("rate_limited", times=1))
    assert client.update_users([b'{"email":"a@example.com"}']).outcome.status is DELIVERED
    assert client.rate_limited_seconds > 0


def test_a_rate_limit_without_end_ends_the_call(client, iterable, monkeypatch):
    monkeypatch.setattr(iterable_client, "RATE_LIMIT_PATIENCE_S", 3.0)
    iterable.set_faults(Fault("rate_limited"))
    outcome = update(client)
    assert (outcome.status, outcome.http_status) == (UNAVAILABLE, 429)
    assert outcome.attempts > 1


def seconds_between(iterable):
    """Return the brisk time between the first two requests."""
    first, second, *_ = iterable.requests
    return SPEED * (second.at - first.at)


@pytest.mark.parametrize("status", [200, 302, 400, 403, 404, 429, 500, 503])
def test_retry_after_is_obeyed_by_the_next_call_too_whatever_the_status(iterable, status):
    fault = Fault("answer", status=status, headers={"Retry-After": "25"}, body="?", times=1)
    iterable.set_faults(fault)
    with client_for(iterable, max_attempts=1) as client:
        update(client)
        assert update(client).status is DELIVERED
    assert 25 <= seconds_between(iterable) < 45


def test_a_retry_after_is_obeyed_up_to_a_minute(iterable):
    iterable.set_faults(Fault("gateway", status=503, headers={"Retry-After": "9999"}, times=1))
    with client_for(iterable) as client:
        assert update(client).status is DELIVERED
    assert 60 <= seconds_between(iterable) < 90


def test_no_answer_is_unknown_not_failed(iterable):
    iterable.set_faults(Fault("hang"))
    outcome = update(client_for(iterable, timeout_s=0.05, max_attempts=2))
    assert (outcome.status, outcome.attempts, outcome.http_status) == (UNKNOWN, 2, None)
    assert outcome.message == "ReadTimeout: no answer within 0.05 s"


def test_an_unanswered_request_stays_unknown_when_only_errors_follow(client, iterable):
    iterable.set_faults(Fault("reset_after", times=1), Fault("server_error"))
    outcome = update(client)
    assert (outcome.status, outcome.http_status) == (UNKNOWN, 500)


def test_a_server_that_is_not_there_is_unavailable():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        outcome = update(IterableClient("key", url, max_attempts=2, wait=Brisk(SPEED).sleep))
    assert (outcome.status, outcome.attempts) == (UNAVAILABLE, 2)
    assert outcome.message == "NewConnectionError: the connection was refused"


def test_a_redirect_does_not_carry_the_key_away(client, iterable):
    iterable.set_faults(Fault("redirect", location=f"{iterable.url}/api/users/update", times=1))
    outcome = update(client)
    assert (outcome.status, len(iterable.requests)) == (UNAVAILABLE, 1)
    assert "ITERABLE_API_BASE_URL" in outcome.message


def test_a_stop_ends_the_waiting_and_the_call_is_told_as_it_stands(iterable):
    iterable.set_faults(Fault("server_error"))
    stop = threading.Event()
    stop.set()
    outcome = update(client_for(iterable, wait=stop.wait, max_attempts=5))
    assert (outcome.status, outcome.attempts) == (UNAVAILABLE, 1)


@pytest.mark.parametrize("kind", ["server_error", "hang"])
def test_a_stop_ends_the_waiting_for_a_silent_endpoint(iterable, kind, monkeypatch):
    monkeypatch.setattr(limiter, "FIRST_PROBE_S", 6000.0)
    stop = threading.Event()
    iterable.set_faults(Fault(kind))
    with client_for(iterable, wait=stop.wait, max_attempts=1, timeout_s=0.1) as client:
        update(client)
        waiting = in_threads(5, lambda: update(client))
        time.sleep(0.2)
        stop.set()
        began_s = time.monotonic()
        outcomes = waiting()
        assert time.monotonic() - began_s < 1
    assert {outcome.status for outcome in outcomes} == {NOT_SENT}
    assert len(iterable.requests) == 1


def in_threads(count, call):
    """Make a call in each of *count* threads; return what waits for the results."""
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(call())) for _ in range(count)]
    for thread in threads:
        thread.start()

    def join():
        for thread in threads:
            thread.join()
        return results

    return join


@pytest.mark.parametrize("retry_after", ["25", None])
def test_an_outage_of_25_s_costs_each_waiting_worker_a_request_and_loses_nothing(
    iterable, retry_after
):
    headers = {"Retry-After": retry_after} if retry_after else {}
    iterable.set_faults(Fault("gateway", status=503, headers=headers))
    workers = 60
    with client_for(iterable, wait=Brisk(SPEED).sleep, connections=workers) as client:
        waiting = in_threads(workers, lambda: client.process_user_record(make_row()))
        time.sleep(0.24)
        iterable.set_faults()
        outcomes = waiting()
    assert {outcome.status for outcome in outcomes} == {RowStatus.SUCCESSFUL}
    assert max(outcome.users_update.attempts for outcome in outcomes) <= 4
    failed = sum(request.status == 503 for request in iterable.requests)
    assert failed <= workers + 7
    assert len(iterable.requests) == failed + 2 * workers


def test_a_row_that_always_fails_holds_nobody_while_others_are_answered(iterable):
    iterable.change(latency_ms=5)
    iterable.set_faults(Fault("server_error", email="user1@example.com"))
    over, waited_s = threading.Event(), dict.fromkeys([True, False], 0.0)
    answered: list[bool] = []

    def wait(seconds):
        waited_s[threading.current_thread() is threading.main_thread()] += seconds
        return Brisk(SPEED).sleep(seconds)

    def deliver_others(client):
        while not over.is_set():
            answered.append(client.update_user("user2@example.com", {}).status is DELIVERED)

    with client_for(iterable, wait=wait, max_attempts=5) as client:
        others = in_threads(4, lambda: deliver_others(client))
        time.sleep(0.1)
        outcome = client.update_user("user1@example.com", {})
        over.set()
        others()
    assert all(answered)
    assert (outcome.status, outcome.attempts) == (UNAVAILABLE, 5)
    # Now and then no answer comes in between, and some wait until the next one does.
    assert waited_s[False] < 3


def test_a_request_that_ends_in_an_error_of_ours_leaves_nobody_waiting(client, iterable):
    iterable.set_faults(Fault("server_error", times=3))
    update(client)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client._transport, "send", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            update(client)
    assert update(client).status is DELIVERED


def test_after_a_refused_key_at_one_endpoint_nobody_waits_for_the_other_for_ever(client, iterable):
    iterable.set_faults(Fault("server_error", endpoint="users/update"), Fault("unauthorized"))
    update(client)
    event = {"event_id": "e-1", "created_at": 1768314645}
    assert client.track_event("a@example.com", "signup", {}, **event).key_refused
    outcomes = in_threads(5, lambda: update(client))()
    assert {outcome.status for outcome in outcomes} == {NOT_SENT}


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault("gateway", status=503), "answered 503"),
        (Fault("answer", status=403, body=HTML), "answered 403, but not by Iterable"),
        (Fault("answer", status=302), "answered 302"),
        (Fault("reset_before"), "the connection was reset"),
        (Fault("hang"), "no answer within 0.1 s"),
        (Fault("answer", status=400, body=envelope("BadParams")), None),
        (Fault("rate_limited"), None),
    ],
    ids=["503", "403", "302", "reset", "hang", "400", "429"],
)
def test_an_endpoint_that_gives_no_definite_answer_is_an_outage(
    iterable, fault, cause, monkeypatch
):
    monkeypatch.setattr(limiter, "OUTAGE_S", 0.3)
    monkeypatch.setattr(iterable_client, "RATE_LIMIT_PATIENCE_S", 1.0)
    outages: list[str] = []
    iterable.set_faults(fault)
    with client_for(iterable, timeout_s=0.1, max_attempts=1, outage=outages.append) as client:
        for _ in range(4):
            update(client)
    assert {text.partition("; ")[2] for text in outages} == ({cause} if cause else set())


def test_the_silence_of_one_endpoint_is_not_hidden_by_the_answers_of_another(iterable, monkeypatch):
    monkeypatch.setattr(limiter, "OUTAGE_S", 0.0)
    outages: list[str] = []
    iterable.set_faults(Fault("gateway", status=503, endpoint="events/track"))
    with client_for(iterable, outage=outages.append) as client:
        client.process_user_record(make_row())
    assert outages
    assert outages[0].endswith("; answered 503")


def test_an_outage_of_a_host_that_is_not_there_says_why(monkeypatch):
    monkeypatch.setattr(limiter, "OUTAGE_S", 0.0)
    outages: list[str] = []
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with IterableClient(
            "key", url, max_attempts=2, wait=Brisk(SPEED).sleep, outage=outages.append
        ) as client:
            update(client)
    assert outages == ["no definite answer for 0 s; the connection was refused"]


def test_a_refused_key_ends_the_calls_that_have_not_been_sent(client, iterable):
    iterable.set_faults(Fault("unauthorized"))
    assert update(client).key_refused
    outcome = client.process_user_record(make_row())
    assert (outcome.users_update.status, outcome.status) == (NOT_SENT, RowStatus.NOT_ATTEMPTED)
    assert len(iterable.requests) == 1


def test_a_closed_client_sends_nothing(iterable):
    with client_for(iterable) as client:
        assert update(client).status is DELIVERED
    assert update(client).status is NOT_SENT
    assert len(iterable.requests) == 1


def test_an_answer_is_judged_by_the_table(client):
    response = Response(429, {}, envelope("RateLimitExceeded", "Slow down").encode())
    answer = client._handle_response(response)
    assert (answer.outcome.status, answer.repeat) == (UNAVAILABLE, Repeat.THROTTLE)
    assert answer.outcome.message == "Slow down"
    assert answer.document["code"] == "RateLimitExceeded"


def test_bulk_calls_send_the_bodies_in_one_request(client, iterable):
    bodies = [json.dumps({"email": f"user{n}@example.com"}).encode() for n in range(3)]
    answer = client.update_users(bodies)
    assert (answer.outcome.status, answer.document["successCount"]) == (DELIVERED, 3)
    events = [json.dumps({"email": "user1@example.com", "eventName": "e"}).encode()] * 2
    assert client.track_events(events).document["successCount"] == 2
    assert [request.path for request in iterable.requests] == [
        "/api/users/bulkUpdate",
        "/api/events/trackBulk",
    ]


@pytest.mark.parametrize("body", ['{"code":"Success","msg":""}', "[]", '{"a":1}'])
def test_a_bulk_answer_without_counts_is_no_success(client, iterable, body):
    bodies = [json.dumps({"email": f"user{n}@example.com"}).encode() for n in range(3)]
    for send in (client.update_users, client.track_events):
        iterable.set_faults(Fault("answer", status=200, body=body))
        outcome = send(bodies).outcome
        # Its rows can still go one by one.
        assert (outcome.status, outcome.attempts) == (UNKNOWN, 2)
        iterable.set_faults()


def test_requests_and_those_that_repeated_another_are_counted(client, iterable):
    iterable.set_faults(Fault("server_error", times=2))
    client.process_user_record(make_row())
    counted = client.statistics.to_json()
    assert counted["users/update"]["requests"] == 3
    assert counted["users/update"]["answers"] == {"200": 1, "500": 2}
    assert counted["events/track"]["requests"] == 1
    assert client.retries == 2
