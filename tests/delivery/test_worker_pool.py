"""Every row gets one outcome, whatever happens to the others."""

import threading
from functools import partial

import pytest

from delivery import worker_pool
from delivery.outage import OUTAGE_ROWS, Outage
from delivery.pipeline import GROUP_ROWS, in_groups
from delivery.stopping import Stop
from records.exit_statuses import StopReason
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, RowOutcome, RowStatus, outcome_of
from tests.rows import deliver_rows, make_prepared, make_row

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
DOWN = CallOutcome(CallStatus.UNAVAILABLE, 503, None, 5)
KEY_REFUSED = CallOutcome(CallStatus.REFUSED, 401, "BadApiKey", 1)
ROWS = [make_row(number) for number in range(1, 5)]


@pytest.fixture
def deliver(tmp_path):
    return partial(deliver_rows, tmp_path)


def sender(second_row):
    def process(batch):
        return [outcome(prepared) for prepared in batch]

    def outcome(prepared):
        update = second_row if prepared.customer_id == 2 else OK
        if isinstance(update, Exception):
            raise update
        return outcome_of(prepared, update, OK)

    return process


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_one_rows_failure_does_not_stop_the_others(deliver):
    outcomes = statuses(deliver(ROWS, sender(BAD), Stop()))
    assert outcomes == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.SUCCESSFUL,
        RowStatus.SUCCESSFUL,
    ]


def test_a_refused_key_stops_the_run_and_the_rest_is_not_attempted(deliver):
    stop = Stop()
    outcomes = sorted(deliver(ROWS, sender(KEY_REFUSED), stop))
    assert stop.reason is StopReason.KEY_REFUSED
    assert statuses(outcomes) == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.NOT_ATTEMPTED,
        RowStatus.NOT_ATTEMPTED,
    ]
    assert outcomes[3].email == "user4@example.com"
    assert outcomes[3].users_update == NOT_SENT


def test_a_stop_lets_no_new_row_begin(deliver):
    stop = Stop()

    def process(batch):
        stop.request(StopReason.SIGTERM)
        stop.request(StopReason.SIGINT)
        return sender(OK)(batch)

    outcomes = sorted(deliver(ROWS, process, stop))
    assert statuses(outcomes) == [RowStatus.SUCCESSFUL] + 3 * [RowStatus.NOT_ATTEMPTED]
    assert stop.reason is StopReason.SIGTERM
    assert stop.wait(60)


def test_as_many_rows_are_in_flight_as_there_are_workers(deliver):
    together = threading.Barrier(4, timeout=5)

    def process(batch):
        together.wait()
        return sender(OK)(batch)

    outcomes = deliver(ROWS, process, Stop(), workers=4, head_start_s=0.001)
    assert statuses(outcomes) == 4 * [RowStatus.SUCCESSFUL]


def test_rows_are_taken_only_as_fast_as_they_are_delivered(deliver):
    taken = 0

    def rows():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield make_row(number)

    most = 3 + worker_pool.WAITING_BATCHES + GROUP_ROWS
    for number, _ in enumerate(deliver(rows(), sender(OK), Stop(), workers=3)):
        assert taken - number <= most


def test_when_nobody_takes_the_outcomes_any_more_nothing_new_begins(deliver):
    begun = []

    def process(batch):
        begun.append(batch)
        return sender(OK)(batch)

    outcomes = deliver([make_row(n) for n in range(100)], process, Stop(), workers=2)
    next(outcomes)
    outcomes.close()
    assert len(begun) <= 2 + worker_pool.WAITING_BATCHES


def test_rows_come_in_batches(deliver):
    sizes = []

    def process(batch):
        sizes.append(len(batch))
        return sender(OK)(batch)

    assert len(list(deliver(ROWS, process, Stop(), batch_size=3))) == 4
    assert sizes == [3, 1]
    assert list(in_groups([], 3)) == []


def test_rows_that_need_not_be_sent_have_their_outcome_without_a_thread(deliver):
    def process(batch):
        pytest.fail("nothing to send")

    rows = [make_row(1, email=None)]
    (outcome,) = deliver(rows, process, Stop())
    assert outcome.status is RowStatus.TOTAL_FAILURE


def test_what_is_in_flight_when_the_grace_is_over_is_unknown_and_the_rest_is_not_attempted(
    deliver, monkeypatch
):
    monkeypatch.setattr(worker_pool, "GRACE_S", 0.05)
    stop, release = Stop(), threading.Event()

    def process(batch):
        stop.request(StopReason.SIGTERM)
        release.wait(30)
        return sender(OK)(batch)

    try:
        rows = [make_row(number) for number in range(1, 201)]
        outcomes = list(deliver(rows, process, stop, workers=2, head_start_s=0.01))
    finally:
        release.set()
    assert len(outcomes) == len({outcome.customer_id for outcome in outcomes}) == 200
    unknown = [o for o in outcomes if o.users_update.status is CallStatus.UNKNOWN]
    assert 1 <= len(unknown) <= 2
    assert all(o.status is RowStatus.NOT_ATTEMPTED for o in outcomes if o not in unknown)


def test_iterable_being_down_stops_the_run(deliver):
    stop = Stop()
    rows = [make_row(number) for number in range(3 * OUTAGE_ROWS)]

    def process(batch):
        return [outcome_of(prepared, DOWN, NOT_SENT) for prepared in batch]

    outcomes = statuses(deliver(rows, process, stop))
    assert stop.reason is StopReason.OUTAGE
    assert f"last {OUTAGE_ROWS} rows" in stop.detail
    failed = outcomes.count(RowStatus.TOTAL_FAILURE)
    assert OUTAGE_ROWS <= failed <= OUTAGE_ROWS + worker_pool.WAITING_BATCHES + 1
    assert outcomes.count(RowStatus.NOT_ATTEMPTED) == len(rows) - failed


@pytest.mark.parametrize(("down", "reason"), [(400, None), (600, StopReason.OUTAGE)])
def test_two_batches_without_an_answer_are_no_outage_and_three_are(deliver, down, reason):
    rows, stop = [make_row(number) for number in range(800)], Stop()

    def process(batch):
        update = DOWN if batch[0].customer_id < down else OK
        return [outcome_of(prepared, update, OK) for prepared in batch]

    assert len(list(deliver(rows, process, stop, batch_size=200))) == 800
    assert stop.reason is reason


def test_an_outage_is_seen_although_the_answer_after_it_arrives_together_with_it():
    stop = Stop()
    down = [outcome_of(make_prepared(number), DOWN, NOT_SENT) for number in range(OUTAGE_ROWS)]
    Outage(stop, 1).watch([*down, outcome_of(make_prepared(), OK, OK)])
    assert stop.reason is StopReason.OUTAGE


def test_an_answer_now_and_then_is_no_outage(deliver):
    stop = Stop()

    def process(batch):
        (prepared,) = batch
        answered = prepared.customer_id % (OUTAGE_ROWS - 1) == 0
        return [outcome_of(prepared, BAD if answered else DOWN, NOT_SENT)]

    rows = [make_row(number) for number in range(3 * OUTAGE_ROWS)]
    assert len(list(deliver(rows, process, stop))) == len(rows)
    assert stop.reason is None


def test_a_bug_is_raised_only_after_every_row_has_its_outcome(deliver):
    outcomes: list[RowOutcome] = []
    delivered = deliver(ROWS, sender(ZeroDivisionError()), Stop())
    with pytest.raises(ZeroDivisionError):
        outcomes.extend(delivered)
    outcomes.sort()
    assert statuses(outcomes) == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.NOT_ATTEMPTED,
        RowStatus.NOT_ATTEMPTED,
    ]
    assert outcomes[1].users_update.status is CallStatus.UNKNOWN
