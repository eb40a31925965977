"""Threads that send rows, in batches or one by one, and return the outcome of every row."""

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from delivery.bulk import Batch
from delivery.stopping import Stop
from records.outcomes import CallOutcome, CallStatus, Delivery

# Batches in flight: enough for 5 a second if the two requests of each take at most 1.6 s.
MOST_BATCHES = 8
# Number of requests that should wait for the limiter: it is then never idle, and more would only
# wait longer. As many rows are kept ready.
ENOUGH_WAITING = 16
# The same for batches, which are large; five of them leave in a second.
ENOUGH_BATCHES_WAITING = 2
# No batch is sent while this many rows wait to be sent singly, which takes two seconds.
MOST_OPEN = 1000
# How often to check whether the limiter needs more rows. It lets one through every 2 ms.
LOOK_S = 0.005
# Time for the requests in flight to finish after a stop.
GRACE_S = 10.0
_BUG = CallOutcome(CallStatus.UNKNOWN, message="this program failed while sending")
_ABANDONED = CallOutcome(CallStatus.UNKNOWN, message="the run ended before the answer came")
# Makes the calls of rows, and notes their outcomes in the rows.
_Send = Callable[[Batch], object]


@dataclass(eq=False)
class WorkerPool:
    """Sends rows in parallel; a context manager that ends its threads.

    ``send_batch`` sends a batch; rows that still have a call to make go to ``send_singly``, each
    alone. If it is None, all rows do. At most ``workers`` single rows are in flight, and no more
    than the limiters need: ``waiting`` returns the number of single and of bulk requests that wait
    for them. After a stop or an exception the pool sends nothing more; rows that are still in
    flight ``GRACE_S`` seconds later are ``unknown``.
    """

    stop: Stop
    send_singly: _Send
    send_batch: _Send | None
    workers: int
    waiting: Callable[[], tuple[int, int]]

    def __post_init__(self) -> None:
        # The executor starts a thread only if none is idle.
        most = self.workers + MOST_BATCHES
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="delivery")
        # Rows to send singly, and the rows that threads are sending.
        self._open: deque[Delivery] = deque()
        self._singles: dict[Future[object], Batch] = {}
        self._batches: dict[Future[object], Batch] = {}
        self._finished: queue.SimpleQueue[Future[object]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=not self.stop.overdue(GRACE_S))

    def send(self, batches: Iterable[Batch]) -> Iterator[list[Delivery]]:
        """Send *batches*, taking each when there is room; yield the rows as they are done.

        It also yields empty lists, when no answer has come for a while.
        """
        for batch in batches:
            if self.send_batch and not self.stop.requested:
                self._begin(self.send_batch, batch, self._batches)
            else:
                self._open.extend(batch)
            if len(self._singles) < ENOUGH_WAITING:
                self._begin_open()
            while self._is_full() or not self._finished.empty():
                yield self._collect()
        while self._open or self._singles or self._batches:
            yield self._collect()

    def _is_full(self) -> bool:
        if not self.send_batch:
            return len(self._open) >= ENOUGH_WAITING
        if len(self._batches) >= MOST_BATCHES or len(self._open) >= MOST_OPEN:
            return True
        return self.waiting()[1] >= ENOUGH_BATCHES_WAITING

    def _collect(self) -> list[Delivery]:
        """Return the rows that are done now; an empty list after a while without any."""
        self._begin_open()
        done: list[Delivery] = []
        with suppress(queue.Empty):
            finished = self._finished.get(timeout=LOOK_S)
            while True:
                done += self._done(finished)
                finished = self._finished.get_nowait()
        if self.stop.overdue(GRACE_S):
            done += self._abandon()
        if self.stop.requested:
            done += self._open
            self._open.clear()
        return done

    def _begin_open(self) -> None:
        """Start to send as many single rows as the limiter needs now."""
        if self.stop.requested:
            return
        room = min(ENOUGH_WAITING - self.waiting()[0], self.workers - len(self._singles))
        for _ in range(min(room, len(self._open))):
            self._begin(self.send_singly, [self._open.popleft()], self._singles)

    def _begin(self, send: _Send, rows: Batch, in_flight: dict[Future[object], Batch]) -> None:
        try:
            future = self._threads.submit(send, rows)
        except RuntimeError as error:
            # The system allows no more threads. A running one may have taken the rows.
            future = Future()
            future.set_exception(error)
        in_flight[future] = rows
        future.add_done_callback(self._finished.put)

    def _done(self, future: Future[object]) -> list[Delivery]:
        """Return the rows that were sent, none if they were abandoned; keep those left open.

        An exception of the sender is raised again once all rows have their outcome.
        """
        rows = self._singles.pop(future, None) or self._batches.pop(future, ())
        if rows and isinstance(bug := future.exception(), Exception):
            self.stop.fail(bug)
            return [row.ended(_BUG) for row in rows]
        self._open.extend(row for row in rows if row.next_call)
        return [row for row in rows if not row.next_call]

    def _abandon(self) -> list[Delivery]:
        """Return the rows in flight, and stop waiting for them."""
        given_up = [*self._singles.values(), *self._batches.values()]
        self._singles.clear()
        self._batches.clear()
        return [row.ended(_ABANDONED) for rows in given_up for row in rows]
