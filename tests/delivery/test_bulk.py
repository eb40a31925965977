"""Bulk mode: every row is told the truth, however little Iterable says."""

import json
import random
from dataclasses import replace

import pytest

from delivery.batching import BatchLimits, packed
from delivery.bulk import BulkDelivery
from delivery.refusals import RefusalWatch
from delivery.stopping import Stop
from iterable_api.answers import user_not_found
from iterable_client import IterableClient
from records.exit_statuses import StopReason
from records.outcomes import (
    NOT_SENT,
    SUPERSEDED,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    RowStatus,
)
from records.outcomes import Fault as At
from sandbox.faults import Fault
from tests.brisk import hurry
from tests.rows import make_prepared

USERS, EVENTS = "users/bulkUpdate", "events/trackBulk"
CALLS = {USERS: "users_update", EVENTS: "events_track"}
DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN


SPEED = 1000


class Bulk:
    """Delivers rows through the bulk endpoints. ``on_wait`` is called when a call is to pause."""

    def __init__(self, iterable, size=1000, body_bytes=4_000_000):
        self.iterable = iterable
        self.stop = Stop()
        self.limits = BatchLimits(size, body_bytes)
        self.on_wait = lambda: None
        self.client = IterableClient(
            "key", iterable.url, max_attempts=2, wait=self.wait, rate_share=1000
        )
        self.delivery = BulkDelivery(self.client, self.stop, self.limits, RefusalWatch(self.stop))

    def wait(self, seconds):
        self.on_wait()
        return self.stop.wait(seconds / SPEED)

    def __call__(self, rows):
        """Return the outcomes of *rows*, by their numbers."""
        outcomes = [out for batch in packed(rows, self.limits) for out in self.process(batch)]
        assert [outcome.prepared for outcome in outcomes] == list(rows)
        return {outcome.customer_id: outcome for outcome in outcomes}

    def process(self, batch):
        """Deliver one batch as it is."""
        return self.delivery.process(batch)

    @property
    def requests(self):
        """How many requests there were, by endpoint."""
        stats = self.iterable.stats["requests"]
        assert stats.keys() <= CALLS.keys()
        return {name: sum(stats.get(name, {}).values()) for name in CALLS}


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
    return {n: getattr(outcome, CALLS[endpoint]) for n, outcome in outcomes.items()}


def numbers(outcomes, endpoint, *statuses):
    return {n for n, call in calls(outcomes, endpoint).items() if call.status in statuses}


def not_successful(outcomes):
    return {n for n, outcome in outcomes.items() if outcome.status is not RowStatus.SUCCESSFUL}


def answer(body, endpoint=USERS, status=200, **which):
    """Return a fault: *endpoint* answers *body*."""
    return Fault("answer", endpoint=endpoint, status=status, body=json.dumps(body), **which)


def counts(successes, failures, **lists):
    return {"successCount": successes, "failCount": failures, "failedUpdates": lists}


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
    assert bulk.requests == {USERS: 3, EVENTS: 3}
    assert len(iterable.users) == len(iterable.events) == 250
    first = json.loads(iterable.requests[0].body)["users"]
    assert (len(first), first[7]) == (100, json.loads(rows[7].user))
    event = iterable.events[outcomes[7].event_id]
    assert event.data_fields == json.loads(rows[7].event)["dataFields"]
    assert all(event.user_existed for event in iterable.events.values())


def test_a_call_whose_outcome_is_known_is_not_made(bulk, iterable):
    bulk.client.update_users([make_prepared(n).user for n in (1, 2)])
    wrong = CallOutcome(REFUSED, message="email is empty", fault=At.ROW)
    rows = [
        make_prepared(1)._replace(users_update=UNCHANGED),
        make_prepared(2)._replace(users_update=SUPERSEDED),
        make_prepared(3)._replace(events_track=UNCHANGED),
        make_prepared(4)._replace(users_update=UNCHANGED, events_track=UNCHANGED),
        make_prepared(5)._replace(users_update=wrong),
        make_prepared(6),
    ]
    outcomes = bulk(rows)
    assert {n: (o.users_update.status, o.events_track.status) for n, o in outcomes.items()} == {
        1: ("unchanged", "delivered"),
        2: ("superseded", "delivered"),
        3: ("delivered", "unchanged"),
        4: ("unchanged", "unchanged"),
        5: ("refused", "not_sent"),
        6: ("delivered", "delivered"),
    }
    users, events = (json.loads(request.body) for request in iterable.requests[1:])
    assert [user["email"][4] for user in users["users"]] == ["3", "6"]
    assert [event["email"][4] for event in events["events"]] == ["1", "2", "6"]


def test_no_call_to_make_is_no_request(bulk):
    rows = [make_prepared()._replace(users_update=UNCHANGED, events_track=UNCHANGED)]
    assert bulk(rows)[1].status is RowStatus.UNCHANGED
    assert bulk.requests == {USERS: 0, EVENTS: 0}


# --- A batch that was taken, with rows that were not


@pytest.mark.parametrize("echo_lower_case", [True, False])
def test_a_row_that_is_listed_as_failed_has_the_verdict_of_its_list(
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
    invalid, forgotten = outcomes[2], outcomes[3]
    assert outcomes[1].status is RowStatus.SUCCESSFUL
    assert (invalid.users_update.status, invalid.users_update.fault) == (REFUSED, At.ROW)
    assert invalid.users_update.code == "invalidEmails"
    assert forgotten.status is RowStatus.FORGOTTEN
    assert (forgotten.users_update.status, forgotten.users_update.code) == (
        FORGOTTEN,
        "forgottenEmails",
    )
    assert forgotten.events_track is invalid.events_track is NOT_SENT
    assert len(iterable.events) == 1


def test_a_person_who_is_forgotten_between_two_calls_is_no_failure(bulk, iterable):
    bulk.client.update_users([make_prepared(1).user])
    iterable.forget("user1@example.com")
    rows = [make_prepared(1)._replace(users_update=UNCHANGED), make_prepared(2)]
    outcomes = bulk(rows)
    assert outcomes[1].events_track.status is FORGOTTEN
    assert outcomes[2].status is RowStatus.SUCCESSFUL


def test_a_value_of_the_wrong_type_is_the_field_s_fault(bulk, iterable):
    iterable.change(mismatch_rejects_batch=False)
    bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":1}}'])
    outcomes = bulk([make_prepared(1, first_name=None), make_prepared(2)])
    call = outcomes[2].users_update
    assert (call.status, call.fault, call.code) == (REFUSED, At.FIELD, "invalidDataEmails")
    assert outcomes[1].status is RowStatus.SUCCESSFUL


def test_an_event_of_a_user_who_is_not_found_is_no_row_s_fault(bulk, iterable):
    listed = counts(2, 1, notFoundEmails=["User1@example.com"])
    iterable.set_faults(answer(listed, EVENTS))
    outcomes = bulk(rows_of(3))
    call = outcomes[1].events_track
    assert (call.status, call.fault, call.code) == (UNAVAILABLE, At.ITERABLE, "notFoundEmails")
    assert user_not_found(call)
    assert "sent again later" in call.message
    assert not_successful(outcomes) == {1}
    assert bulk.requests == {USERS: 1, EVENTS: 1}


@pytest.mark.parametrize("disallowed_counted", [True, False])
def test_a_blocked_event_name_is_the_project_s_fault_and_known_after_one_request(
    bulk, iterable, disallowed_counted
):
    iterable.change(disallowed_counted=disallowed_counted)
    iterable.disallow("page_view")
    outcomes = bulk(rows_of(5))
    for call in calls(outcomes, EVENTS).values():
        assert (call.status, call.fault) == (UNAVAILABLE, At.PROJECT)
        assert call.code == "disallowedEventNames"
    assert bulk.requests == {USERS: 1, EVENTS: 1}


@pytest.mark.parametrize("bad", [{37}, {0, 1, 2, 99}, {5, 50, 51, 98}])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        # Iterable names the address that stands in the way, which is none of ours.
        (b'{"email":"user%d@example.com","dataFields":{"email":"boss@x.com"}}', "conflictEmails"),
        # It can name nobody.
        (b'{"userId":null,"dataFields":{"n":"%d"}}', None),
    ],
)
def test_failures_that_iterable_counts_and_does_not_name_are_found(bulk, iterable, bad, body, code):
    bulk.client.update_users([b'{"email":"boss@x.com"}'])
    rows = rows_of(100)
    for number in bad:
        rows[number] = rows[number]._replace(user=body % number)
    outcomes = bulk(rows)
    assert numbers(outcomes, USERS, DELIVERED) == set(range(100)) - bad
    for number in bad:
        call = outcomes[number].users_update
        assert (call.status, call.fault, call.code) == (REFUSED, At.ROW, code)
    assert len(iterable.events) == 100 - len(bad)


def test_a_batch_of_which_every_row_is_counted_as_failed_takes_one_request(bulk, iterable):
    iterable.set_faults(answer(counts(0, 10)))
    outcomes = bulk(rows_of(10))
    assert numbers(outcomes, USERS, REFUSED) == set(range(10))
    assert bulk.requests == {USERS: 1, EVENTS: 0}


def test_fields_that_the_project_filters_out_are_told_of_the_rows_that_have_them(bulk, iterable):
    bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":"x"}}'])
    iterable.change(create_new_fields=False)
    rows = [
        make_prepared(1),
        make_prepared(2, plan_type=None),
        make_prepared(3, email="no address"[:2]),
    ]
    outcomes = bulk(rows)
    others = (("recent_page_view", "filtered out"), ("candidate", "filtered out"))
    fields = {n: set(call.fields) for n, call in calls(outcomes).items()}
    assert fields == {1: {("plan_type", "filtered out"), *others}, 2: {*others}, 3: set()}
    assert outcomes[1].status is RowStatus.SUCCESSFUL


@pytest.mark.parametrize("name", ["a_field", 70 * "n"])
def test_of_many_or_long_fields_that_are_filtered_out_none_is_overlooked(bulk, iterable, name):
    names = [*(f"other{number}" for number in range(20)), name]
    iterable.set_faults(answer({**counts(1, 0), "filteredOutFields": names}))
    row = make_prepared(1)
    outcomes = bulk([row._replace(user=row.user.replace(b"first_name", name.encode()))])
    assert calls(outcomes)[1].fields == ((name[:64], "filtered out"),)


# --- A batch that is refused for the sake of some rows


def poison(number, endpoint=USERS, **which):
    """Refuse every batch with this row in it, saying nothing of which row it is."""
    body = {"msg": "no such thing", "code": "BadJsonBody", "params": None}
    return answer(body, endpoint, 400, **of_row(number), **which)


@pytest.mark.parametrize("where", [0, 499, 732, 999])
@pytest.mark.parametrize("endpoint", [USERS, EVENTS])
def test_one_bad_row_among_a_thousand_is_found_in_sixteen_requests(bulk, iterable, where, endpoint):
    iterable.set_faults(poison(where, endpoint))
    outcomes = bulk(rows_of(1000))
    assert not_successful(outcomes) == {where}
    call = calls(outcomes, endpoint)[where]
    assert (call.status, call.code, call.message) == (REFUSED, "BadJsonBody", "no such thing")
    assert bulk.requests[endpoint] <= 16


def spread(rows, bad, how):
    """Return the numbers of *bad* rows among *rows*, spread at random, evenly or not at all."""
    chosen = {
        "random": random.Random(bad).sample(range(rows), bad),
        "evenly": [number * rows // bad for number in range(bad)],
        "first": range(bad),
    }
    return set(chosen[how])


@pytest.mark.parametrize(
    ("how", "bad", "quoted", "most"),
    # The most is 2 k log2(n / k), and a tenth more for the third of bad rows.
    [
        *(("random", 1, 5, 20), ("random", 45, 100, 403), ("random", 300, 700, 1146)),
        *(("evenly", 45, 100, 403), ("first", 45, 100, 403), ("first", 300, 700, 1146)),
    ],
)
@pytest.mark.parametrize("quotes", [True, False])
def test_bad_rows_cost_no_good_row_and_few_requests(bulk, iterable, how, bad, quoted, most, quotes):
    # Another client made first_name a number for good.
    bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":1}}'])
    wrong = spread(1000, bad, how)
    if not quotes:
        iterable.set_faults(*(poison(number) for number in wrong))
    rows = [
        make_prepared(n, first_name=f"Name {n}" if n in wrong and quotes else None)
        for n in range(1000)
    ]
    before = bulk.requests[USERS]
    outcomes = bulk(rows)
    assert numbers(outcomes, USERS, REFUSED) == wrong
    assert numbers(outcomes, USERS, DELIVERED) == set(range(1000)) - wrong
    assert bulk.requests[USERS] - before <= (quoted if quotes else most)
    assert bulk.stop.reason is None


def mismatch(**values):
    """Return a refusal that quotes the offending value of each field."""
    errors = {
        name: {"offendingValue": value, "expectedType": "date"} for name, value in values.items()
    }
    params = {"validationErrors": errors}
    return {"msg": "wrong type", "code": "RequestFieldsTypesMismatched", "params": params}


def test_rows_with_the_offending_value_are_refused_at_once(bulk):
    bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":1}}'])
    before = bulk.requests[USERS]
    rows = rows_of(1000, first_name=None)
    for number in range(0, 1000, 20):
        rows[number] = make_prepared(number, first_name="Zoë")
    # The same text in another field is no offence.
    rows[7] = make_prepared(7, first_name=None, plan_type="Zoë")
    outcomes = bulk(rows)
    assert numbers(outcomes, USERS, REFUSED) == set(range(0, 1000, 20))
    assert outcomes[40].users_update.fields == (("first_name", "long"),)
    assert bulk.requests[USERS] - before <= 4
    assert len(outcomes) - len(numbers(outcomes, USERS, DELIVERED)) == 50


def test_a_value_of_another_type_is_not_the_offending_value(bulk, iterable):
    # 1 == True, but not in JSON.
    body = mismatch(recent_page_view=1, first_name="Zoë")
    iterable.set_faults(answer(body, status=400, **of_row(3)))
    rows = rows_of(8)
    rows[3] = make_prepared(3, first_name="Zoë")
    outcomes = bulk(rows)
    assert numbers(outcomes, USERS, REFUSED) == {3}
    assert numbers(outcomes, USERS, DELIVERED) == set(range(8)) - {3}


def test_a_person_who_is_forgotten_may_refuse_a_whole_batch(bulk, iterable):
    body = {"msg": "", "code": "ForgottenUserError", "params": None}
    iterable.set_faults(answer(body, status=409, **of_row(3)))
    outcomes = bulk(rows_of(10))
    assert not_successful(outcomes) == {3}
    assert outcomes[3].status is RowStatus.FORGOTTEN


def test_two_rows_of_one_address_each_have_their_own_verdict(bulk, iterable):
    bulk.client.update_users([make_prepared(1).user])
    bulk.client.track_events(
        [b'{"email":"user1@example.com","eventName":"page_view","dataFields":{"browser":1}}']
    )
    known = {"email": "user1@example.com", "browser": None}
    rows = [
        make_prepared(1, **known),
        make_prepared(2, **known | {"browser": "Chrome"}),
        make_prepared(3, **known),
    ]
    outcomes = bulk([row._replace(users_update=SUPERSEDED) for row in rows])
    assert numbers(outcomes, EVENTS, REFUSED) == {2}
    assert numbers(outcomes, EVENTS, DELIVERED) == {1, 3}


# --- Every row is refused


@pytest.mark.parametrize("endpoint", [USERS, EVENTS])
@pytest.mark.parametrize("size", [10, 1000])
def test_when_every_row_is_refused_the_run_stops_and_names_the_field(iterable, endpoint, size):
    iterable.change(limits=False)
    bulk = Bulk(iterable, size)
    # Another client made first_name, or location, a number for good.
    bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":1}}'])
    field, rows = "first_name", [make_prepared(n, first_name=f"Name{n}") for n in range(3000)]
    if endpoint == EVENTS:
        wrong = b'{"email":"a@b.com","eventName":"page_view","dataFields":{"location":1}}'
        bulk.client.track_events([wrong])
        field = "location"
        rows = [make_prepared(n, first_name=None, location=f"City{n}") for n in range(3000)]
    before = bulk.requests[endpoint]
    outcomes = bulk(rows)
    assert bulk.requests[endpoint] - before <= 51
    assert bulk.stop.reason is StopReason.EVERY_ROW_REFUSED
    assert f"{field!r} as long" in bulk.stop.detail
    assert "Name" not in bulk.stop.detail
    assert "City" not in bulk.stop.detail
    assert len(numbers(outcomes, endpoint, REFUSED)) == 50
    assert len(numbers(outcomes, endpoint, CallStatus.NOT_SENT)) == 2950


def test_rows_are_tried_all_over_a_batch_before_all_are_called_refused(bulk, iterable):
    iterable.set_faults(*(poison(number) for number in range(200)))
    outcomes = bulk(rows_of(300))
    assert numbers(outcomes, USERS, REFUSED) == set(range(200))
    assert numbers(outcomes, USERS, DELIVERED) == set(range(200, 300))
    assert bulk.stop.reason is None


def test_once_a_row_was_accepted_not_all_are_refused(bulk, iterable):
    iterable.set_faults(*(poison(number) for number in range(1, 100)))
    bulk.process([make_prepared(0)])
    outcomes = bulk(rows_of(100))
    assert numbers(outcomes, USERS, REFUSED) == set(range(1, 100))
    assert bulk.stop.reason is None


def test_a_few_rows_that_are_all_refused_are_each_told_why(bulk, iterable):
    iterable.set_faults(*(poison(number) for number in range(3)))
    outcomes = bulk(rows_of(3))
    assert {call.code for call in calls(outcomes).values()} == {"BadJsonBody"}
    assert bulk.stop.reason is None


def test_rows_that_are_all_listed_for_a_field_stop_the_run_too(bulk, iterable):
    iterable.change(mismatch_rejects_batch=False)
    bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":1}}'])
    outcomes = bulk(rows_of(100))
    assert {call.code for call in calls(outcomes).values()} == {"invalidDataEmails"}
    assert bulk.stop.reason is StopReason.EVERY_ROW_REFUSED


def test_bad_addresses_do_not_stop_the_run(bulk):
    outcomes = bulk([make_prepared(n, email=f"nobody{n}") for n in range(100)])
    assert {call.code for call in calls(outcomes).values()} == {"invalidEmails"}
    assert bulk.stop.reason is None


# --- No row's fault


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (401, "BadApiKey", At.KEY),
        (403, "Forbidden", At.PROJECT),
        (400, "UniqueFieldsLimitExceeded", At.PROJECT),
        (404, "NotFound", At.PROJECT),
    ],
)
@pytest.mark.parametrize("endpoint", [USERS, EVENTS])
def test_a_reason_that_cannot_lie_in_a_row_is_known_after_one_request(
    bulk, iterable, status, code, fault, endpoint
):
    iterable.set_faults(answer({"code": code, "msg": "no"}, endpoint, status))
    outcomes = bulk(rows_of(200))
    for call in calls(outcomes, endpoint).values():
        assert (call.status, call.fault, call.http_status) == (UNAVAILABLE, fault, status)
    assert bulk.requests[endpoint] == 1


def test_a_refused_key_stops_before_the_second_batch(iterable):
    iterable.change(api_key="another", limits=False)
    bulk = Bulk(iterable, 10)
    outcomes = bulk(rows_of(30))
    assert len(numbers(outcomes, USERS, UNAVAILABLE)) == 10
    assert len(numbers(outcomes, USERS, CallStatus.NOT_SENT)) == 20
    assert outcomes[0].key_refused
    assert bulk.requests == {USERS: 1, EVENTS: 0}


def test_the_project_s_fault_in_the_midst_of_a_search_costs_one_request_more(bulk, iterable):
    forbidden = answer({"code": "Forbidden", "msg": "no"}, status=403, skip=20)
    iterable.set_faults(forbidden, *(poison(n) for n in range(0, 100, 5)))
    outcomes = bulk(rows_of(100))
    assert bulk.requests[USERS] == 22
    assert len(numbers(outcomes, USERS, UNAVAILABLE)) > 50
    assert numbers(outcomes, USERS, REFUSED) <= set(range(0, 100, 5))
    assert numbers(outcomes, USERS, CallStatus.NOT_SENT) == set()


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (answer({"code": "Forbidden", "msg": "no"}, status=403, skip=11), 13),
        # Each of the five further ones twice, and the row that was tried alone.
        (Fault("server_error", endpoint=USERS, skip=11), 23),
    ],
)
def test_rows_are_not_tried_one_by_one_when_none_of_them_is_why(bulk, iterable, fault, requests):
    # Nothing was accepted yet: the next rows would go alone, to see whether all are refused.
    iterable.set_faults(fault, poison(0))
    outcomes = bulk(rows_of(1000))
    assert numbers(outcomes, USERS, REFUSED) == {0}
    assert numbers(outcomes, USERS, UNAVAILABLE) == set(range(1, 1000))
    assert bulk.requests[USERS] == requests


@pytest.mark.parametrize(
    ("fault", "status", "requests"),
    [
        (Fault("server_error"), UNAVAILABLE, 10),
        (Fault("gateway", status=502), UNAVAILABLE, 10),
        # A firewall's page.
        (Fault("gateway", status=403), UNAVAILABLE, 10),
        (Fault("garbage"), UNKNOWN, 10),
        (answer(counts(0, 0), endpoint=None), UNKNOWN, 10),
        (answer({"code": "Success", "msg": ""}, endpoint=None), UNKNOWN, 10),
        # What got no answer was not answered for the sake of a row.
        (Fault("reset_before"), UNKNOWN, 2),
    ],
)
def test_when_nothing_is_settled_it_is_iterable_and_no_row(bulk, iterable, fault, status, requests):
    iterable.set_faults(fault)
    outcomes = bulk(rows_of(1000))
    assert numbers(outcomes, USERS, status) == set(range(1000))
    # The batch, its halves and a row of each: all twice, as the client repeats them.
    assert bulk.requests == {USERS: requests, EVENTS: 0}


UNSETTLED = [
    Fault("server_error"),
    Fault("gateway", status=403),
    Fault("garbage"),
    answer(counts(0, 0), endpoint=None),
]


@pytest.mark.parametrize("fault", UNSETTLED, ids=lambda fault: f"{fault.kind}-{fault.status}")
@pytest.mark.parametrize(
    ("endpoint", "bad"),
    # One in the middle of a half is the one that is tried alone.
    [(EVENTS, {7}), (USERS, {0, 99}), (USERS, {3, 50, 51, 52}), (EVENTS, {25, 60})],
)
def test_a_row_for_which_nothing_is_settled_is_found(bulk, iterable, fault, endpoint, bad):
    iterable.set_faults(*(replace(fault, endpoint=endpoint, **of_row(n)) for n in bad))
    outcomes = bulk(rows_of(100))
    assert not_successful(outcomes) == bad
    status = UNKNOWN if fault.kind in {"garbage", "answer"} else UNAVAILABLE
    assert numbers(outcomes, endpoint, status) == bad
    assert len(iterable.events) == 100 - len(bad)


def test_passing_faults_are_outlived(bulk, iterable):
    iterable.set_faults(Fault("reset_after", times=1), Fault("server_error", skip=1, times=1))
    assert not_successful(bulk(rows_of(20))) == set()
    assert len(iterable.events) == 20


# --- Too large


@pytest.mark.parametrize("too_large_as_json", [True, False])
def test_a_batch_that_is_too_large_goes_in_parts_and_the_next_ones_are_smaller(
    iterable, too_large_as_json
):
    # As if Iterable drew the line where we do not expect it.
    iterable.change(limits=False, too_large_as_json=too_large_as_json)
    bulk = Bulk(iterable, body_bytes=10_000_000)
    rows = [make_prepared(n, first_name="x" * 30_000, location="x" * 30_000) for n in range(600)]
    outcomes = bulk.process(rows[:300])
    assert {outcome.status for outcome in outcomes} == {RowStatus.SUCCESSFUL}
    # 9 MB, and half of it; then what passed.
    users = iterable.stats["requests"][USERS]
    assert users["413"] == 2
    assert users["200"] <= 5
    assert iterable.stats["requests"][EVENTS].keys() == {"200"}
    # One that was packed before goes in parts at once.
    outcomes = bulk.process(rows[300:])
    assert {outcome.status for outcome in outcomes} == {RowStatus.SUCCESSFUL}
    assert iterable.stats["requests"][USERS]["413"] == 2
    assert bulk.limits.rows == 1000


def test_a_batch_of_too_many_rows_goes_in_parts(bulk, iterable):
    iterable.set_faults(answer({"code": "BatchTooLarge", "msg": ""}, status=400, times=1))
    assert not_successful(bulk(rows_of(1000))) == set()
    assert bulk.requests == {USERS: 3, EVENTS: 2}
    assert (bulk.limits.rows, bulk.limits.body_bytes) == (500, 4_000_000)


def test_large_rows_fill_requests_and_none_is_too_large(bulk, iterable):
    rows = [make_prepared(n, first_name="é" * 5_000, location="x" * 30_000) for n in range(300)]
    assert not_successful(bulk(rows)) == set()
    assert {request.status for request in iterable.requests} == {200}
    assert max(len(request.body) for request in iterable.requests) <= 4_000_000
    assert bulk.requests == {USERS: 3, EVENTS: 3}


def test_a_row_too_large_for_any_request_is_refused_by_itself(bulk):
    rows = [make_prepared(1), make_prepared(2, first_name="x" * 4_100_000), make_prepared(3)]
    outcomes = bulk(rows)
    assert not_successful(outcomes) == {2}
    call = outcomes[2].users_update
    assert (call.status, call.fault, call.http_status) == (REFUSED, At.ROW, 413)
    assert (bulk.limits.rows, bulk.limits.body_bytes) == (1000, 4_000_000)


# --- The run is to stop


def stop_at_first_pause(bulk):
    bulk.on_wait = lambda: bulk.stop.request(StopReason.SIGTERM)


def test_a_run_that_stops_in_a_search_tells_what_is_known_of_each_row(bulk, iterable):
    # The batch is refused, its first half is taken, then Iterable fails and the run stops.
    iterable.set_faults(
        Fault("server_error", endpoint=USERS, skip=2, times=1), poison(90, times=1000)
    )
    stop_at_first_pause(bulk)
    outcomes = bulk(rows_of(100))
    assert numbers(outcomes, USERS, DELIVERED) == set(range(50))
    assert numbers(outcomes, USERS, UNAVAILABLE) == set(range(50, 75))
    assert numbers(outcomes, USERS, CallStatus.NOT_SENT) == set(range(75, 100))
    assert numbers(outcomes, USERS, REFUSED) == set()
    assert bulk.requests == {USERS: 3, EVENTS: 0}


def test_rows_of_a_taken_batch_with_unknown_failures_may_have_landed(bulk, iterable):
    rows = rows_of(100)
    rows[90] = rows[90]._replace(user=b'{"dataFields":{}}')
    iterable.set_faults(Fault("server_error", endpoint=USERS, skip=1, times=1))
    stop_at_first_pause(bulk)
    outcomes = bulk(rows)
    assert numbers(outcomes, USERS, UNKNOWN) == set(range(100))
    assert {o.users_update.http_status for o in outcomes.values()} == {200, 500}
    assert len(iterable.users) == 99


def test_after_a_stop_nothing_is_sent(bulk):
    bulk.stop.request(StopReason.DEADLINE)
    assert numbers(bulk(rows_of(3)), USERS, CallStatus.NOT_SENT) == {0, 1, 2}
    assert bulk.requests == {USERS: 0, EVENTS: 0}
