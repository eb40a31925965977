"""Threads that send rows, in batches or one by one; for every row, its outcome comes back."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Self

from delivery.bulk import MOST_BATCHES, Batch, OpenRow
from delivery.stopping import Stop
from logger_config import get_logger
from records.exit_statuses import StopReason
from records.outcomes import CallOutcome, CallStatus, PreparedRow, RowOutcome

logger = get_logger(__name__)

# Rows are sent singly as long as fewer requests than this wait for the limiter: it is never idle
# then, and more would only wait too. The same number of rows is kept at hand.
ENOUGH_WAITING = 16
# The same for batches, which are large and five a second.
ENOUGH_BATCHES_WAITING = 2
# No more is in flight at a time, counted as it is sent. In memory it is twice as much: the rows,
# and the bodies that are made of them.
MOST_BYTES = 16_000_000
# What stands in memory for a row beside its bodies, about.
_ROW_BYTES = 1000
# How often to look whether the limiter has use for more rows. It lets one through in 2 ms.
LOOK_S = 0.005
# What is in flight when a run is to stop gets so long to finish.
GRACE_S = 10.0
_BUG = CallOutcome(CallStatus.UNKNOWN, message="this program failed while sending")
_ABANDONED = CallOutcome(CallStatus.UNKNOWN, message="no answer when the run had to end")

# What came of sending: outcomes, and the rows that are to be sent singly.
_Sent = tuple[list[RowOutcome], list[OpenRow]]


@dataclass(frozen=True, eq=False)
class _Task:
    """Rows that one thread sends together."""

    rows: Sequence[OpenRow]
    send: Callable[[], _Sent]
    is_batch: bool


class WorkerPool:
    """Sends rows in parallel; a context manager that lets its threads go at the end.

    *send_batch* sends a batch; the rows that it leaves open go to *send_one*. Without *send_batch*
    every row does. At most *workers* rows are sent singly at a time, and no more than the limiters
    have use for: *waiting* returns how many single and bulk requests wait for them. After *stop*, a
    refused API key or an exception nothing more is sent, and what is in flight ``GRACE_S`` seconds
    later is ``unknown``.
    """

    def __init__(
        self,
        stop: Stop,
        send_one: Callable[[PreparedRow], RowOutcome],
        send_batch: Callable[[Batch], _Sent] | None,
        workers: int,
        waiting: Callable[[], tuple[int, int]],
    ) -> None:
        self._stop = stop
        self._send_one = send_one
        self._send_batch = send_batch
        self._workers = workers
        self._waiting = waiting
        self._threads: list[threading.Thread] = []
        # Rows that are to be sent singly, and what the threads are sending.
        self._open: deque[OpenRow] = deque()
        self._in_flight: set[_Task] = set()
        self._batches = self._bytes = 0
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[_Task, _Sent]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._tasks.put(None)
        if not self._stop.overdue(GRACE_S):
            for thread in self._threads:
                thread.join()

    def send(self, batches: Iterable[Batch]) -> Iterator[list[RowOutcome]]:
        """Send *batches*, each taken when there is room for it; yield outcomes as they come back.

        What is yielded is empty now and then, when nothing has come back for a while.
        """
        for batch in batches:
            self._bytes += sum(map(_size, batch))
            rows = list(map(OpenRow, batch))
            if self._send_batch and not self._stop.requested:
                self._batches += 1
                self._begin(_Task(rows, partial(self._send_batch, batch), is_batch=True))
            else:
                self._open.extend(rows)
            if len(self._in_flight) < ENOUGH_WAITING:
                self._begin_open()
            while self._is_full() or not self._finished.empty():
                yield self._take()
        while self._in_flight or self._open:
            yield self._take()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being sent."""
        return not (self._in_flight or self._open)

    def _is_full(self) -> bool:
        if self._bytes >= MOST_BYTES or self._batches >= MOST_BATCHES:
            return True
        if self._send_batch:
            return self._waiting()[1] >= ENOUGH_BATCHES_WAITING
        return len(self._open) >= ENOUGH_WAITING

    def _take(self) -> list[RowOutcome]:
        """Return the outcomes that have come back; after a while perhaps none."""
        self._begin_open()
        outcomes: list[RowOutcome] = []
        with suppress(queue.Empty):
            finished = self._finished.get(timeout=LOOK_S)
            while True:
                outcomes += self._settle(*finished)
                finished = self._finished.get_nowait()
        if self._stop.overdue(GRACE_S):
            outcomes += self._abandon()
        if self._stop.requested:
            outcomes += [each.outcome(each.before) for each in self._open]
            self._open.clear()
        self._bytes -= sum([_size(each.prepared) for each in outcomes if each.prepared])
        return outcomes

    def _settle(self, task: _Task, sent: _Sent) -> list[RowOutcome]:
        """Take *task* out of those in flight; return its outcomes, none if it was given up."""
        if task not in self._in_flight:
            return []
        outcomes, left = sent
        self._in_flight.remove(task)
        self._batches -= task.is_batch
        self._open.extend(left)
        return outcomes

    def _abandon(self) -> list[RowOutcome]:
        """Return the outcomes of the rows in flight, for which nobody waits any more."""
        outcomes = [each.outcome(_ABANDONED) for task in self._in_flight for each in task.rows]
        self._in_flight.clear()
        self._batches = 0
        return outcomes

    def _begin_open(self) -> None:
        """Begin to send as many rows singly as there is use for now."""
        if self._stop.requested:
            return
        singles = len(self._in_flight) - self._batches
        room = min(ENOUGH_WAITING - self._waiting()[0], self._workers - singles)
        for _ in range(min(room, len(self._open))):
            each = self._open.popleft()
            self._begin(_Task([each], partial(self._send_singly, each), is_batch=False))

    def _send_singly(self, each: OpenRow) -> _Sent:
        return [each.judged_by(self._send_one(each.row))], []

    def _begin(self, task: _Task) -> None:
        self._in_flight.add(task)
        self._tasks.put(task)
        if len(self._threads) < len(self._in_flight):
            self._start_thread()

    def _start_thread(self) -> None:
        """Start one more worker. When the system gives none, those that there are must do."""
        thread = threading.Thread(target=self._work, name="delivery", daemon=True)
        try:
            thread.start()
            self._threads.append(thread)
        except RuntimeError as error:
            if not self._threads:
                self._stop.fail(error)
            elif self._workers > len(self._threads):
                self._workers = len(self._threads)
                text = "The system gives no more threads: rows are sent by %d at a time"
                logger.warning(text, self._workers)

    def _work(self) -> None:
        """Send what is to be sent until there is no more; in a thread."""
        while (task := self._tasks.get()) is not None:
            self._finished.put((task, self._attempt(task)))

    def _attempt(self, task: _Task) -> _Sent:
        if self._stop.requested:
            return [each.outcome(each.before) for each in task.rows], []
        try:
            sent = task.send()
        except Exception as error:  # noqa: BLE001 - raised when all rows have their outcome
            self._stop.fail(error)
            return [each.outcome(_BUG) for each in task.rows], []
        for outcome in sent[0]:
            for call in (outcome.users_update, outcome.events_track):
                if call.key_refused:
                    self._stop.request(StopReason.KEY_REFUSED, call.message)
        return sent


def _size(row: PreparedRow) -> int:
    """Return about how many bytes of memory *row* takes."""
    return _ROW_BYTES + len(row.user) + len(row.event)
