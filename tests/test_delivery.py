"""Every row gets one outcome, whatever happens to the others."""

import pytest

from delivery import Stop, StopReason, deliver
from outcomes import NOT_SENT, CallOutcome, CallStatus, RowOutcome, RowStatus
from tests.rows import make_row

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
KEY_REFUSED = CallOutcome(CallStatus.REFUSED, 401, "BadApiKey", 1)
ROWS = [make_row(number) for number in range(1, 5)]


def sender(second_row):
    def process(row):
        update = second_row if row["customer_id"] == 2 else OK
        if isinstance(update, Exception):
            raise update
        return RowOutcome(row["customer_id"], row["email"], update, OK)

    return process


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_one_rows_failure_does_not_stop_the_others():
    outcomes = statuses(deliver(ROWS, sender(BAD), Stop()))
    assert outcomes == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.SUCCESSFUL,
        RowStatus.SUCCESSFUL,
    ]


def test_a_refused_key_stops_the_run_and_the_rest_is_not_attempted():
    stop = Stop()
    outcomes = list(deliver(ROWS, sender(KEY_REFUSED), stop))
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
    outcomes = []
    for outcome in deliver(ROWS, sender(OK), stop):
        outcomes.append(outcome)
        stop.request(StopReason.SIGTERM)
        stop.request(StopReason.SIGINT)
    assert statuses(outcomes) == [RowStatus.SUCCESSFUL] + 3 * [RowStatus.NOT_ATTEMPTED]
    assert stop.reason is StopReason.SIGTERM
    assert stop.wait(60)


def test_a_bug_is_raised_only_after_every_row_has_its_outcome():
    outcomes: list[RowOutcome] = []
    delivery = deliver(ROWS, sender(ZeroDivisionError()), Stop())
    with pytest.raises(ZeroDivisionError):
        outcomes.extend(delivery)
    assert statuses(outcomes) == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.NOT_ATTEMPTED,
        RowStatus.NOT_ATTEMPTED,
    ]
    assert outcomes[1].users_update.status is CallStatus.UNKNOWN
