"""Threads that send batches of prepared rows; for every batch, its outcomes come back."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Self

from delivery.batching import Batch
from delivery.stopping import Stop
from logger_config import get_logger
from records.exit_statuses import StopReason
from records.outcomes import (
    NOT_SENT,
    CallOutcome,
    CallStatus,
    PreparedRow,
    RowOutcome,
    outcome_of,
)

logger = get_logger(__name__)

# The first row goes ahead alone until there is an answer, as a refused key is then found by one
# request; but no longer than this, as the row itself may be why there is none.
HEAD_START_S = 2.0
# So many batches of one row wait beyond those being sent, so that a worker that is done finds its
# next at once.
WAITING_BATCHES = 8
# So many workers wait for the rate limiter when there are enough of them: it is never idle then,
# and more would only wait too.
ENOUGH_WAITING = 16
# No more is in flight at a time, counted as it is sent. In memory it is twice as much: the rows,
# and the bodies that are made of them.
MOST_BYTES = 16_000_000
# What stands in memory for a row beside its bodies, about.
_ROW_BYTES = 1000
# How often to look whether more workers are needed, or allowed. The rate limiter lets one through
# in 2 ms.
GROW_S = 0.005
# What is in flight when a run is to stop gets so long to finish.
GRACE_S = 10.0
POLL_S = 0.2
_BUG = CallOutcome(CallStatus.UNKNOWN, message="this program failed while sending")
_ABANDONED = CallOutcome(CallStatus.UNKNOWN, message="no answer when the run had to end")


class WorkerPool:
    """Sends batches in parallel; a context manager that lets its threads go at the end.

    *process* sends one batch and returns the outcome of each of its rows; it is called in one of at
    most *workers* threads. More are started while batches wait and *waiting*, the number of
    requests that wait for the rate limiter, is small: so there are as many as the latency needs,
    whatever it is. *ready* batches at most wait for a worker. The first batch goes alone until it
    is done; or, if *head_start_s* is given, at most for so many seconds, and until *answered* says
    that others may follow. After *stop*, a refused API key or an exception nothing more is sent,
    and what is in flight ``GRACE_S`` seconds later is ``unknown``.

    ``bugs`` are the exceptions that came out of *process*.
    """

    def __init__(  # noqa: PLR0913 - keyword-only
        self,
        process: Callable[[Batch], list[RowOutcome]],
        stop: Stop,
        *,
        workers: int,
        waiting: Callable[[], int],
        ready: int = WAITING_BATCHES,
        head_start_s: float | None,
        answered: Callable[[], bool] = lambda: False,
    ) -> None:
        self.bugs: list[Exception] = []
        self._process = process
        self._stop = stop
        self._workers = workers
        self._waiting_requests = waiting
        self._ready = ready
        self._head_start_s = head_start_s
        self._answered = answered
        self._began_s = time.monotonic()
        self._threads: list[threading.Thread] = []
        self._submitted = 0
        self._in_flight: dict[int, Batch] = {}
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._begun: set[int] = set()
        # Guards the step from waiting to begun, so that a batch is not given up and sent.
        self._beginning = threading.Lock()
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[int, list[RowOutcome]]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._beginning:
            self._in_flight.clear()
        for _thread in self._threads:
            self._waiting.put(None)
        if not self._stop.overdue(GRACE_S):
            for thread in self._threads:
                thread.join()

    @property
    def stopped(self) -> bool:
        """Whether nothing more is sent."""
        return bool(self._stop.reason or self.bugs)

    @property
    def busy(self) -> bool:
        """Whether the outcomes of some batches are still to come."""
        return bool(self._in_flight)

    @property
    def full(self) -> bool:
        """Whether another batch should not be submitted yet."""
        return (
            len(self._in_flight) - len(self._threads) >= self._ready
            or self._bytes >= MOST_BYTES
            or self._is_head_start()
        )

    def submit(self, batch: Batch) -> None:
        """Have *batch* sent by a worker; ``take()`` returns its outcomes."""
        number = self._submitted
        self._submitted += 1
        self._in_flight[number] = batch
        self._sizes[number] = size = sum([_size(row) for row in batch])
        self._bytes += size
        if number == 0:
            self._began_s = time.monotonic()
        self._waiting.put(number)
        self._grow()

    def take(self) -> list[RowOutcome]:
        """Return the outcomes of what has finished; after ``POLL_S`` seconds perhaps none.

        Where new workers have made room for more batches, it returns at once. What has not finished
        ``GRACE_S`` seconds after a stop comes back as it is known then.
        """
        was_full = self.full
        self._grow()
        if was_full and not self.full:
            return []
        overdue = self._stop.overdue(GRACE_S)
        if not self._threads and not self._waiting.empty():
            # The system gives no thread at all.
            self._work_on(self._waiting.get())
        outcomes: list[RowOutcome] = []
        try:
            number, some = self._finished.get(timeout=0 if overdue else self._patience_s())
            while True:
                del self._in_flight[number]
                self._bytes -= self._sizes.pop(number)
                outcomes += some
                number, some = self._finished.get_nowait()
        except queue.Empty:
            return outcomes + self._abandon() if overdue else outcomes

    def _is_head_start(self) -> bool:
        """Whether the first batch is still to be alone."""
        if self._submitted != 1 or not self._in_flight:
            return False
        if self._head_start_s is None:
            return True
        return not self._answered() and time.monotonic() - self._began_s < self._head_start_s

    def _patience_s(self) -> float:
        """Return how long to wait for an outcome before looking at something else."""
        if self._is_head_start():
            return POLL_S if self._head_start_s is None else GROW_S
        return GROW_S if self._may_grow() else POLL_S

    def _may_grow(self) -> bool:
        """Whether there are batches for more workers than there are."""
        return len(self._threads) < min(self._workers, len(self._in_flight)) and not self.stopped

    def _grow(self) -> None:
        """Start as many workers as the rate limiter has use for now."""
        if self._is_head_start() and self._threads:
            return
        for _ in range(ENOUGH_WAITING - self._waiting_requests()):
            if not self._may_grow():
                return
            self._start_thread()

    def _start_thread(self) -> None:
        """Start one more worker. When the system gives none, those that there are must do."""
        try:
            thread = threading.Thread(target=self._work, name="delivery", daemon=True)
            thread.start()
        except (RuntimeError, MemoryError):
            self._workers = max(1, len(self._threads))
            text = "The system gives no more threads: rows are sent by %d at a time"
            logger.warning(text, self._workers)
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        """Send batches until there are no more; in a thread."""
        while (number := self._waiting.get()) is not None:
            self._work_on(number)

    def _work_on(self, number: int | None) -> None:
        with self._beginning:
            batch = None if number is None else self._in_flight.get(number)
            if number is None or batch is None:
                return
            self._begun.add(number)
        self._finished.put((number, self._attempt(batch)))
        self._begun.discard(number)

    def _attempt(self, batch: Batch) -> list[RowOutcome]:
        if self.stopped:
            return not_sent(batch)
        try:
            outcomes = self._process(batch)
        except Exception as error:  # noqa: BLE001 - raised when all rows have their outcome
            self.bugs.append(error)
            return [outcome_of(row, row.users_update or _BUG, NOT_SENT) for row in batch]
        for outcome in outcomes:
            for call in (outcome.users_update, outcome.events_track):
                if call.key_refused:
                    self._stop.request(StopReason.KEY_REFUSED, call.message)
        return outcomes

    def _abandon(self) -> list[RowOutcome]:
        """Return the outcomes of the batches in flight, for which nobody waits any more."""
        outcomes: list[RowOutcome] = []
        with self._beginning:
            for number, batch in self._in_flight.items():
                outcomes += map(_abandoned, batch) if number in self._begun else not_sent(batch)
            self._in_flight.clear()
        # Or the pool would be full for ever.
        self._sizes.clear()
        self._bytes = 0
        return outcomes


def _abandoned(row: PreparedRow) -> RowOutcome:
    """Return the outcome of a row of which nobody knows how far it has come."""
    if row.users_update is None:
        return outcome_of(row, _ABANDONED, NOT_SENT)
    return outcome_of(row, row.users_update, row.events_track or _ABANDONED)


def _size(row: PreparedRow) -> int:
    """Return about how many bytes of memory *row* takes."""
    return _ROW_BYTES + len(row.user) + len(row.event)


def not_sent(batch: Batch) -> list[RowOutcome]:
    """Return the outcomes of rows whose calls were not made."""
    return [
        outcome_of(row, row.users_update or NOT_SENT, row.events_track or NOT_SENT) for row in batch
    ]
