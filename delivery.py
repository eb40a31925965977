"""Many rows: keeps enough of them in flight, yields outcomes as they come, knows when to stop."""

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from enum import Enum, auto

from outcomes import NOT_SENT, CallOutcome, CallStatus, Row, RowOutcome

# Rows that are delivered together: one in per-user mode, a batch in bulk mode.
Parcel = Sequence[Row]

# The first request goes ahead alone for so long: Iterable refuses a key within milliseconds, and
# then nothing else need leave.
HEAD_START_S = 0.05
READY = 8

_UNKNOWN = CallOutcome(CallStatus.UNKNOWN, message="this program failed while sending")


class StopReason(Enum):
    """Why a run ends before its last row."""

    KEY_REFUSED = auto()
    EVERY_ROW_REFUSED = auto()
    SIGINT = auto()
    SIGTERM = auto()


class Stop:
    """A run's request to stop. The first reason given is kept; *detail* is for the operator."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.detail = ""
        # True once rows are being sent: from then on a stop lets those in flight finish.
        self.finish_rows_first = False
        self._event = threading.Event()

    def request(self, reason: StopReason, detail: str = "") -> None:
        """Ask the run to stop after the rows in flight."""
        if self.reason is None:
            self.detail = detail
            self.reason = reason
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleep for *seconds*, less if the run is to stop; return whether it is to stop."""
        return self._event.wait(seconds)


def not_attempted(row: Row) -> RowOutcome:
    """Return the outcome of a row that the run did not come to."""
    return RowOutcome(row["customer_id"], row["email"], NOT_SENT, NOT_SENT, attempted=False)


def parcels_of(rows: Iterable[Row], size: int) -> Iterator[Parcel]:
    """Yield *rows* in lists of *size*, the last one shorter."""
    remaining = iter(rows)
    while parcel := list(itertools.islice(remaining, size)):
        yield parcel


def deliver(
    parcels: Iterable[Parcel],
    process: Callable[[Parcel], list[RowOutcome]],
    stop: Stop,
    *,
    workers: int,
    head_start_s: float | None = HEAD_START_S,
) -> Iterator[RowOutcome]:
    """Yield one outcome for each row of *parcels*, as they come.

    *process* delivers one parcel, in one of *workers* threads. The first parcel goes alone for
    *head_start_s* seconds, until it is done if that is None. After *stop*, a refused API key or an
    exception out of *process* the remaining rows are ``not_attempted``; the exception is raised at
    the end, when every row has its outcome.
    """
    bugs: list[Exception] = []

    def attempt(parcel: Parcel) -> list[RowOutcome]:
        if stop.reason or bugs:
            return [not_attempted(row) for row in parcel]
        try:
            outcomes = process(parcel)
        except Exception as error:  # noqa: BLE001 - raised again below, when all rows are told
            bugs.append(error)
            return [RowOutcome(r["customer_id"], r["email"], _UNKNOWN, NOT_SENT) for r in parcel]
        if any(outcome.key_refused for outcome in outcomes):
            stop.request(StopReason.KEY_REFUSED)
        return outcomes

    for outcomes in _in_parallel(attempt, parcels, workers, head_start_s):
        yield from outcomes
    if bugs:
        raise bugs[0]


def _in_parallel(
    attempt: Callable[[Parcel], list[RowOutcome]],
    parcels: Iterable[Parcel],
    workers: int,
    head_start_s: float | None,
) -> Iterator[list[RowOutcome]]:
    """Yield what *attempt* returns for each parcel, in the order in which they finish."""
    finished: queue.SimpleQueue[Future[list[RowOutcome]]] = queue.SimpleQueue()
    under_way = 0
    first = True
    pool = ThreadPoolExecutor(workers, "delivery")
    try:
        for parcel in parcels:
            pool.submit(attempt, parcel).add_done_callback(finished.put)
            under_way += 1
            with suppress(queue.Empty):
                # Beyond the threads a few wait, so that one that is done finds its next at once.
                if first or under_way >= workers + READY:
                    yield finished.get(timeout=head_start_s if first else None).result()
                    under_way -= 1
            first = False
        for _ in range(under_way):
            yield finished.get().result()
    finally:
        # After an exception in whoever takes the outcomes, what has not begun does not begin.
        pool.shutdown(cancel_futures=True)
