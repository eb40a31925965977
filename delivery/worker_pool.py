"""Many rows: keeps enough of them in flight, yields outcomes as they come, knows when to stop."""

import itertools
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from delivery.planner import Plan
from delivery.stopping import Outage, Stop, StopReason
from records.outcomes import (
    NOT_SENT,
    CallOutcome,
    CallStatus,
    Row,
    RowOutcome,
    Task,
    outcome_of,
)

# Tasks that are delivered together: one in per-user mode, a batch in bulk mode.
Parcel = Sequence[Task]

# The first request goes ahead alone for so long: Iterable refuses a key within milliseconds, and
# then nothing else need leave.
HEAD_START_S = 0.05
# Beyond the threads a few parcels wait, so that a thread that is done finds its next at once.
READY = 8
# Rows that are planned together, if a parcel is not larger. Planning more at a time would hold up
# the threads, whose requests are due every two milliseconds.
PLANNED_AT_ONCE = 16
# What is in flight when a run is to stop gets so long to finish.
GRACE_S = 10.0
LOOK_S = 0.2
_BUG = CallOutcome(CallStatus.UNKNOWN, message="this program failed while sending")
_LEFT = CallOutcome(CallStatus.UNKNOWN, message="no answer when the run had to end")


def not_attempted(row: Row) -> RowOutcome:
    """Return the outcome of a row that the run did not come to."""
    return RowOutcome(row["customer_id"], row["email"], NOT_SENT, NOT_SENT, attempted=False)


T = TypeVar("T")


def batches_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield *items* in lists of *size*, the last one shorter."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def deliver(  # noqa: PLR0913 - keyword-only
    rows: Iterable[Row],
    *,
    plan: Callable[[list[Row]], Plan],
    process: Callable[[Parcel], list[RowOutcome]],
    stop: Stop,
    workers: int,
    parcel_size: int = 1,
    head_start_s: float | None = HEAD_START_S,
    grace_s: float = GRACE_S,
) -> Iterator[list[RowOutcome]]:
    """Yield one outcome for each of *rows*, in lists, as they come.

    *plan* says what is to be sent of some rows; *process* sends one parcel of *parcel_size* tasks,
    in one of *workers* threads. The first parcel goes alone for *head_start_s* seconds, until it is
    done if that is None. After *stop*, a refused API key, an outage or an exception the remaining
    rows are ``not_attempted``, and what is in flight *grace_s* seconds later is ``unknown``. The
    exception, out of *process*, is raised at the end, when every row has its outcome.
    """
    crew = _Crew(process, stop, Outage(stop, parcel_size), workers, head_start_s, grace_s)
    try:
        for batch in batches_of(rows, max(parcel_size, PLANNED_AT_ONCE)):
            if stop.reason or crew.bugs:
                yield [not_attempted(row) for row in batch]
                continue
            settled, tasks = plan(batch)
            if settled:
                yield settled
            for parcel in batches_of(tasks, parcel_size):
                yield from crew.send(parcel)
        yield from crew.finish()
    finally:
        crew.dismiss()
    if crew.bugs:
        raise crew.bugs[0]


class _Crew:
    """Threads that send parcels. For every parcel handed over, outcomes come back."""

    def __init__(  # noqa: PLR0913, PLR0917 - what deliver() was told
        self,
        process: Callable[[Parcel], list[RowOutcome]],
        stop: Stop,
        outage: Outage,
        workers: int,
        head_start_s: float | None,
        grace_s: float,
    ) -> None:
        self.bugs: list[Exception] = []
        self._process = process
        self._stop = stop
        self._outage = outage
        self._most = workers + READY
        self._head_start_s = head_start_s
        self._grace_s = grace_s
        self._first = True
        self._pool = ThreadPoolExecutor(workers, "delivery")
        self._under_way: dict[Future[list[RowOutcome]], Parcel] = {}
        self._finished: queue.SimpleQueue[Future[list[RowOutcome]]] = queue.SimpleQueue()

    def send(self, parcel: Parcel) -> Iterator[list[RowOutcome]]:
        """Hand *parcel* over; yield outcomes until there is room for another."""
        if self._stop.reason or self.bugs:
            yield _untouched(parcel)
            return
        future = self._pool.submit(self._attempt, parcel)
        self._under_way[future] = parcel
        future.add_done_callback(self._finished.put)
        if self._first:
            self._first = False
            wait([future], timeout=self._head_start_s)
        while len(self._under_way) >= self._most:
            yield self._next()

    def finish(self) -> Iterator[list[RowOutcome]]:
        """Yield the outcomes of all that is under way."""
        while self._under_way:
            yield self._next()

    def dismiss(self) -> None:
        """Let the threads go. What has not begun does not begin."""
        overdue = self._stop.overdue(self._grace_s)
        self._pool.shutdown(wait=not overdue, cancel_futures=True)

    def _attempt(self, parcel: Parcel) -> list[RowOutcome]:
        """Send one parcel; in a thread."""
        if self._stop.reason or self.bugs:
            return _untouched(parcel)
        try:
            outcomes = self._process(parcel)
        except Exception as error:  # noqa: BLE001 - raised again by deliver(), when all rows are told
            self.bugs.append(error)
            return [outcome_of(task, _BUG, NOT_SENT) for task in parcel]
        if any(outcome.key_refused for outcome in outcomes):
            self._stop.request(StopReason.KEY_REFUSED)
        return outcomes

    def _next(self) -> list[RowOutcome]:
        """Return the outcomes of what has finished; wait for some, but not beyond the grace."""
        futures: list[Future[list[RowOutcome]]] = []
        while not futures:
            overdue = self._stop.overdue(self._grace_s)
            try:
                futures.append(self._finished.get(block=not overdue, timeout=LOOK_S))
            except queue.Empty:
                if overdue:
                    return self._abandon()
        while not self._finished.empty():
            futures.append(self._finished.get())
        for future in futures:
            del self._under_way[future]
        outcomes = [outcome for future in futures for outcome in future.result()]
        self._outage.look_at(outcomes)
        return outcomes

    def _abandon(self) -> list[RowOutcome]:
        """Return the outcomes of what has not finished, which nobody waits for any more."""
        outcomes = []
        for future, parcel in self._under_way.items():
            if future.cancel():
                outcomes += _untouched(parcel)
            else:
                outcomes += [outcome_of(task, _LEFT, NOT_SENT) for task in parcel]
        self._under_way.clear()
        return outcomes


def _untouched(parcel: Parcel) -> list[RowOutcome]:
    return [outcome_of(task, NOT_SENT, NOT_SENT) for task in parcel]
