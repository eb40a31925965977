"""Threads that send batches: as many as are needed, and none of them can lose a batch."""

import itertools
import threading

import pytest

from delivery import worker_pool
from delivery.stopping import Stop
from delivery.worker_pool import ENOUGH_BATCHES_WAITING, ENOUGH_WAITING, WorkerPool
from records.exit_statuses import StopReason
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, RowStatus
from tests.results import OK
from tests.rows import answered, in_order, make_prepared, no_waits, settled

UNKNOWN = CallOutcome(CallStatus.UNKNOWN, 200)


def send(rows):
    for row in rows:
        answered(row, OK, OK)


def one_by_one(process, stop, workers, waiting=no_waits):
    """Return a pool that sends every row singly."""
    return WorkerPool(stop, process, None, workers, waiting)


def batches(count):
    return [[make_prepared(number)] for number in range(count)]


def run(pool, work):
    """Send *work* through the pool; return the outcomes in the order of their rows."""
    with pool:
        return in_order(row for rows in pool.send(work) for row in rows)


def numbers(rows):
    return [row.customer_id for row in rows]


def meeting(barrier):
    """Return what sends a row once as many threads are there as *barrier* waits for."""

    def process(rows):
        barrier.wait(30)
        send(rows)

    return process


@pytest.mark.parametrize(("rows", "workers"), [(3, 100), (48, 4)])
def test_as_many_rows_are_sent_together_as_there_are_workers(rows, workers):
    pool = one_by_one(meeting(threading.Barrier(min(rows, workers))), Stop(), workers)
    assert numbers(run(pool, batches(rows))) == list(range(rows))
    assert len(pool._threads._threads) == min(rows, workers)
    pool.stop.raise_bug()


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_system_that_gives_no_more_threads_stops_the_run_and_loses_no_row(monkeypatch, allowed):
    start, begun = threading.Thread.start, itertools.count()
    sent: list[int] = []

    def scarce(self):
        if next(begun) >= allowed:
            raise RuntimeError("can't start new thread")
        start(self)

    def process(rows):
        sent.extend(numbers(rows))
        send(rows)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    stop = Stop()
    rows = run(one_by_one(process, stop, 50), batches(40))
    assert numbers(rows) == list(range(40))
    for row in rows:
        # Nobody knows it of a row for which there was no thread.
        if row.profile.outcome.status is not CallStatus.UNKNOWN:
            assert (row.customer_id in sent) == (row.status is RowStatus.SUCCESSFUL)
    with pytest.raises(RuntimeError, match="start new thread"):
        stop.raise_bug()


def test_no_more_rows_are_sent_singly_than_the_limiter_has_use_for():
    waiting = ENOUGH_WAITING
    barrier = threading.Barrier(5)
    with one_by_one(meeting(barrier), Stop(), 50, lambda: (waiting, 0)) as pool:
        sending = pool.send(batches(30))
        assert [next(sending), next(sending)] == [[], []]
        assert (barrier.n_waiting, pool._singles) == (0, {})
        # By now there is use for more: that is noticed soon.
        waiting = 0
        assert sum(map(len, sending)) == 30
    pool.stop.raise_bug()


def test_a_single_row_does_not_wait_for_others():
    """Most rows of most nights are unchanged: the next one to be sent may come late."""
    sent = threading.Event()

    def work():
        yield [make_prepared(1)]
        assert sent.wait(30)
        yield [make_prepared(2)]

    def process(rows):
        sent.set()
        send(rows)

    assert len(run(one_by_one(process, Stop(), 50), work())) == 2


def test_rows_that_a_batch_leaves_open_are_sent_singly(monkeypatch):
    """No more batches are sent while there are many of them."""
    monkeypatch.setattr(worker_pool, "MOST_OPEN", 10)
    taken: list[int] = []
    waited: list[int] = []

    def send_batch(batch):
        send(batch[:1])

    def send_singly(rows):
        taken.extend(numbers(rows))
        send(rows)

    def work():
        for first in (0, 100):
            yield [make_prepared(n) for n in range(first, first + 100)]
            waited.append(len(taken))

    def one_batch_at_a_time():
        return 0, ENOUGH_BATCHES_WAITING if pool._batches else 0

    pool = WorkerPool(Stop(), send_singly, send_batch, 50, one_batch_at_a_time)
    assert numbers(run(pool, work())) == list(range(200))
    assert sorted(taken) == [n for n in range(200) if n % 100]
    assert waited[0] > 99 - 10 - 50


def test_a_stop_gives_open_rows_the_outcome_that_the_batch_left_them():
    stop = Stop()

    def send_batch(batch):
        stop.request(StopReason.SIGTERM)
        batch[1].profile.outcome = UNKNOWN

    pool = WorkerPool(stop, send, send_batch, 50, no_waits)
    outcomes = run(pool, [[make_prepared(1), make_prepared(2)]])
    assert [out.profile.outcome for out in outcomes] == [NOT_SENT, UNKNOWN]


@pytest.fixture
def release():
    """Yield what lets the threads of a test go on."""
    event = threading.Event()
    yield event
    event.set()


def test_when_the_grace_is_over_calls_in_flight_are_unknown_and_others_not_sent(
    monkeypatch, release
):
    monkeypatch.setattr(worker_pool, "GRACE_S", 0.05)
    stop = Stop()

    def hang(rows):
        if rows[0].customer_id == 1:
            stop.request(StopReason.SIGTERM)
        call = rows[0].next_call
        release.wait(30)
        call.settle(OK)

    pool = one_by_one(hang, stop, 2)
    work = [[settled(make_prepared(0), OK)], *batches(40)[1:]]
    first, second, *others = run(pool, work)
    # What comes later changes no outcome.
    release.set()
    pool._threads.shutdown()
    # Its profile was delivered before.
    assert (first.profile.outcome, first.event.outcome.status) == (OK, "unknown")
    assert (second.profile.outcome.status, second.event.outcome) == ("unknown", NOT_SENT)
    assert [row.status for row in others] == [RowStatus.NOT_ATTEMPTED] * 38


@pytest.mark.parametrize("waiting", [True, False])
def test_no_more_batches_are_in_flight_than_there_is_use_for(waiting, release):
    def send_batch(batch):
        release.wait(30)
        send(batch)

    def in_flight():
        return 0, len(pool._batches) if waiting else 0

    with WorkerPool(Stop(), send, send_batch, 1, in_flight) as pool:
        sending = pool.send(batches(12))
        assert next(sending) == []
        most = ENOUGH_BATCHES_WAITING if waiting else worker_pool.MOST_BATCHES
        assert len(pool._batches) == most
        release.set()
        assert sum(map(len, sending)) == 12
