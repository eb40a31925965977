"""Bulk mode: every row is told the truth, however little Iterable says."""

import json

import pytest

import delivery.bulk
from delivery import bulk_bisection
from delivery.bulk import BulkDelivery
from delivery.stopping import Stop
from iterable_api.payloads import Payloads
from iterable_client import IterableClient
from records.exit_statuses import StopReason
from records.outcomes import CallStatus, RowStatus
from sandbox.faults import Fault
from tests.rows import deliver_rows, make_row

BULK = {"/api/users/bulkUpdate", "/api/events/trackBulk"}


class Bulk:
    """Delivers rows through the bulk endpoints, and keeps what came of it."""

    def __init__(self, iterable, folder):
        self.iterable = iterable
        self.folder = folder
        self.stop = Stop()
        self.client = IterableClient(
            "key",
            iterable.url,
            payloads=Payloads("db"),
            max_attempts=2,
            wait=lambda seconds: self.stop.wait(seconds / 1000),
            rate_share=1000,
        )

    def __call__(self, rows, size=1000):
        process = BulkDelivery(self.client, self.stop).process
        delivered = deliver_rows(self.folder, rows, process, self.stop, workers=4, batch_size=size)
        outcomes = list(delivered)
        assert len(outcomes) == len(rows)
        assert {request.path for request in self.iterable.requests} <= BULK
        return {outcome.customer_id: outcome for outcome in outcomes}


@pytest.fixture
def bulk(iterable, tmp_path):
    iterable.change(limits=False)
    return Bulk(iterable, tmp_path)


def rows_of(count):
    return [make_row(number) for number in range(count)]


def refused(outcomes):
    return {n for n, outcome in outcomes.items() if outcome.status is not RowStatus.SUCCESSFUL}


def test_rows_go_in_batches_and_hold_what_single_requests_hold(bulk, iterable):
    outcomes = bulk(rows_of(250), size=100)
    assert refused(outcomes) == set()
    assert len(iterable.requests) == 6
    assert len(iterable.users) == len(iterable.events) == 250
    first = json.loads(iterable.requests[0].body)["users"]
    assert (len(first), first[7]) == (100, Payloads("db").user(make_row(7)))
    event = iterable.events[outcomes[7].event_id]
    assert event.data_fields == Payloads("db").event(make_row(7))["dataFields"]
    assert all(event.user_existed for event in iterable.events.values())


@pytest.mark.parametrize("echo_lower_case", [True, False])
def test_a_user_that_is_listed_as_failed_is_refused_and_gets_no_event(
    bulk, iterable, echo_lower_case
):
    iterable.change(echo_lower_case=echo_lower_case)
    iterable.forget("gone@example.com")
    rows = [make_row(1), make_row(2, email="Not.An.Email"), make_row(3, email="Gone@Example.com")]
    outcomes = bulk(rows)
    assert refused(outcomes) == {2, 3}
    assert outcomes[2].users_update.code == "invalidEmails"
    assert outcomes[3].users_update.code == "forgottenEmails"
    assert outcomes[3].events_track.status is CallStatus.NOT_SENT
    assert len(iterable.events) == 1


@pytest.mark.parametrize("disallowed_counted", [True, False])
def test_a_disallowed_event_is_a_partial_failure_of_each_row(bulk, iterable, disallowed_counted):
    iterable.change(disallowed_counted=disallowed_counted)
    iterable.disallow("page_view")
    outcomes = bulk(rows_of(5))
    assert {outcome.status for outcome in outcomes.values()} == {RowStatus.PARTIAL_FAILURE}
    assert outcomes[0].events_track.code == "disallowedEventNames"


def test_two_rows_with_one_email_are_both_told_the_truth(bulk, iterable):
    # first_name is a date in this project: the first row fits, the other one does not.
    iterable.change(mismatch_rejects_batch=False)
    bulk.client.update_users([b'{"email":"pin@x.com","dataFields":{"first_name":"2026-01-13"}}'])
    rows = [
        make_row(1, email="A@x.com", first_name="2020-02-02"),
        make_row(2, first_name="2020-02-02"),
        make_row(3, email="a@X.com", first_name="Sarah"),
    ]
    outcomes = bulk(rows)
    assert refused(outcomes) == {3}
    assert outcomes[3].users_update.code == "invalidDataEmails"
    assert len(iterable.events) == 2


def counts(successes, failures, **lists):
    return json.dumps({"successCount": successes, "failCount": failures, "failedUpdates": lists})


def test_failures_that_iterable_does_not_name_are_found(bulk, iterable):
    # The list names an address that is none of ours, as it does for a conflict.
    iterable.set_faults(
        Fault(
            "answer",
            endpoint="users/bulkUpdate",
            email="user37@example.com",
            applied=True,
            status=200,
            body=counts(1, 1, conflictEmails=["someone@example.com"]),
        )
    )
    outcomes = bulk(rows_of(100))
    assert refused(outcomes) == {37}
    assert outcomes[37].users_update.code == "conflictEmails"


def test_failures_that_cannot_be_found_are_not_called_successes(bulk, iterable, monkeypatch):
    monkeypatch.setattr(bulk_bisection, "MAX_REQUESTS", 5)
    iterable.set_faults(Fault("answer", endpoint="users/bulkUpdate", status=200, body=counts(1, 1)))
    outcomes = bulk(rows_of(64))
    assert refused(outcomes) == set(range(64))
    statuses = {outcome.users_update.status for outcome in outcomes.values()}
    assert statuses <= {CallStatus.UNKNOWN, CallStatus.REFUSED}


def test_a_batch_that_fails_as_a_whole_is_refused_as_a_whole(bulk, iterable):
    iterable.set_faults(
        Fault("answer", endpoint="users/bulkUpdate", status=200, body=counts(0, 10))
    )
    outcomes = bulk(rows_of(10))
    assert refused(outcomes) == set(range(10))
    assert len(iterable.requests) == 1


def poison(row_number, **answer):
    """Refuse every batch with this row in it, saying nothing of which row it is."""
    body = json.dumps({"msg": "no such thing", "code": "BadJsonBody", "params": None})
    return Fault("answer", email=f"user{row_number}@example.com", status=400, body=body, **answer)


@pytest.mark.parametrize(
    ("where", "rows"),
    [*((where, 1000) for where in (0, 1, 499, 732, 998, 999)), (7321, 10_000)],
)
@pytest.mark.parametrize("endpoint", ["users/bulkUpdate", "events/trackBulk"])
def test_one_poison_row_is_found_in_15_requests(bulk, iterable, where, rows, endpoint):
    iterable.set_faults(poison(where, endpoint=endpoint))
    outcomes = bulk(rows_of(rows))
    assert refused(outcomes) == {where}
    call = outcomes[where].users_update
    if endpoint == "events/trackBulk":
        call = outcomes[where].events_track
    assert (call.status, call.code, call.message) == (
        CallStatus.REFUSED,
        "BadJsonBody",
        "no such thing",
    )
    assert len(iterable.requests) <= 2 * rows / 1000 + 15


def test_a_poison_row_whose_value_is_quoted_is_found_at_once(bulk, iterable):
    wrong = {"first_name": {"offendingValue": "Zoë", "expectedType": "date"}}
    answer = {
        "msg": "Project 1: wrong type",
        "code": "RequestFieldsTypesMismatched",
        "params": {"validationErrors": wrong},
    }
    iterable.set_faults(
        Fault(
            "answer",
            endpoint="users/bulkUpdate",
            email="user500@example.com",
            status=400,
            body=json.dumps(answer),
        )
    )
    rows = rows_of(1000)
    rows[500]["first_name"] = "Zoë"
    assert refused(bulk(rows)) == {500}
    # The batch, the row, one more to see whether all are refused, the others; and the events.
    assert len(iterable.requests) == 5


def test_several_poison_rows_are_all_found(bulk, iterable):
    bad = {3, 4, 77, 500, 999}
    iterable.set_faults(*(poison(number, endpoint="users/bulkUpdate") for number in bad))
    assert refused(bulk(rows_of(1000))) == bad


@pytest.mark.parametrize("endpoint", ["users/bulkUpdate", "events/trackBulk"])
def test_when_every_row_is_poison_the_run_stops_and_names_the_field(bulk, iterable, endpoint):
    # Another client made first_name, or location, a number for good.
    wrong = b'{"email":"a@b.com","eventName":"page_view","dataFields":{"location":1}}'
    if endpoint == "users/bulkUpdate":
        bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":1}}'])
        field = "first_name"
    else:
        bulk.client.update_users([b'{"email":"a@b.com"}'])
        bulk.client.track_events([wrong])
        field = "location"
    before = len(iterable.requests)
    rows = [make_row(n, first_name=f"Name{n}", location=f"Place {n}") for n in range(5000)]
    outcomes = bulk(rows)
    assert len(iterable.requests) - before <= 20
    assert bulk.stop.reason is StopReason.EVERY_ROW_REFUSED
    assert field in bulk.stop.detail
    assert "long" in bulk.stop.detail
    statuses = [outcome.status for outcome in outcomes.values()]
    assert statuses.count(RowStatus.SUCCESSFUL) == 0
    assert statuses.count(RowStatus.NOT_ATTEMPTED) >= 4000
    assert statuses.count(RowStatus.TOTAL_FAILURE) <= 20


def test_a_few_rows_that_are_all_refused_are_each_told_why(bulk, iterable):
    iterable.set_faults(*(poison(number) for number in range(3)))
    outcomes = bulk(rows_of(3))
    assert {o.users_update.code for o in outcomes.values()} == {"BadJsonBody"}
    assert bulk.stop.reason is None


def test_rows_that_iterable_lists_one_by_one_do_not_stop_the_run(bulk, iterable):
    iterable.change(mismatch_rejects_batch=False)
    bulk.client.update_users([b'{"email":"a@b.com","dataFields":{"first_name":1}}'])
    outcomes = bulk(rows_of(100))
    assert {o.users_update.code for o in outcomes.values()} == {"invalidDataEmails"}
    assert bulk.stop.reason is None


@pytest.mark.parametrize("too_large_as_json", [True, False])
def test_a_batch_that_is_too_large_is_halved_until_it_passes(
    bulk, iterable, monkeypatch, too_large_as_json
):
    iterable.change(too_large_as_json=too_large_as_json)
    # As if Iterable drew the line where we do not expect it.
    monkeypatch.setattr(delivery.bulk, "MAX_BYTES", 100_000_000)
    rows = [make_row(n, first_name="x" * 30_000, location="x" * 30_000) for n in range(300)]
    assert refused(bulk(rows)) == set()
    assert {request.status for request in iterable.requests} == {200, 413}


def test_batches_stay_under_four_million_bytes(bulk, iterable):
    rows = [make_row(n, first_name="é" * 5_000, location="x" * 30_000) for n in range(300)]
    assert refused(bulk(rows)) == set()
    assert {request.status for request in iterable.requests} == {200}
    assert max(len(request.body) for request in iterable.requests) <= 4_000_000
    assert len(iterable.requests) <= 8


def test_a_row_too_large_for_any_request_is_refused_by_itself(bulk, iterable):
    rows = [make_row(1), make_row(2, first_name="x" * 4_100_000), make_row(3)]
    outcomes = bulk(rows)
    assert refused(outcomes) == {2}
    assert outcomes[2].users_update.http_status == 413


def test_a_row_that_cannot_be_encoded_does_not_touch_its_batch(bulk, iterable):
    outcomes = bulk([make_row(1), make_row(2, email=None), make_row(3)])
    assert refused(outcomes) == {2}
    assert outcomes[2].users_update.message == "email is empty"


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("server_error"), CallStatus.UNAVAILABLE),
        (Fault("gateway", status=502), CallStatus.UNAVAILABLE),
        (Fault("reset_before"), CallStatus.UNKNOWN),
        (Fault("garbage"), CallStatus.UNKNOWN),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_batch_without_an_answer_is_reported_as_it_is(bulk, iterable, fault, status):
    iterable.set_faults(fault)
    outcomes = bulk(rows_of(20))
    assert {outcome.users_update.status for outcome in outcomes.values()} == {status}
    # The batch, and when it is Iterable that fails also its halves and a row of each: all twice.
    assert len(iterable.requests) == (10 if status is CallStatus.UNAVAILABLE else 2)


@pytest.mark.parametrize("endpoint", ["users/bulkUpdate", "events/trackBulk"])
@pytest.mark.parametrize("bad", [{7}, {0, 99}, {3, 50, 51, 52}])
def test_a_row_that_iterable_fails_at_is_unavailable_by_itself(bulk, iterable, endpoint, bad):
    iterable.set_faults(
        *(Fault("server_error", email=f"user{n}@example.com", endpoint=endpoint) for n in bad)
    )
    outcomes = bulk(rows_of(100))
    failed = {n for n, outcome in outcomes.items() if outcome.status is not RowStatus.SUCCESSFUL}
    assert failed == bad
    call = "users_update" if endpoint.startswith("users") else "events_track"
    assert {getattr(outcomes[n], call).status for n in bad} == {CallStatus.UNAVAILABLE}
    assert len(iterable.events) == 100 - len(bad)


def test_passing_faults_are_outlived(bulk, iterable):
    iterable.set_faults(Fault("reset_after", times=1), Fault("server_error", skip=1, times=1))
    assert refused(bulk(rows_of(20))) == set()
    assert len(iterable.events) == 20


def test_a_refused_key_stops_before_the_second_batch(bulk, iterable):
    iterable.change(api_key="another")
    outcomes = bulk(rows_of(30), size=10)
    assert len(iterable.requests) == 1
    statuses = [outcome.status for outcome in outcomes.values()]
    assert (statuses.count(RowStatus.TOTAL_FAILURE), statuses.count(RowStatus.NOT_ATTEMPTED)) == (
        10,
        20,
    )
