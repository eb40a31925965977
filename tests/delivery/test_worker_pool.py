"""Threads that send batches: as many as are needed, and none of them can lose a batch."""

import threading
import time

import pytest

from delivery import worker_pool
from delivery.bulk import OpenRow
from delivery.stopping import Stop
from delivery.worker_pool import ENOUGH_WAITING, WorkerPool
from records.exit_statuses import StopReason
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, RowStatus, outcome_of
from tests.rows import make_prepared

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
UNKNOWN = CallOutcome(CallStatus.UNKNOWN, 200)


def send(row):
    return outcome_of(row, OK, OK)


def one_by_one(process, stop, workers, waiting=lambda: 0):
    """Return a pool that sends every row singly."""
    return WorkerPool(stop, process, None, workers, waiting)


def batches(count):
    return [[make_prepared(number)] for number in range(count)]


def rest_of(pool):
    """Return the outcomes of all that is in flight."""
    outcomes = []
    while pool.busy:
        outcomes += pool.take()
    return outcomes


def run(pool, work):
    """Send *work* through the pool; return the outcomes and the most threads that there were."""
    outcomes, threads = [], 0
    with pool:
        for batch in work:
            pool.submit(batch)
            while pool.full:
                outcomes += pool.take()
            threads = max(threads, len(pool._threads))
        outcomes += rest_of(pool)
    return outcomes, threads


@pytest.mark.parametrize(("rows", "workers", "most"), [(3, 100, 3), (50, 4, 4)])
def test_no_more_threads_are_started_than_there_are_batches(rows, workers, most):
    def slow(row):
        time.sleep(0.01)
        return send(row)

    pool = one_by_one(slow, Stop(), workers)
    outcomes, threads = run(pool, batches(rows))
    assert (len(outcomes), threads) == (rows, most)


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_system_that_gives_no_more_threads_makes_the_run_slower_and_nothing_else(
    monkeypatch, allowed, warned
):
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def scarce(self):
        if self.name == "delivery":
            if len(started) >= allowed:
                raise RuntimeError("can't start new thread")
            started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    pool = one_by_one(send, Stop(), 50)
    outcomes, threads = run(pool, batches(100))
    assert sorted(out.customer_id for out in outcomes) == list(range(100))
    assert threads == allowed
    assert warned[-1].startswith("The system gives no more threads")


def test_no_more_rows_are_sent_singly_than_the_limiter_has_use_for():
    waiting, together, most = [ENOUGH_WAITING - 2], [], 0

    def slow(row):
        nonlocal most
        together.append(row)
        most = max(most, len(together))
        time.sleep(0.01)
        together.remove(row)
        return send(row)

    pool = one_by_one(slow, Stop(), 50, lambda: waiting[0])
    with pool:
        pool.take()
        pool.submit([make_prepared(number) for number in range(9)])
        assert pool.full
        waiting[0] = ENOUGH_WAITING
        time.sleep(0.05)
        assert len(pool.take()) == 2
        assert pool.take() == []
        # By now there is use for more: that is noticed soon, and not when the next outcome comes.
        waiting[0] = 0
        outcomes = rest_of(pool)
    assert len(outcomes) == 7
    assert most >= 5


def test_rows_that_a_batch_leaves_open_are_sent_singly():
    taken = []

    def send_batch(batch):
        first, *others = batch
        return [send(first)], list(map(OpenRow, others))

    def send_one(row):
        taken.append(row.customer_id)
        return send(row)

    pool = WorkerPool(Stop(), send_one, send_batch, 50, lambda: 0)
    outcomes, _ = run(pool, [[make_prepared(n) for n in range(100)]])
    assert sorted(taken) == list(range(1, 100))
    assert sorted(out.customer_id for out in outcomes) == list(range(100))
    assert pool.left_open


def test_a_stop_gives_open_rows_the_outcome_that_the_batch_left_them():
    stop = Stop()

    def send_batch(batch):
        stop.request(StopReason.SIGTERM)
        return [], [OpenRow(batch[0]), OpenRow(batch[1], UNKNOWN)]

    pool = WorkerPool(stop, send, send_batch, 50, lambda: 0)
    outcomes, _ = run(pool, [[make_prepared(1), make_prepared(2)]])
    assert [out.users_update for out in outcomes] == [NOT_SENT, UNKNOWN]


@pytest.fixture
def given_up(monkeypatch):
    """Return what submits batches to a worker that hangs, and stops the run: the pool gives up."""
    monkeypatch.setattr(worker_pool, "GRACE_S", 0.01)
    stop, release = Stop(), threading.Event()

    def process(row):
        release.wait(5)
        return send(row)

    with one_by_one(process, stop, 1) as pool:

        def submit(*some):
            for batch in some:
                pool.submit(batch)
            time.sleep(0.05)
            stop.request(StopReason.SIGTERM)
            time.sleep(0.05)
            return pool

        yield submit
    release.set()


def test_what_has_not_begun_when_the_grace_is_over_was_not_sent(given_up):
    outcomes = rest_of(given_up(*batches(5)))
    assert [out.status for out in outcomes] == [
        RowStatus.TOTAL_FAILURE,
        *[RowStatus.NOT_ATTEMPTED] * 4,
    ]
    assert outcomes[0].users_update.status is CallStatus.UNKNOWN


def test_an_event_that_hangs_leaves_the_profile_known_that_was_known_before(given_up):
    outcomes = rest_of(given_up([make_prepared()._replace(users_update=OK)]))
    assert outcomes[0].users_update == OK
    assert outcomes[0].events_track.status is CallStatus.UNKNOWN


def test_large_batches_are_in_flight_only_as_far_as_memory_allows(monkeypatch):
    """Memory is bounded by bytes, whatever the rows are like."""
    monkeypatch.setattr(worker_pool, "MOST_BYTES", 100_000)
    together, most = [], 0

    def slow(row):
        nonlocal most
        together.append(row)
        most = max(most, len(together))
        time.sleep(0.005)
        together.remove(row)
        return send(row)

    pool = one_by_one(slow, Stop(), 9)
    large = [[make_prepared(number, first_name=30_000 * "x")] for number in range(9)]
    outcomes, _ = run(pool, large)
    assert len(outcomes) == 9
    assert 2 <= most <= 4


def test_what_was_given_up_takes_no_room_any_more(monkeypatch, given_up):
    """Or whoever waits for room would wait for ever."""
    monkeypatch.setattr(worker_pool, "MOST_BYTES", 1000)
    pool = given_up([make_prepared()])
    assert pool.full
    assert len(pool.take()) == 1
    assert not pool.full
