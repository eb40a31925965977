"""Threads that send batches: as many as are needed, and none of them can lose a batch."""

import threading
import time

import pytest

from delivery import worker_pool
from delivery.bulk import OpenRow
from delivery.stopping import Stop
from delivery.worker_pool import ENOUGH_BATCHES_WAITING, ENOUGH_WAITING, WorkerPool
from records.exit_statuses import StopReason
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, RowStatus, outcome_of
from tests.rows import make_prepared

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
UNKNOWN = CallOutcome(CallStatus.UNKNOWN, 200)


def send(row):
    return outcome_of(row, OK, OK)


def one_by_one(process, stop, workers, waiting=lambda: (0, 0)):
    """Return a pool that sends every row singly."""
    return WorkerPool(stop, process, None, workers, waiting)


def batches(count, **changes):
    return [[make_prepared(number, **changes)] for number in range(count)]


def run(pool, work):
    """Send *work* through the pool; return the outcomes."""
    with pool:
        return [outcome for outcomes in pool.send(work) for outcome in outcomes]


class Together:
    """Sends rows, each in a moment; ``most`` of them were sent at a time."""

    def __init__(self):
        self.now, self.most = 0, 0
        self._lock = threading.Lock()

    def __call__(self, row):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.01)
        with self._lock:
            self.now -= 1
        return send(row)


@pytest.mark.parametrize(("rows", "workers"), [(3, 100), (50, 4)])
def test_no_more_threads_are_started_than_there_are_rows_or_workers(rows, workers):
    pool = one_by_one(Together(), Stop(), workers)
    assert len(run(pool, batches(rows))) == rows
    assert len(pool._threads) == min(rows, workers)


@pytest.mark.parametrize("allowed", [1, 2])
def test_a_system_that_gives_no_more_threads_makes_the_run_slower_and_nothing_else(
    monkeypatch, allowed, warned
):
    start, pool = threading.Thread.start, one_by_one(send, Stop(), 50)

    def scarce(self):
        if self.name == "delivery" and len(pool._threads) >= allowed:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    outcomes = run(pool, batches(100))
    assert sorted(out.customer_id for out in outcomes) == list(range(100))
    assert warned == [f"The system gives no more threads: rows are sent by {allowed} at a time"]


def test_a_system_that_gives_no_thread_at_all_stops_the_run(monkeypatch):
    def scarce(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(worker_pool, "GRACE_S", 0.05)
    monkeypatch.setattr(threading.Thread, "start", scarce)
    stop = Stop()
    assert len(run(one_by_one(send, stop, 50), batches(40))) == 40
    with pytest.raises(RuntimeError):
        stop.raise_bug()


def test_no_more_rows_are_sent_singly_than_the_limiter_has_use_for():
    waiting, together = [ENOUGH_WAITING], Together()
    pool = one_by_one(together, Stop(), 50, lambda: (waiting[0], 0))
    with pool:
        sending = pool.send(batches(30))
        assert [next(sending), next(sending)] == [[], []]
        assert together.most == 0
        # By now there is use for more: that is noticed soon.
        waiting[0] = 0
        assert sum(map(len, sending)) == 30
    assert together.most >= 5


def test_a_single_row_does_not_wait_for_others():
    """Most rows of most nights are unchanged: the next one to be sent may come late."""
    sent = threading.Event()

    def work():
        yield [make_prepared(1)]
        assert sent.wait(30)
        yield [make_prepared(2)]

    def telling(row):
        sent.set()
        return send(row)

    assert len(run(one_by_one(telling, Stop(), 50), work())) == 2


def test_rows_that_a_batch_leaves_open_are_sent_singly():
    taken = []

    def send_batch(batch):
        first, *others = batch
        return [send(first)], list(map(OpenRow, others))

    def send_one(row):
        taken.append(row.customer_id)
        return send(row)

    pool = WorkerPool(Stop(), send_one, send_batch, 50, lambda: (0, 0))
    outcomes = run(pool, [[make_prepared(n) for n in range(100)]])
    assert sorted(taken) == list(range(1, 100))
    assert sorted(out.customer_id for out in outcomes) == list(range(100))


def test_a_stop_gives_open_rows_the_outcome_that_the_batch_left_them():
    stop = Stop()

    def send_batch(batch):
        stop.request(StopReason.SIGTERM)
        return [], [OpenRow(batch[0]), OpenRow(batch[1], UNKNOWN)]

    pool = WorkerPool(stop, send, send_batch, 50, lambda: (0, 0))
    outcomes = run(pool, [[make_prepared(1), make_prepared(2)]])
    assert [out.users_update for out in outcomes] == [NOT_SENT, UNKNOWN]


@pytest.fixture
def given_up(monkeypatch):
    """Return what sends rows by a worker that hangs, and stops the run: the pool gives up."""
    monkeypatch.setattr(worker_pool, "GRACE_S", 0.05)
    stop, release = Stop(), threading.Event()

    def process(row):
        stop.request(StopReason.SIGTERM)
        release.wait(5)
        return send(row)

    yield lambda work: run(one_by_one(process, stop, 1), work)
    release.set()


def test_what_has_not_begun_when_the_grace_is_over_was_not_sent(given_up):
    outcomes = sorted(given_up(batches(5)))
    assert [out.status for out in outcomes] == [
        RowStatus.TOTAL_FAILURE,
        *[RowStatus.NOT_ATTEMPTED] * 4,
    ]
    assert outcomes[0].users_update.status is CallStatus.UNKNOWN


def test_an_event_that_hangs_leaves_the_profile_known_that_was_known_before(given_up):
    (outcome,) = given_up([[make_prepared()._replace(users_update=OK)]])
    assert outcome.users_update == OK
    assert outcome.events_track.status is CallStatus.UNKNOWN


def test_what_was_given_up_takes_no_room_any_more(monkeypatch, given_up):
    """Or whoever waits for room would wait for ever."""
    monkeypatch.setattr(worker_pool, "MOST_BYTES", 1000)
    assert len(given_up(batches(3))) == 3


def test_large_batches_are_in_flight_only_as_far_as_memory_allows(monkeypatch):
    """Memory is bounded by bytes, whatever the rows are like."""
    monkeypatch.setattr(worker_pool, "MOST_BYTES", 100_000)
    together = Together()
    outcomes = run(one_by_one(together, Stop(), 9), batches(9, first_name=30_000 * "x"))
    assert len(outcomes) == 9
    assert 2 <= together.most <= 4


def test_no_more_batches_are_in_flight_than_the_limiter_has_use_for():
    release = threading.Event()

    def send_batch(batch):
        release.wait(5)
        return [send(row) for row in batch], []

    pool = WorkerPool(Stop(), send, send_batch, 1, lambda: (0, pool._batches))
    with pool:
        sending = pool.send(batches(9))
        assert next(sending) == []
        assert pool._batches == ENOUGH_BATCHES_WAITING
        release.set()
        assert sum(map(len, sending)) == 9
