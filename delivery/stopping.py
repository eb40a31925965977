"""When a run ends before its last row: asked by a signal, a deadline or what Iterable answers."""

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum, auto

from records.outcomes import CallStatus, RowOutcome, RowStatus

# Iterable is down when this many rows, and parcels, in a row got no answer that settles them, or
# when none did for this long.
OUTAGE_ROWS = 100
OUTAGE_PARCELS = 3
OUTAGE_S = 300.0

_UNANSWERED = frozenset({CallStatus.UNAVAILABLE, CallStatus.UNKNOWN})


class StopReason(Enum):
    """Why a run ends before its last row."""

    ROW_COUNT = auto()
    KEY_REFUSED = auto()
    EVERY_ROW_REFUSED = auto()
    OUTAGE = auto()
    DEADLINE = auto()
    NOT_RECORDED = auto()
    SIGINT = auto()
    SIGTERM = auto()


class Stop:
    """A run's request to stop. The first reason given is kept; *detail* is for the operator."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.detail = ""
        # True once rows are being sent: from then on a stop lets those in flight finish.
        self.finish_rows_first = False
        self._since_s = 0.0
        self._event = threading.Event()

    def request(self, reason: StopReason, detail: str = "") -> None:
        """Ask the run to stop after the rows in flight."""
        if self.reason is None:
            self.detail = detail
            self._since_s = time.monotonic()
            self.reason = reason
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleep for *seconds*, less if the run is to stop; return whether it is to stop."""
        return self._event.wait(seconds)

    def overdue(self, grace_s: float) -> bool:
        """Whether the run was asked to stop more than *grace_s* seconds ago."""
        return self.reason is not None and time.monotonic() - self._since_s > grace_s


class Outage:
    """Asks a run to stop when Iterable is down, so that the rest of the rows is not spent on it."""

    def __init__(self, stop: Stop, parcel_size: int) -> None:
        self._stop = stop
        self._most = max(OUTAGE_ROWS, OUTAGE_PARCELS * parcel_size)
        self._rows = 0
        self._since_s = 0.0

    def look_at(self, outcomes: Iterable[RowOutcome]) -> None:
        """Take note of what became of some more rows."""
        for outcome in outcomes:
            if outcome.status is RowStatus.SUCCESSFUL:
                self._rows = 0
                continue
            statuses = {outcome.users_update.status, outcome.events_track.status}
            if not statuses & _UNANSWERED:
                # Unchanged and not attempted rows say nothing about Iterable.
                if statuses & {CallStatus.DELIVERED, CallStatus.REFUSED}:
                    self._rows = 0
                continue
            if self._rows == 0:
                self._since_s = time.monotonic()
            self._rows += 1
            self._stop_if_down()

    def _stop_if_down(self) -> None:
        seconds = time.monotonic() - self._since_s
        if self._rows >= self._most or seconds > OUTAGE_S:
            text = (
                f"the last {self._rows} rows, in {seconds:.0f} s, got no answer that settles them"
            )
            self._stop.request(StopReason.OUTAGE, text)


@contextmanager
def deadline_stops(stop: Stop, seconds: float) -> Iterator[None]:
    """Ask the run to stop after *seconds*; 0 means never."""
    timer = threading.Timer(seconds, stop.request, [StopReason.DEADLINE])
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def signals_stop(stop: Stop) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a request to stop; a second one ends at once.

    While nothing is being sent the signal interrupts, because a query may take minutes.
    """
    reasons = {signal.SIGINT: StopReason.SIGINT, signal.SIGTERM: StopReason.SIGTERM}

    def on_signal(number: int, _frame: object) -> None:
        for each in reasons:
            signal.signal(each, signal.SIG_DFL)
        stop.request(reasons[signal.Signals(number)])
        if not stop.finish_rows_first:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in reasons}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
