"""Bulk mode: every row is told the truth, however little Iterable says."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import iterable_client
from delivery.bulk import BatchLimit, BulkDelivery, packed
from delivery.recorder import RefusalWatch
from delivery.stopping import Stop
from delivery.worker_pool import WorkerPool
from iterable_api.answers import judge_response
from iterable_api.transport import Response
from iterable_client import IterableClient
from records.exit_statuses import StopReason
from records.outcomes import (
    SUPERSEDED,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    RowStatus,
)
from records.outcomes import Fault as At
from sandbox.faults import Fault
from tests.brisk import hurry
from tests.iterable_api.test_bulk_answers import counts, documents
from tests.rows import make_prepared, settled

USERS, EVENTS = "users/bulkUpdate", "events/trackBulk"
USER, EVENT = "users/update", "events/track"
CALLS = {USERS: "profile", EVENTS: "event"}
DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN
MISMATCH = "RequestFieldsTypesMismatched"


SPEED = 1000


class Bulk:
    """Delivers rows as a run with --bulk does. ``on_wait`` is called when a call is to pause."""

    def __init__(self, iterable, size=1000):
        self.iterable = iterable
        self.stop = Stop()
        self.limit = BatchLimit(size)
        self.on_wait = lambda: None
        self.client = IterableClient(
            "key",
            iterable.url,
            max_attempts=3,
            wait=self.wait,
            rate_share=1000,
        )
        self.delivery = BulkDelivery(self.client, self.stop, self.limit)

    def wait(self, seconds):
        self.on_wait()
        return self.stop.wait(seconds / SPEED)

    def __call__(self, rows):
        """Return the outcomes of *rows*, by their numbers."""
        outcomes = self.process(*packed(rows, self.limit))
        assert len(outcomes) == len(rows)
        return {outcome.customer_id: outcome for outcome in outcomes}

    def process(self, *batches):
        """Deliver some batches as they are; return the outcomes."""
        outcomes, watch = [], RefusalWatch(self.stop)
        pool = WorkerPool(
            self.stop,
            lambda rows: self.client.process_rows(rows),  # noqa: PLW0108 - replaced in a test
            self.delivery.process,
            100,
            self.client.waiting,
        )
        with pool:
            for some in pool.send(batches):
                watch.watch(some)
                outcomes += some
        self.stop.raise_bug()
        return outcomes

    @property
    def requests(self):
        """How many requests there were, by endpoint: the bulk ones, then the single ones."""
        stats = self.iterable.stats["requests"]
        return [sum(stats.get(name, {}).values()) for name in (USERS, EVENTS, USER, EVENT)]


@pytest.fixture(autouse=True)
def _brisk(monkeypatch):
    hurry(monkeypatch, SPEED)


@pytest.fixture
def bulk(iterable):
    iterable.change(limits=False)
    bulk = Bulk(iterable)
    yield bulk
    bulk.client.close()


def rows_of(count, **changes):
    return [make_prepared(number, **changes) for number in range(count)]


def calls(outcomes, endpoint=USERS):
    """Return the outcomes of the calls to one endpoint, by the numbers of their rows."""
    return {n: getattr(row, CALLS[endpoint]).outcome for n, row in outcomes.items()}


def numbers(outcomes, endpoint, *statuses):
    return {n for n, call in calls(outcomes, endpoint).items() if call.status in statuses}


def not_successful(outcomes):
    return {n for n, outcome in outcomes.items() if outcome.status is not RowStatus.SUCCESSFUL}


def answer(body, endpoint=USERS, status=200, **which):
    """Return a fault: *endpoint* answers *body*."""
    return Fault("answer", endpoint=endpoint, status=status, body=json.dumps(body), **which)


def of_row(number):
    """Select requests with this row in them."""
    return {"email": f"user{number}@example.com"}


# --- What is sent


def test_rows_go_in_batches_and_hold_what_single_requests_hold(iterable):
    iterable.change(limits=False)
    bulk = Bulk(iterable, size=100)
    rows = rows_of(250)
    outcomes = bulk(rows)
    assert not_successful(outcomes) == set()
    assert bulk.requests == [3, 3, 0, 0]
    assert len(iterable.users) == len(iterable.events) == 250
    sent = [json.loads(request.body).get("users", []) for request in iterable.requests]
    (batch,) = [users for users in sent if json.loads(rows[7].profile.body) in users]
    assert batch == [json.loads(row.profile.body) for row in rows[:100]]
    event = iterable.events[outcomes[7].event_id]
    assert event.data_fields == json.loads(rows[7].event.body)["dataFields"]
    assert all(event.user_existed for event in iterable.events.values())


def test_a_call_whose_outcome_is_known_is_not_made(bulk, iterable):
    bulk.client.update_users([make_prepared(n).profile.body for n in (1, 2)])
    outcomes = bulk(
        [
            settled(make_prepared(1), SUPERSEDED),
            settled(make_prepared(2), track=UNCHANGED),
            settled(make_prepared(3), CallOutcome(REFUSED, fault=At.ROW)),
            make_prepared(4, page_view_id=None),
        ]
    )
    assert {n: (o.profile.outcome.status, o.event.outcome.status) for n, o in outcomes.items()} == {
        1: ("superseded", "delivered"),
        2: ("delivered", "unchanged"),
        3: ("refused", "not_sent"),
        4: ("delivered", "no_event"),
    }
    users, events = (json.loads(request.body) for request in iterable.requests[1:])
    assert [user["email"][4] for user in users["users"]] == ["2", "4"]
    assert [event["email"][4] for event in events["events"]] == ["1"]


# --- A batch that was taken, with rows that were not


@pytest.mark.parametrize("echo_lower_case", [True, False])
def test_a_row_that_is_listed_as_failed_has_its_verdict_from_a_single_call(
    bulk, iterable, echo_lower_case
):
    iterable.change(echo_lower_case=echo_lower_case)
    iterable.forget("gone@example.com")
    rows = [
        make_prepared(1),
        make_prepared(2, email="Not.An.Email"),
        make_prepared(3, email="Gone@Example.com"),
    ]
    outcomes = bulk(rows)
    invalid, forgotten = outcomes[2].profile.outcome, outcomes[3].profile.outcome
    assert not_successful(outcomes) == {2, 3}
    assert (invalid.status, invalid.code) == (REFUSED, "InvalidEmailAddressError")
    # What is final needs no second call.
    assert (forgotten.status, forgotten.code) == (FORGOTTEN, "forgottenEmails")
    assert bulk.requests == [1, 1, 1, 0]


# --- A batch that is refused for the sake of some rows


@pytest.mark.parametrize(("endpoint", "field"), [(USERS, "first_name"), (EVENTS, "location")])
def test_of_a_refused_batch_each_row_has_its_own_verdict(bulk, iterable, endpoint, field):
    # Another client made the field a number for good.
    bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":1}}'])
    bulk.client.track_events(
        [b'{"email":"a@b.com","eventName":"page_view","dataFields":{"location":1}}']
    )
    bad = set(range(0, 200, 20))
    good = {"first_name": None, "location": None}
    rows = [
        make_prepared(n, **good | ({field: f"Value {n}"} if n in bad else {})) for n in range(200)
    ]
    outcomes = bulk(rows)
    assert numbers(outcomes, endpoint, REFUSED) == bad
    assert numbers(outcomes, endpoint, DELIVERED) == set(range(200)) - bad
    for number in bad:
        call = calls(outcomes, endpoint)[number]
        assert (call.code, call.fault) == (MISMATCH, At.FIELD)
        assert call.fields == ((field, "long"),)
    assert bulk.stop.reason is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((409, "ForgottenUserError"), (400, "BadJsonBody"), (403, "Forbidden")),
        (500, "GenericError"),
    ],
)
def test_one_row_that_refuses_a_whole_batch_costs_no_other(bulk, iterable, status, code):
    iterable.set_faults(
        answer({"msg": "", "code": code}, USERS, status, **of_row(3)),
        answer({"msg": "", "code": code}, USER, status, **of_row(3)),
    )
    outcomes = bulk(rows_of(10))
    assert not_successful(outcomes) == {3}
    call = outcomes[3].profile.outcome
    assert (call.http_status, call.code) == (status, code)
    assert (outcomes[3].status is RowStatus.FORGOTTEN) is (status == 409)
    assert bulk.stop.reason is None


# --- No row's fault


def test_a_refused_key_leads_to_no_single_call_and_no_second_batch(iterable):
    iterable.change(api_key="another", limits=False)
    bulk = Bulk(iterable, 10)
    outcomes = bulk(rows_of(30))
    refused = numbers(outcomes, USERS, UNAVAILABLE)
    assert len(refused) in {10, 20, 30}  # those that were in flight by then
    assert refused | numbers(outcomes, USERS, CallStatus.NOT_SENT) == set(range(30))
    assert bulk.stop.reason is StopReason.KEY_REFUSED
    assert bulk.requests[1:] == [0, 0, 0]


def test_a_batch_that_meets_nothing_but_429_leads_to_no_single_call(bulk, iterable, monkeypatch):
    monkeypatch.setattr(iterable_client, "RATE_LIMIT_PATIENCE_S", 0.0)
    iterable.set_faults(Fault("rate_limited"))
    outcomes = bulk(rows_of(20))
    assert numbers(outcomes, USERS, UNAVAILABLE) == set(range(20))
    assert bulk.requests == [1, 0, 0, 0]


def test_a_reason_that_lies_in_the_bulk_endpoint_alone_stops_nothing(bulk, iterable):
    iterable.set_faults(answer({"code": "Forbidden", "msg": "no"}, USERS, 403))
    assert not_successful(bulk(rows_of(20))) == set()
    assert (bulk.stop.reason, bulk.requests) == (None, [1, 0, 20, 20])


UNSETTLED = [
    Fault("server_error"),
    # A firewall's page.
    Fault("gateway", status=403),
    Fault("garbage"),
    Fault("reset_after"),
    answer({"code": "Success", "msg": ""}, endpoint=None),
]


@pytest.mark.parametrize("fault", UNSETTLED, ids=lambda f: f"{f.kind}-{f.status}-{f.body}")
@pytest.mark.parametrize("endpoint", [USERS, EVENTS])
def test_a_batch_that_is_not_settled_is_tried_twice_and_then_singly(
    bulk, iterable, endpoint, fault
):
    iterable.set_faults(replace(fault, endpoint=endpoint))
    assert not_successful(bulk(rows_of(50))) == set()
    assert len(iterable.events) == 50
    first = [2, 0, 50, 50] if endpoint == USERS else [1, 2, 0, 50]
    assert bulk.requests == first


def test_what_a_batch_may_have_delivered_stays_unknown_when_a_single_call_fails(bulk, iterable):
    iterable.set_faults(Fault("reset_after", endpoint=USERS), Fault("server_error", endpoint=USER))
    outcomes = bulk(rows_of(5))
    assert numbers(outcomes, USERS, UNKNOWN) == set(range(5))
    assert {call.http_status for call in calls(outcomes).values()} == {500}


# --- Too large


def test_a_batch_that_is_too_large_goes_in_parts_and_the_next_ones_are_smaller(bulk, iterable):
    too_large = {"code": "BatchTooLarge", "msg": ""}
    iterable.set_faults(*(answer(too_large, status=status, times=1) for status in (413, 400)))
    assert not_successful(bulk(rows_of(1000))) == set()
    # A thousand rows, half of them, then what passed: for users and for events.
    assert bulk.requests == [2 + 4, 4, 0, 0]
    assert bulk.limit.rows == 250
    # One that was packed before goes in parts at once.
    assert len(bulk.process([make_prepared(n) for n in range(1000, 1500)])) == 500
    assert bulk.requests == [2 + 4 + 2, 4 + 2, 0, 0]


def test_a_row_too_large_for_any_batch_goes_singly(bulk):
    rows = [make_prepared(1), make_prepared(2, first_name="x" * 4_100_000), make_prepared(3)]
    outcomes = bulk(rows)
    assert not_successful(outcomes) == {2}
    call = outcomes[2].profile.outcome
    assert (call.status, call.fault, call.http_status) == (REFUSED, At.FIELD, 400)
    assert bulk.limit.rows == 1000


# --- The run is to stop


@pytest.mark.parametrize(
    ("fault", "status"), [(Fault("server_error"), UNAVAILABLE), (Fault("reset_after"), UNKNOWN)]
)
def test_a_stop_while_a_batch_is_tried_again_leads_to_no_single_call(bulk, iterable, fault, status):
    iterable.set_faults(fault)
    bulk.on_wait = lambda: bulk.stop.request(StopReason.SIGTERM)
    outcomes = bulk(rows_of(20))
    assert numbers(outcomes, USERS, status) == set(range(20))
    assert bulk.requests == [1, 0, 0, 0]


def test_after_a_stop_the_events_of_a_batch_are_not_sent(bulk, monkeypatch):
    update_users = bulk.client.update_users

    def stopping(bodies):
        bulk.stop.request(StopReason.SIGTERM)
        return update_users(bodies)

    monkeypatch.setattr(bulk.client, "update_users", stopping)
    outcomes = bulk(rows_of(5))
    assert numbers(outcomes, USERS, DELIVERED) == set(range(5))
    assert numbers(outcomes, EVENTS, CallStatus.NOT_SENT) == set(range(5))
    assert bulk.requests == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (answer({"code": "BadJsonBody", "msg": ""}, USERS, 400), CallStatus.NOT_SENT),
        # Some have landed.
        (answer(counts(150, 50)), UNKNOWN),
    ],
)
def test_a_stop_during_single_calls_ends_them(bulk, iterable, first, status):
    iterable.change(latency_ms={USER: 20})
    iterable.set_faults(first)
    process = bulk.client.process_rows

    def stopping(rows):
        if rows[0].customer_id == 100:
            bulk.stop.request(StopReason.SIGTERM)
        process(rows)

    bulk.client.process_rows = stopping
    outcomes = bulk(rows_of(200))
    delivered = numbers(outcomes, USERS, DELIVERED)
    assert {100} <= delivered < set(range(200))
    assert numbers(outcomes, USERS, status) == set(range(200)) - delivered


# --- Whatever Iterable answers

answers = st.tuples(
    st.sampled_from([200, 200, 200, 207, 302, 400, 401, 404, 409, 413, 429, 500, 503]),
    st.builds(
        lambda document, failures, code: {**document, "failCount": failures, "code": code},
        documents,
        st.integers(0, 4) | st.none(),
        st.sampled_from([None, "Success", "BadJsonBody", "BatchTooLarge"]),
    ),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(answers, min_size=1, max_size=12))
def test_whatever_a_batch_is_answered_no_row_is_lost_and_none_delivered_without_proof(script):
    proven, asked = set(), 0

    def send(bodies):
        nonlocal asked
        status, document = script[asked % len(script)]
        asked += 1
        told = judge_response(Response(status, {}, json.dumps(document).encode()), len(bodies))
        if told.outcome.status is DELIVERED:
            proven.update(bodies)
        return told

    client: Any = SimpleNamespace(update_users=send, track_events=send)
    rows = [make_prepared(n, email=f"{name}@x.com") for n, name in enumerate("abcd")]
    BulkDelivery(client, Stop(), BatchLimit(4)).process(rows)
    for row in rows:
        assert row.profile.body in proven or row.profile.outcome.status is not DELIVERED
        assert row.event.body in proven or row.event.outcome.status is not DELIVERED
        # Its profile is there: only its event is open.
        assert row.profile.body in proven or row.next_call is not row.event
    assert asked < 20
