"""Threads that send batches of prepared rows; for every batch, its outcomes come back."""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Self

from delivery.outage import Outage
from delivery.stopping import Stop
from records.exit_statuses import StopReason
from records.outcomes import (
    NOT_SENT,
    CallOutcome,
    CallStatus,
    PreparedRow,
    RowOutcome,
    outcome_of,
)

# Rows that are sent together: one in per-user mode, up to a thousand in bulk mode.
Batch = Sequence[PreparedRow]

# The first request goes ahead alone for so long: Iterable refuses a key within milliseconds, and
# then nothing else need leave.
HEAD_START_S = 0.05
# A few batches wait beyond those being sent, so that a worker that is done finds its next at once.
WAITING_BATCHES = 8
# What is in flight when a run is to stop gets so long to finish.
GRACE_S = 10.0
POLL_S = 0.2
_BUG = CallOutcome(CallStatus.UNKNOWN, message="this program failed while sending")
_ABANDONED = CallOutcome(CallStatus.UNKNOWN, message="no answer when the run had to end")


class WorkerPool:
    """Sends batches in parallel; a context manager that lets its threads go at the end.

    *process* sends one batch of at most *batch_size* rows and returns the outcome of each; it is
    called in one of *workers* threads. The first batch goes alone for *head_start_s* seconds,
    until it is done if that is None. After *stop*, a refused API key, an outage or an exception
    nothing more is sent, and what is in flight ``GRACE_S`` seconds later is ``unknown``. Leaving
    the context raises the first exception that came out of *process*.
    """

    def __init__(
        self,
        process: Callable[[Batch], list[RowOutcome]],
        stop: Stop,
        *,
        workers: int,
        batch_size: int,
        head_start_s: float | None,
    ) -> None:
        self.batch_size = batch_size
        self._process = process
        self._stop = stop
        self._outage = Outage(stop, batch_size)
        self._head_start_s = head_start_s
        self._most = workers + WAITING_BATCHES
        self._bugs: list[Exception] = []
        self._first = True
        self._executor = ThreadPoolExecutor(workers, "delivery")
        self._in_flight: dict[Future[list[RowOutcome]], Batch] = {}
        self._finished: queue.SimpleQueue[Future[list[RowOutcome]]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # What has not begun does not begin.
        overdue = self._stop.overdue(GRACE_S)
        self._executor.shutdown(wait=not overdue, cancel_futures=True)
        if kind is None and self._bugs:
            raise self._bugs[0]

    @property
    def stopped(self) -> bool:
        """Whether nothing more is sent."""
        return bool(self._stop.reason or self._bugs)

    def send(self, batch: Batch) -> Iterator[list[RowOutcome]]:
        """Hand *batch* to a worker; yield outcomes until there is room for another batch."""
        if self.stopped:
            yield _not_sent(batch)
            return
        future = self._executor.submit(self._attempt, batch)
        self._in_flight[future] = batch
        future.add_done_callback(self._finished.put)
        if self._first:
            self._first = False
            wait([future], timeout=self._head_start_s)
        while len(self._in_flight) >= self._most:
            yield self._next()

    def finish(self) -> Iterator[list[RowOutcome]]:
        """Yield the outcomes of all batches in flight."""
        while self._in_flight:
            yield self._next()

    def _attempt(self, batch: Batch) -> list[RowOutcome]:
        """Send one batch; in a thread."""
        if self.stopped:
            return _not_sent(batch)
        try:
            outcomes = self._process(batch)
        except Exception as error:  # noqa: BLE001 - raised at the end, when all rows are told
            self._bugs.append(error)
            return [outcome_of(row, _BUG, NOT_SENT) for row in batch]
        if any(outcome.key_refused for outcome in outcomes):
            self._stop.request(StopReason.KEY_REFUSED)
        return outcomes

    def _next(self) -> list[RowOutcome]:
        """Return the outcomes of what has finished; wait for some, but not beyond the grace."""
        futures: list[Future[list[RowOutcome]]] = []
        while not futures:
            overdue = self._stop.overdue(GRACE_S)
            try:
                futures.append(self._finished.get(block=not overdue, timeout=POLL_S))
            except queue.Empty:
                if overdue:
                    return self._abandon()
        while not self._finished.empty():
            futures.append(self._finished.get())
        for future in futures:
            del self._in_flight[future]
        outcomes = [outcome for future in futures for outcome in future.result()]
        self._outage.watch(outcomes)
        return outcomes

    def _abandon(self) -> list[RowOutcome]:
        """Return the outcomes of the batches in flight, for which nobody waits any more."""
        outcomes = []
        for future, batch in self._in_flight.items():
            if future.cancel():
                outcomes += _not_sent(batch)
            else:
                outcomes += [outcome_of(row, _ABANDONED, NOT_SENT) for row in batch]
        self._in_flight.clear()
        return outcomes


def _not_sent(batch: Batch) -> list[RowOutcome]:
    return [outcome_of(row, NOT_SENT, NOT_SENT) for row in batch]
