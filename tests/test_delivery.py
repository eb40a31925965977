"""Every row gets one outcome, whatever happens to the others."""

import threading

import pytest

import delivery
from delivery import Stop, StopReason, deliver, parcels_of
from outcomes import NOT_SENT, CallOutcome, CallStatus, RowOutcome, RowStatus
from tests.rows import make_row

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
KEY_REFUSED = CallOutcome(CallStatus.REFUSED, 401, "BadApiKey", 1)
ROWS = [make_row(number) for number in range(1, 5)]


def deliver_rows(rows, process, stop, *, workers=1, size=1):
    """Deliver one after another, so that the outcomes come in the rows' order."""
    return deliver(parcels_of(rows, size), process, stop, workers=workers, head_start_s=None)


def sender(second_row):
    def process(parcel):
        return [outcome_of(row) for row in parcel]

    def outcome_of(row):
        update = second_row if row["customer_id"] == 2 else OK
        if isinstance(update, Exception):
            raise update
        return RowOutcome(row["customer_id"], row["email"], update, OK)

    return process


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_one_rows_failure_does_not_stop_the_others():
    outcomes = statuses(deliver_rows(ROWS, sender(BAD), Stop()))
    assert outcomes == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.SUCCESSFUL,
        RowStatus.SUCCESSFUL,
    ]


def test_a_refused_key_stops_the_run_and_the_rest_is_not_attempted():
    stop = Stop()
    outcomes = list(deliver_rows(ROWS, sender(KEY_REFUSED), stop))
    assert stop.reason is StopReason.KEY_REFUSED
    assert statuses(outcomes) == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.NOT_ATTEMPTED,
        RowStatus.NOT_ATTEMPTED,
    ]
    assert outcomes[3].email == "user4@example.com"
    assert outcomes[3].users_update == NOT_SENT


def test_a_stop_lets_no_new_row_begin():
    stop = Stop()

    def process(parcel):
        stop.request(StopReason.SIGTERM)
        stop.request(StopReason.SIGINT)
        return sender(OK)(parcel)

    outcomes = list(deliver_rows(ROWS, process, stop))
    assert statuses(outcomes) == [RowStatus.SUCCESSFUL] + 3 * [RowStatus.NOT_ATTEMPTED]
    assert stop.reason is StopReason.SIGTERM
    assert stop.wait(60)


def test_as_many_rows_are_in_flight_as_there_are_workers():
    together = threading.Barrier(4, timeout=5)

    def process(parcel):
        together.wait()
        return sender(OK)(parcel)

    parcels = parcels_of(ROWS, 1)
    outcomes = deliver(parcels, process, Stop(), workers=4, head_start_s=0.001)
    assert statuses(outcomes) == 4 * [RowStatus.SUCCESSFUL]


def test_rows_are_taken_only_as_fast_as_they_are_delivered():
    taken = 0

    def rows():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield make_row(number)

    for number, _ in enumerate(deliver_rows(rows(), sender(OK), Stop(), workers=3), 1):
        assert taken - number <= 3 + delivery.READY


def test_when_nobody_takes_the_outcomes_any_more_nothing_new_begins():
    begun = []

    def process(parcel):
        begun.append(parcel)
        return sender(OK)(parcel)

    outcomes = deliver_rows([make_row(n) for n in range(100)], process, Stop(), workers=2)
    next(outcomes)
    outcomes.close()
    assert len(begun) <= 2 + delivery.READY


def test_rows_come_in_parcels():
    assert [len(parcel) for parcel in parcels_of(ROWS, 3)] == [3, 1]
    assert list(parcels_of([], 3)) == []


def test_a_bug_is_raised_only_after_every_row_has_its_outcome():
    outcomes: list[RowOutcome] = []
    delivery = deliver_rows(ROWS, sender(ZeroDivisionError()), Stop())
    with pytest.raises(ZeroDivisionError):
        outcomes.extend(delivery)
    assert statuses(outcomes) == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.NOT_ATTEMPTED,
        RowStatus.NOT_ATTEMPTED,
    ]
    assert outcomes[1].users_update.status is CallStatus.UNKNOWN
