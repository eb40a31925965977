"""Threads that send rows, in batches or one by one; for every row, its outcome comes back."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from delivery.batching import Batch
from delivery.bulk import MOST_BATCHES, OpenRow
from delivery.stopping import Stop
from logger_config import get_logger
from records.exit_statuses import StopReason
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, PreparedRow, RowOutcome

logger = get_logger(__name__)

# Rows are sent singly as long as fewer requests than this wait for the limiter: it is never idle
# then, and more would only wait too.
ENOUGH_WAITING = 16
# No more is in flight at a time, counted as it is sent. In memory it is twice as much: the rows,
# and the bodies that are made of them.
MOST_BYTES = 16_000_000
# What stands in memory for a row beside its bodies, about.
_ROW_BYTES = 1000
# How often to look whether the limiter has use for more rows. It lets one through in 2 ms.
LOOK_S = 0.005
# What is in flight when a run is to stop gets so long to finish.
GRACE_S = 10.0
POLL_S = 0.2
_BUG = CallOutcome(CallStatus.UNKNOWN, message="this program failed while sending")
_ABANDONED = CallOutcome(CallStatus.UNKNOWN, message="no answer when the run had to end")

SendOne = Callable[[PreparedRow], RowOutcome]
SendBatch = Callable[[Batch], tuple[list[RowOutcome], list[OpenRow]]]


@dataclass(frozen=True, eq=False)
class _Task:
    """Rows for one thread to send: a batch, or a single row."""

    rows: Sequence[OpenRow]
    is_batch: bool


class WorkerPool:
    """Sends rows in parallel; a context manager that lets its threads go at the end.

    *send_batch* sends a batch; the rows that it leaves open go to *send_one*. Without *send_batch*
    every row does. At most *workers* rows are sent singly at a time, and no more than the limiter
    has use for: *waiting* returns the number of requests that wait for it. After *stop*, a refused
    API key or an exception nothing more is sent, and what is in flight ``GRACE_S`` seconds later is
    ``unknown``.

    ``bugs`` are the exceptions that came out of sending; ``left_open`` tells whether a batch has
    left a row open.
    """

    def __init__(
        self,
        stop: Stop,
        send_one: SendOne,
        send_batch: SendBatch | None,
        workers: int,
        waiting: Callable[[], int],
    ) -> None:
        self.bugs: list[Exception] = []
        self.left_open = False
        self._stop = stop
        self._send_one = send_one
        self._send_batch = send_batch
        self._workers = workers
        self._waiting = waiting
        self._threads: list[threading.Thread] = []
        self._batches = self._bytes = 0
        # Rows that are to be sent singly, and how many of them may be now.
        self._open: deque[OpenRow] = deque()
        self._room = ENOUGH_WAITING
        self._in_flight: set[_Task] = set()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        # What came of a task, and the rows that it leaves open.
        self._finished: queue.SimpleQueue[tuple[_Task, list[RowOutcome], list[OpenRow]]]
        self._finished = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._tasks.put(None)
        if not self._stop.overdue(GRACE_S):
            for thread in self._threads:
                thread.join()

    @property
    def stopped(self) -> bool:
        """Whether nothing more is sent."""
        return bool(self._stop.reason or self.bugs)

    @property
    def busy(self) -> bool:
        """Whether some outcomes are still to come."""
        return bool(self._in_flight or self._open)

    @property
    def full(self) -> bool:
        """Whether another batch should not be submitted yet."""
        if self._send_batch is None:
            return bool(self._open) or self._bytes >= MOST_BYTES
        return self._batches >= MOST_BATCHES or self._bytes >= MOST_BYTES

    def submit(self, batch: Batch) -> None:
        """Have *batch* sent; ``take()`` returns its outcomes."""
        self._bytes += sum(map(_size, batch))
        rows = list(map(OpenRow, batch))
        if self._send_batch is None:
            self._open.extend(rows)
            self._send_open()
        else:
            self._batches += 1
            self._begin(_Task(rows, is_batch=True))

    def take(self) -> list[RowOutcome]:
        """Return the outcomes that have come back; after a while perhaps none.

        What has not finished ``GRACE_S`` seconds after a stop comes back as it is known then.
        """
        overdue = self._stop.overdue(GRACE_S)
        outcomes: list[RowOutcome] = []
        try:
            finished = self._finished.get(timeout=self._patience_s(overdue=overdue))
            while True:
                outcomes += self._settle(*finished)
                finished = self._finished.get_nowait()
        except queue.Empty:
            pass
        if overdue:
            outcomes += self._abandon()
        if self.stopped:
            outcomes += [each.outcome(each.before) for each in self._open]
            self._open.clear()
        self._room = ENOUGH_WAITING - self._waiting()
        self._send_open()
        self._bytes -= sum([_size(each.prepared) for each in outcomes if each.prepared])
        return outcomes

    def _patience_s(self, *, overdue: bool) -> float:
        """Return how long to wait for an outcome before looking at something else."""
        if overdue or not self._in_flight:
            return 0.0
        return LOOK_S if self._open else POLL_S

    def _settle(
        self, task: _Task, outcomes: list[RowOutcome], left: list[OpenRow]
    ) -> list[RowOutcome]:
        """Take *task* out of those in flight; return the outcomes, none if it was given up."""
        if task not in self._in_flight:
            return []
        self._in_flight.remove(task)
        self._batches -= task.is_batch
        self._open.extend(left)
        self.left_open |= bool(left)
        return outcomes

    def _send_open(self) -> None:
        """Begin to send as many rows singly as there is use for now."""
        while self._open and self._room > 0:
            if len(self._in_flight) - self._batches >= self._workers:
                return
            self._room -= 1
            self._begin(_Task([self._open.popleft()], is_batch=False))

    def _begin(self, task: _Task) -> None:
        self._in_flight.add(task)
        if len(self._threads) < len(self._in_flight):
            self._start_thread()
        self._tasks.put(task)
        if not self._threads:
            # The system gives no thread at all.
            self._tasks.put(None)
            self._work()

    def _start_thread(self) -> None:
        """Start one more worker. When the system gives none, those that there are must do."""
        try:
            thread = threading.Thread(target=self._work, name="delivery", daemon=True)
            thread.start()
        except (RuntimeError, MemoryError):
            if self._workers > max(1, len(self._threads)):
                self._workers = max(1, len(self._threads))
                text = "The system gives no more threads: rows are sent by %d at a time"
                logger.warning(text, self._workers)
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        """Send what is to be sent until there is no more; in a thread."""
        while (task := self._tasks.get()) is not None:
            self._finished.put((task, *self._attempt(task)))

    def _attempt(self, task: _Task) -> tuple[list[RowOutcome], list[OpenRow]]:
        if self.stopped:
            return [each.outcome(each.before) for each in task.rows], []
        try:
            if task.is_batch and self._send_batch:
                outcomes, left = self._send_batch([each.row for each in task.rows])
            else:
                outcomes = [each.judged_by(self._send_one(each.row)) for each in task.rows]
                left = []
        except Exception as error:  # noqa: BLE001 - raised when all rows have their outcome
            self.bugs.append(error)
            return [each.outcome(_BUG) for each in task.rows], []
        for outcome in outcomes:
            for call in (outcome.users_update, outcome.events_track):
                if call.key_refused:
                    self._stop.request(StopReason.KEY_REFUSED, call.message)
        return outcomes, left

    def _abandon(self) -> list[RowOutcome]:
        """Return the outcomes of the rows in flight, for which nobody waits any more."""
        outcomes = [each.outcome(_ABANDONED) for task in self._in_flight for each in task.rows]
        self._in_flight.clear()
        self._batches = 0
        return outcomes


def not_sent(rows: Iterable[PreparedRow]) -> list[RowOutcome]:
    """Return the outcomes of rows whose calls were not made."""
    return [OpenRow(row).outcome(NOT_SENT) for row in rows]


def _size(row: PreparedRow) -> int:
    """Return about how many bytes of memory *row* takes."""
    return _ROW_BYTES + len(row.user) + len(row.event)
