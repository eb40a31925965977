"""A run's request to stop before its last row, and the signals and the deadline that make it."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from records.exit_statuses import StopReason


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


@contextmanager
def stopping(stop: Stop, deadline_s: float) -> Iterator[None]:
    """Let signals and, unless it is 0, the deadline ask the run to stop."""
    with signals_stop(stop), deadline_stops(stop, deadline_s):
        yield
