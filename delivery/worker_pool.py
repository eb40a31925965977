"""Threads that send rows, in batches or one by one; for every row, its outcome comes back."""

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from delivery.bulk import Batch
from delivery.stopping import Stop
from records.outcomes import CallOutcome, CallStatus, PreparedRow, RowOutcome, outcome_of

# Batches in flight: enough for 5 a second, if the two requests of each take no more than 1.6 s.
MOST_BATCHES = 8
# Rows are sent singly as long as fewer requests than this wait for the limiter: it is never idle
# then, and more would only wait too. The same number of rows is kept at hand.
ENOUGH_WAITING = 16
# The same for batches, which are large and five a second.
ENOUGH_BATCHES_WAITING = 2
# No batch is sent while so many rows of others are to be sent singly, which takes two seconds.
MOST_OPEN = 1000
# How often to look whether the limiter has use for more rows. It lets one through in 2 ms.
LOOK_S = 0.005
# What is in flight when a run is to stop gets so long to finish.
GRACE_S = 10.0
_BUG = CallOutcome(CallStatus.UNKNOWN, message="this program failed while sending")
_ABANDONED = CallOutcome(CallStatus.UNKNOWN, message="the run ended before the answer came")
# What sends rows, and returns them with what came of it.
_Send = Callable[[Batch], Batch]


@dataclass(eq=False)
class WorkerPool:
    """Sends rows in parallel; a context manager that lets its threads go at the end.

    ``send_batch`` sends a batch; the rows that it leaves open go to ``send_singly``, each alone. If
    it is None every row does. At most ``workers`` do at a time, and no more than the limiters have
    use for: ``waiting`` returns how many single and bulk requests wait for them. After a stop or an
    exception nothing more is sent, and what is in flight ``GRACE_S`` seconds later is ``unknown``.
    """

    stop: Stop
    send_singly: _Send
    send_batch: _Send | None
    workers: int
    waiting: Callable[[], tuple[int, int]]

    def __post_init__(self) -> None:
        # It starts a thread only when none is idle.
        most = self.workers + MOST_BATCHES
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="delivery")
        # Rows that are to be sent singly, and what the threads are sending.
        self._open: deque[PreparedRow] = deque()
        self._singles: dict[Future[Batch], Batch] = {}
        self._batches: dict[Future[Batch], Batch] = {}
        self._finished: queue.SimpleQueue[Future[Batch]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=not self.stop.overdue(GRACE_S))

    def send(self, batches: Iterable[Batch]) -> Iterator[list[RowOutcome]]:
        """Send *batches*, each taken when there is room for it; yield outcomes as they come back.

        What is yielded is empty now and then, when nothing has come back for a while.
        """
        for batch in batches:
            if self.send_batch and not self.stop.requested:
                self._begin(self.send_batch, batch, self._batches)
            else:
                self._open.extend(batch)
            if len(self._singles) < ENOUGH_WAITING:
                self._begin_open()
            while self._is_full() or not self._finished.empty():
                yield self._take()
        while self._open or self._singles or self._batches:
            yield self._take()

    def _is_full(self) -> bool:
        if not self.send_batch:
            return len(self._open) >= ENOUGH_WAITING
        if len(self._batches) >= MOST_BATCHES or len(self._open) >= MOST_OPEN:
            return True
        return self.waiting()[1] >= ENOUGH_BATCHES_WAITING

    def _take(self) -> list[RowOutcome]:
        """Return the outcomes that have come back; after a while perhaps none."""
        self._begin_open()
        outcomes: list[RowOutcome] = []
        with suppress(queue.Empty):
            finished = self._finished.get(timeout=LOOK_S)
            while True:
                outcomes += self._settle(finished)
                finished = self._finished.get_nowait()
        if self.stop.overdue(GRACE_S):
            outcomes += self._abandon()
        if self.stop.requested:
            outcomes += map(outcome_of, self._open)
            self._open.clear()
        return outcomes

    def _begin_open(self) -> None:
        """Begin to send as many rows singly as there is use for now."""
        if self.stop.requested:
            return
        room = min(ENOUGH_WAITING - self.waiting()[0], self.workers - len(self._singles))
        for _ in range(min(room, len(self._open))):
            self._begin(self.send_singly, [self._open.popleft()], self._singles)

    def _begin(self, send: _Send, rows: Batch, in_flight: dict[Future[Batch], Batch]) -> None:
        try:
            future = self._threads.submit(send, rows)
        except RuntimeError as error:
            # The system gives no more threads. One that there is may have taken the rows.
            future = Future()
            future.set_exception(error)
        in_flight[future] = rows
        future.add_done_callback(self._finished.put)

    def _settle(self, future: Future[Batch]) -> list[RowOutcome]:
        """Return the outcomes of what was sent, none if it was given up; keep the rows left open.

        What the sending raised is raised again when all rows have their outcome.
        """
        rows = self._singles.pop(future, None) or self._batches.pop(future, None)
        if rows is None:
            return []
        if isinstance(bug := future.exception(), Exception):
            self.stop.fail(bug)
            return [outcome_of(row.after(_BUG)) for row in rows]
        done = future.result()
        self._open.extend(row for row in done if row.next_call)
        return [outcome_of(row) for row in done if not row.next_call]

    def _abandon(self) -> list[RowOutcome]:
        """Return the outcomes of the rows in flight, for which nobody waits any more."""
        given_up = [*self._singles.values(), *self._batches.values()]
        self._singles.clear()
        self._batches.clear()
        return [outcome_of(row.after(_ABANDONED)) for rows in given_up for row in rows]
