"""Every row gets one outcome, whatever happens to the others."""

import threading

import pytest

from delivery import worker_pool
from delivery.stopping import OUTAGE_ROWS, Outage, Stop, StopReason
from delivery.worker_pool import batches_of, deliver
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, RowOutcome, RowStatus, outcome_of
from tests.rows import make_row, make_task, plan_all

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
DOWN = CallOutcome(CallStatus.UNAVAILABLE, 503, None, 5)
KEY_REFUSED = CallOutcome(CallStatus.REFUSED, 401, "BadApiKey", 1)
ROWS = [make_row(number) for number in range(1, 5)]


def deliver_rows(rows, process, stop, *, workers=1, **options):
    """Deliver one after another, so that the outcomes come in the rows' order."""
    options = {"head_start_s": None, "plan": plan_all, **options}
    lists = deliver(rows, process=process, stop=stop, workers=workers, **options)
    return (outcome for outcomes in lists for outcome in outcomes)


def sender(second_row):
    def process(parcel):
        return [outcome(task) for task in parcel]

    def outcome(task):
        update = second_row if task.customer_id == 2 else OK
        if isinstance(update, Exception):
            raise update
        return outcome_of(task, update, OK)

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
    outcomes = sorted(deliver_rows(ROWS, sender(KEY_REFUSED), stop))
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

    outcomes = sorted(deliver_rows(ROWS, process, stop))
    assert statuses(outcomes) == [RowStatus.SUCCESSFUL] + 3 * [RowStatus.NOT_ATTEMPTED]
    assert stop.reason is StopReason.SIGTERM
    assert stop.wait(60)


def test_as_many_rows_are_in_flight_as_there_are_workers():
    together = threading.Barrier(4, timeout=5)

    def process(parcel):
        together.wait()
        return sender(OK)(parcel)

    outcomes = deliver_rows(ROWS, process, Stop(), workers=4, head_start_s=0.001)
    assert statuses(outcomes) == 4 * [RowStatus.SUCCESSFUL]


def test_rows_are_taken_only_as_fast_as_they_are_delivered():
    taken = 0

    def rows():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield make_row(number)

    most = 3 + worker_pool.READY + worker_pool.PLANNED_AT_ONCE
    for number, _ in enumerate(deliver_rows(rows(), sender(OK), Stop(), workers=3)):
        assert taken - number <= most


def test_when_nobody_takes_the_outcomes_any_more_nothing_new_begins():
    begun = []

    def process(parcel):
        begun.append(parcel)
        return sender(OK)(parcel)

    outcomes = deliver_rows([make_row(n) for n in range(100)], process, Stop(), workers=2)
    next(outcomes)
    outcomes.close()
    assert len(begun) <= 2 + worker_pool.READY


def test_rows_come_in_parcels():
    sizes = []

    def process(parcel):
        sizes.append(len(parcel))
        return sender(OK)(parcel)

    assert len(list(deliver_rows(ROWS, process, Stop(), parcel_size=3))) == 4
    assert sizes == [3, 1]
    assert list(batches_of([], 3)) == []


def test_rows_that_need_not_be_sent_are_settled_without_a_thread():
    def process(parcel):
        pytest.fail("nothing to send")

    rows = [make_row(1, email=None)]
    (outcome,) = deliver_rows(rows, process, Stop())
    assert outcome.status is RowStatus.TOTAL_FAILURE


def test_what_is_in_flight_when_the_grace_is_over_is_unknown_and_the_rest_is_not_attempted():
    stop, release = Stop(), threading.Event()

    def process(parcel):
        stop.request(StopReason.SIGTERM)
        release.wait(30)
        return sender(OK)(parcel)

    try:
        rows = [make_row(number) for number in range(1, 201)]
        outcomes = list(
            deliver_rows(rows, process, stop, workers=2, head_start_s=0.01, grace_s=0.05)
        )
    finally:
        release.set()
    assert len(outcomes) == len({outcome.customer_id for outcome in outcomes}) == 200
    unknown = [o for o in outcomes if o.users_update.status is CallStatus.UNKNOWN]
    assert 1 <= len(unknown) <= 2
    assert all(o.status is RowStatus.NOT_ATTEMPTED for o in outcomes if o not in unknown)


def test_iterable_being_down_stops_the_run():
    stop = Stop()
    rows = [make_row(number) for number in range(3 * OUTAGE_ROWS)]

    def process(parcel):
        return [outcome_of(task, DOWN, NOT_SENT) for task in parcel]

    outcomes = statuses(deliver_rows(rows, process, stop))
    assert stop.reason is StopReason.OUTAGE
    assert f"last {OUTAGE_ROWS} rows" in stop.detail
    failed = outcomes.count(RowStatus.TOTAL_FAILURE)
    assert OUTAGE_ROWS <= failed <= OUTAGE_ROWS + worker_pool.READY + 1
    assert outcomes.count(RowStatus.NOT_ATTEMPTED) == len(rows) - failed


@pytest.mark.parametrize(("down", "reason"), [(400, None), (600, StopReason.OUTAGE)])
def test_two_batches_without_an_answer_are_no_outage_and_three_are(down, reason):
    rows, stop = [make_row(number) for number in range(800)], Stop()

    def process(parcel):
        update = DOWN if parcel[0].customer_id < down else OK
        return [outcome_of(task, update, OK) for task in parcel]

    assert len(list(deliver_rows(rows, process, stop, parcel_size=200))) == 800
    assert stop.reason is reason


def test_an_outage_is_seen_although_the_answer_after_it_arrives_together_with_it():
    stop = Stop()
    down = [outcome_of(make_task(number), DOWN, NOT_SENT) for number in range(OUTAGE_ROWS)]
    Outage(stop, 1).look_at([*down, outcome_of(make_task(), OK, OK)])
    assert stop.reason is StopReason.OUTAGE


def test_an_answer_now_and_then_is_no_outage():
    stop = Stop()

    def process(parcel):
        (task,) = parcel
        answered = task.customer_id % (OUTAGE_ROWS - 1) == 0
        return [outcome_of(task, BAD if answered else DOWN, NOT_SENT)]

    rows = [make_row(number) for number in range(3 * OUTAGE_ROWS)]
    assert len(list(deliver_rows(rows, process, stop))) == len(rows)
    assert stop.reason is None


def test_a_bug_is_raised_only_after_every_row_has_its_outcome():
    outcomes: list[RowOutcome] = []
    delivery = deliver_rows(ROWS, sender(ZeroDivisionError()), Stop())
    with pytest.raises(ZeroDivisionError):
        outcomes.extend(delivery)
    outcomes.sort()
    assert statuses(outcomes) == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.NOT_ATTEMPTED,
        RowStatus.NOT_ATTEMPTED,
    ]
    assert outcomes[1].users_update.status is CallStatus.UNKNOWN
