"""Threads that send batches: as many as are needed, and none of them can lose a batch."""

import threading

import pytest

from delivery import worker_pool
from delivery.stopping import Stop
from delivery.worker_pool import ENOUGH_BATCHES_WAITING, ENOUGH_WAITING, WorkerPool
from records.exit_statuses import StopReason
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, RowStatus
from tests.rows import answered, in_order, make_prepared, no_waits, settled

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
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


def numbers(outcomes):
    return [outcome.customer_id for outcome in outcomes]


class Together:
    """Sends rows, the first ones when *expected* are there; ``most`` were sent at a time."""

    def __init__(self, expected):
        self.now, self.most, self.expected = 0, 0, expected
        self._lock, self._enough = threading.Lock(), threading.Event()

    def __call__(self, rows):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.most == self.expected:
                self._enough.set()
        assert self._enough.wait(30)
        with self._lock:
            self.now -= 1
        send(rows)


@pytest.mark.parametrize(("rows", "workers"), [(3, 100), (50, 4)])
def test_no_more_rows_are_sent_together_than_there_are_workers(rows, workers):
    together = Together(min(rows, workers))
    pool = one_by_one(together, Stop(), workers)
    assert numbers(run(pool, batches(rows))) == list(range(rows))
    assert together.most == len(pool._threads._threads) == min(rows, workers)


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_system_that_gives_no_more_threads_stops_the_run_and_loses_no_row(monkeypatch, allowed):
    start = threading.Thread.start
    begun: list[threading.Thread] = []
    sent: list[int] = []

    def scarce(self):
        if len(begun) == allowed:
            raise RuntimeError("can't start new thread")
        begun.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", scarce)

    def process(rows):
        sent.extend(row.customer_id for row in rows)
        send(rows)

    stop = Stop()
    outcomes = run(one_by_one(process, stop, 50), batches(40))
    assert numbers(outcomes) == list(range(40))
    for outcome in outcomes:
        # Nobody knows it of a row for which there was no thread.
        if outcome.profile.outcome.status is not CallStatus.UNKNOWN:
            assert (outcome.customer_id in sent) == (outcome.status is RowStatus.SUCCESSFUL)
    with pytest.raises(RuntimeError, match="start new thread"):
        stop.raise_bug()


def test_no_more_rows_are_sent_singly_than_the_limiter_has_use_for():
    waiting, together = [ENOUGH_WAITING], Together(5)
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
        taken.extend(row.customer_id for row in rows)
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
def given_up(monkeypatch):
    """Return what sends rows by a worker that hangs, and stops the run: the pool gives up."""
    monkeypatch.setattr(worker_pool, "GRACE_S", 0.05)
    stop, release = Stop(), threading.Event()

    def hang(rows):
        stop.request(StopReason.SIGTERM)
        release.wait(30)
        send(rows)

    yield lambda work: run(one_by_one(hang, stop, 1), work)
    release.set()


def test_what_has_not_begun_when_the_grace_is_over_was_not_sent(given_up):
    first, *others = given_up(batches(40))
    assert first.profile.outcome.status is CallStatus.UNKNOWN
    assert [out.status for out in others] == [RowStatus.NOT_ATTEMPTED] * 39


def test_an_event_that_hangs_leaves_the_profile_known_that_was_known_before(given_up):
    (outcome,) = given_up([[settled(make_prepared(), OK)]])
    assert outcome.profile.outcome == OK
    assert outcome.event.outcome.status is CallStatus.UNKNOWN


@pytest.mark.parametrize("waiting", [True, False])
def test_no_more_batches_are_in_flight_than_there_is_use_for(waiting):
    release = threading.Event()

    def send_batch(batch):
        release.wait(30)
        send(batch)

    pool = WorkerPool(
        Stop(), send, send_batch, 1, lambda: (0, len(pool._batches) if waiting else 0)
    )
    with pool:
        sending = pool.send(batches(12))
        assert next(sending) == []
        most = ENOUGH_BATCHES_WAITING if waiting else worker_pool.MOST_BATCHES
        assert len(pool._batches) == most
        release.set()
        assert sum(map(len, sending)) == 12
