"""Threads that send batches: as many as are needed, and none of them can lose a batch."""

import threading
import time

import pytest

from delivery import worker_pool
from delivery.stopping import Stop
from delivery.worker_pool import ENOUGH_WAITING, WAITING_BATCHES, WorkerPool
from records.exit_statuses import StopReason
from records.outcomes import CallOutcome, CallStatus, RowStatus, outcome_of
from tests.rows import make_prepared

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)


def send(batch):
    return [outcome_of(row, OK, OK) for row in batch]


def no_requests():
    """Return how many requests wait for the rate limiter."""
    return 0


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
    def slow(batch):
        time.sleep(0.01)
        return send(batch)

    pool = WorkerPool(slow, Stop(), workers=workers, waiting=no_requests, head_start_s=0.001)
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
    pool = WorkerPool(send, Stop(), workers=50, waiting=no_requests, head_start_s=0.001)
    outcomes, threads = run(pool, batches(100))
    assert sorted(out.customer_id for out in outcomes) == list(range(100))
    assert threads == allowed
    assert warned[-1].startswith("The system gives no more threads")


def test_the_first_batch_goes_alone_until_it_is_done():
    alone = threading.Event()
    begun = []

    def process(batch):
        begun.append(batch)
        if len(begun) == 1:
            time.sleep(0.05)
            assert len(begun) == 1
            alone.set()
        return send(batch)

    outcomes, _ = run(
        WorkerPool(process, Stop(), workers=4, waiting=no_requests, head_start_s=None), batches(20)
    )
    assert alone.is_set()
    assert len(outcomes) == 20


def test_the_first_batch_goes_alone_only_until_there_is_an_answer():
    answered, others_begun = threading.Event(), threading.Event()
    alone = []

    def process(batch):
        if batch[0].customer_id:
            others_begun.set()
        else:
            alone.append(not others_begun.wait(0.03))
            answered.set()
            alone.append(others_begun.wait(5))
        return send(batch)

    pool = WorkerPool(
        process,
        Stop(),
        workers=4,
        waiting=no_requests,
        head_start_s=60.0,
        answered=answered.is_set,
    )
    outcomes, _ = run(pool, batches(5))
    assert alone == [True, True]
    assert len(outcomes) == 5


def test_a_first_batch_without_an_answer_does_not_hold_up_the_others_for_ever():
    others_begun = threading.Event()

    def process(batch):
        if batch[0].customer_id:
            others_begun.set()
        else:
            assert others_begun.wait(5)
        return send(batch)

    pool = WorkerPool(process, Stop(), workers=4, waiting=no_requests, head_start_s=0.02)
    outcomes, _ = run(pool, batches(5))
    assert (len(outcomes), pool.bugs) == (5, [])


def test_a_few_batches_wait_and_no_more():
    release = threading.Event()

    def process(batch):
        release.wait(5)
        return send(batch)

    pool = WorkerPool(process, Stop(), workers=2, waiting=no_requests, head_start_s=0.0)
    with pool:
        submitted = 0
        for batch in batches(100):
            if pool.full:
                break
            pool.submit(batch)
            submitted += 1
        assert submitted == 2 + WAITING_BATCHES
        release.set()
        rest_of(pool)


def test_room_that_new_workers_make_is_used_at_once(monkeypatch):
    """And not when the next outcome comes, which at a high latency is much later."""
    monkeypatch.setattr(worker_pool, "POLL_S", 5.0)
    count, waiting = 2 * WAITING_BATCHES, [ENOUGH_WAITING]
    all_begun = threading.Barrier(count, timeout=2)

    def together(batch):
        all_begun.wait()
        return send(batch)

    pool = WorkerPool(together, Stop(), workers=100, waiting=lambda: waiting[0], head_start_s=0.0)
    outcomes = []
    with pool:
        for batch in batches(count):
            waiting[0] = ENOUGH_WAITING
            pool.submit(batch)
            # By the time that there is no more room, the rate limiter has use for more workers.
            waiting[0] = 0
            while pool.full:
                outcomes += pool.take()
        outcomes += rest_of(pool)
    assert [outcome.status for outcome in outcomes] == [RowStatus.SUCCESSFUL] * count


@pytest.fixture
def given_up(monkeypatch):
    """Return what submits batches to a worker that hangs, and stops the run: the pool gives up."""
    monkeypatch.setattr(worker_pool, "GRACE_S", 0.01)
    stop, release = Stop(), threading.Event()

    def process(batch):
        release.wait(5)
        return send(batch)

    with WorkerPool(process, stop, workers=1, waiting=no_requests, head_start_s=0.0) as pool:

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

    def slow(batch):
        nonlocal most
        together.append(batch)
        most = max(most, len(together))
        time.sleep(0.005)
        together.remove(batch)
        return send(batch)

    pool = WorkerPool(slow, Stop(), workers=9, waiting=no_requests, head_start_s=0.001)
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
