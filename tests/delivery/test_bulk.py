"""Bulk mode: every row is told the truth, however little Iterable says."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import iterable_client
from delivery.bulk import BatchLimit, BulkDelivery, packed
from delivery.recorder import RefusalWatch
from delivery.stopping import Stop
from delivery.worker_pool import WorkerPool
from iterable_api.answers import judge_response
from iterable_api.payloads import bulk_body, new_fields_rule
from iterable_api.transport import Response
from iterable_client import IterableClient
from records.exit_statuses import StopReason
from records.outcomes import SUPERSEDED, UNCHANGED, CallOutcome, CallStatus, Delivery, RowStatus
from records.outcomes import Fault as At
from sandbox.faults import Fault
from tests.brisk import hurry
from tests.iterable_api.test_bulk_answers import documents
from tests.rows import make_prepared, settled, with_bodies

USERS, EVENTS = "users/bulkUpdate", "events/trackBulk"
USER, EVENT = "users/update", "events/track"
CALLS = {USERS: "profile", EVENTS: "event"}
DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN
NO_VERDICT = {UNAVAILABLE, UNKNOWN, CallStatus.NOT_SENT}
SPEED = 1000


class Bulk:
    """Delivers rows as a run with --bulk does. ``on_wait`` is called when a call is to pause."""

    def __init__(self, iterable, size=1000):
        self.iterable = iterable
        self.stop = Stop()
        self.limit = BatchLimit(size)
        self.on_wait = lambda: None
        self.client = IterableClient(
            "key", iterable.url, max_attempts=3, wait=self.wait, rate_share=1000
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
        senders = self.client.process_rows, self.delivery.process
        with WorkerPool(self.stop, *senders, 100, self.client.waiting) as pool:
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


def rows_of(count):
    return [make_prepared(number) for number in range(count)]


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


# --- What is sent


def test_rows_go_in_batches_and_hold_what_single_requests_hold(bulk, iterable):
    bulk.limit.rows = 100
    rows = rows_of(250)
    assert not_successful(bulk(rows)) == set()
    assert bulk.requests == [3, 3, 0, 0]
    assert len(iterable.users) == len(iterable.events) == 250
    sent = [json.loads(request.body).get("users", []) for request in iterable.requests]
    assert [json.loads(row.profile.body) for row in rows[:100]] in sent
    event = iterable.events[rows[7].event_id]
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


# --- A batch of which some rows fail


@pytest.mark.parametrize("echo_lower_case", [True, False])
def test_a_row_that_is_listed_as_failed_has_its_verdict_from_a_single_call(
    bulk, iterable, echo_lower_case
):
    iterable.change(echo_lower_case=echo_lower_case)
    iterable.forget("gone@example.com")
    emails = ("user1@example.com", "Not.An.Email", "Gone@Example.com")
    outcomes = bulk([make_prepared(n, email=email) for n, email in enumerate(emails, 1)])
    invalid, forgotten = outcomes[2].profile.outcome, outcomes[3].profile.outcome
    assert not_successful(outcomes) == {2, 3}
    assert (invalid.status, invalid.code) == (REFUSED, "InvalidEmailAddressError")
    # What is final needs no second call.
    assert (forgotten.status, forgotten.code) == (FORGOTTEN, "forgottenEmails")
    assert bulk.requests == [1, 1, 1, 0]


@pytest.mark.parametrize(("endpoint", "field"), [(USERS, "first_name"), (EVENTS, "location")])
def test_of_a_refused_batch_each_row_has_its_own_verdict(bulk, iterable, endpoint, field):
    # Another client made the field a number for good.
    bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":1}}'])
    bulk.client.track_events(
        [b'{"email":"a@b.com","eventName":"page_view","dataFields":{"location":1}}']
    )
    bad = set(range(0, 100, 20))
    values = {"first_name": None, "location": None}
    rows = [
        make_prepared(n, **values | ({field: f"Value {n}"} if n in bad else {})) for n in range(100)
    ]
    outcomes = bulk(rows)
    assert numbers(outcomes, endpoint, REFUSED) == bad
    assert numbers(outcomes, endpoint, DELIVERED) == set(range(100)) - bad
    for number in bad:
        call = calls(outcomes, endpoint)[number]
        assert (call.code, call.fault) == ("RequestFieldsTypesMismatched", At.FIELD)
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
    body, row = {"msg": "", "code": code}, "user3@example.com"
    iterable.set_faults(*(answer(body, each, status, email=row) for each in (USERS, USER)))
    outcomes = bulk(rows_of(10))
    assert not_successful(outcomes) == {3}
    call = outcomes[3].profile.outcome
    assert (call.http_status, call.code) == (status, code)
    assert (outcomes[3].status is RowStatus.FORGOTTEN) is (status == 409)
    assert bulk.stop.reason is None


# --- No row's fault


def test_a_refused_key_leads_to_no_single_call_and_no_second_batch(bulk, iterable):
    iterable.change(api_key="another")
    bulk.limit.rows = 10
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


# Each with the number of bulk requests that it takes.
UNSETTLED = [
    (Fault("server_error"), 2),
    # A firewall's page.
    (Fault("gateway", status=403), 2),
    (Fault("garbage"), 2),
    (Fault("reset_after"), 2),
    (answer({"code": "Success", "msg": ""}), 2),
    # It counts failures and names none.
    (answer({"successCount": 30, "failCount": 20}), 1),
    # The key may not use the bulk endpoint.
    (answer({"code": "Forbidden", "msg": "no"}, status=403), 1),
]


@pytest.mark.parametrize(("fault", "tries"), UNSETTLED)
@pytest.mark.parametrize("endpoint", [USERS, EVENTS])
def test_a_batch_that_is_not_settled_is_tried_twice_at_most_and_then_singly(
    bulk, iterable, endpoint, fault, tries
):
    iterable.set_faults(replace(fault, endpoint=endpoint))
    assert not_successful(bulk(rows_of(50))) == set()
    assert len(iterable.events) == 50
    assert bulk.requests == ([tries, 0, 50, 50] if endpoint == USERS else [1, tries, 0, 50])
    assert bulk.stop.reason is None


def test_what_a_batch_may_have_delivered_stays_unknown_when_a_single_call_fails(bulk, iterable):
    iterable.set_faults(Fault("reset_after", endpoint=USERS), Fault("server_error", endpoint=USER))
    outcomes = bulk(rows_of(5))
    assert numbers(outcomes, USERS, UNKNOWN) == set(range(5))
    assert {call.http_status for call in calls(outcomes).values()} == {500}


# --- How large a batch may be


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


def test_a_limit_holds_from_the_next_batch_on_and_never_rises_nor_falls_below_one_row():
    limit = BatchLimit(1000)
    batches = packed([make_prepared()] * 4000, limit)
    assert len(next(batches)) == 1000
    for rows, most in [(1000, 500), (1500, 500), (3, 1), (1, 1)]:
        limit.too_large(rows)
        assert limit.rows == most
        assert len(next(batches)) == most


def test_a_batch_of_one_does_not_wait_for_the_next_row():
    rows = iter(rows_of(3))
    assert len(next(packed(rows, BatchLimit(1)))) == 1
    assert len(list(rows)) == 2


def request_bytes(batch):
    """Return the size of the larger one of the two requests that a batch needs."""
    users, events = [row.profile.body for row in batch], [row.event.body for row in batch]
    rules = (1 + len(batch)) * len(new_fields_rule(create=False))
    return max(len(bulk_body("events", bodies)) for bodies in (users, events)) + rules


@given(
    st.lists(st.integers(0, 300), max_size=40),
    st.sampled_from(["user", "event"]),
    st.integers(1, 9),
    st.integers(100, 1500),
)
def test_batches_have_each_row_in_order_and_are_as_large_as_they_may_be(sizes, name, most, limit):
    """A row that is too large for any batch is alone."""
    rows = [with_bodies(Delivery(1, "a"), **{name: b"x" * size}) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("delivery.bulk.MAX_BYTES", limit)
        batches = list(packed(rows, BatchLimit(most)))
    assert [row for batch in batches for row in batch] == rows
    assert all(len(batch) == 1 or request_bytes(batch) <= limit for batch in batches)
    assert all(0 < len(batch) <= most for batch in batches)
    for batch, following in itertools.pairwise(batches):
        # The first row of a request has no comma before it.
        assert len(batch) == most or request_bytes([*batch, following[0]]) >= limit


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


# --- Whatever Iterable answers

answers = st.tuples(
    st.sampled_from([200, 200, 200, 207, 302, 400, 401, 404, 409, 413, 429, 500, 503]),
    st.builds(
        lambda document, failures, code: {**document, "failCount": failures, "code": code},
        documents,
        st.integers(0, 4) | st.none(),
        st.sampled_from([None, "Success", "BadJsonBody", "BatchTooLarge", "ForgottenUserError"]),
    ),
)


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
        # What is still to be made has no verdict, also if a stop comes before it is made.
        open_calls = [call for call in (row.profile, row.event) if call.send]
        assert {call.outcome.status for call in open_calls} <= NO_VERDICT
        # Its profile is there: only its event is open.
        assert row.profile.body in proven or row.next_call is not row.event
    assert asked < 20
