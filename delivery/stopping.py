"""Stops a run before its last row: on request, by a signal, or at the time limit."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from records.exit_statuses import StopReason

_SIGNALS = {
    signal.SIGINT: StopReason.SIGINT,
    signal.SIGTERM: StopReason.SIGTERM,
    signal.SIGHUP: StopReason.SIGTERM,
}
_SECOND_ENDS = (signal.SIGINT, signal.SIGTERM)
_FROM_OUTSIDE = {*_SIGNALS.values(), StopReason.DEADLINE}


class Stop:
    """A request to stop the run. The first reason is kept; *detail* is for the operator.

    A bug in this program stops the run too, without a reason: ``raise_bug()`` raises it once every
    row has its outcome.
    """

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.detail = ""
        # True during a long wait while no request is in flight.
        self.interrupts = False
        # True once every row has its outcome: signals and the time limit no longer change it.
        self.over = False
        self._bug: Exception | None = None
        self._since_s = 0.0
        self._event = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether the run must send nothing more."""
        return self.reason is not None or self._bug is not None

    def request(self, reason: StopReason, detail: str = "") -> None:
        """Ask the run to stop after the rows in flight.

        After the last row a signal or the time limit is too late to stop anything, but it ends the
        remaining waits, because the sender of a signal may kill the process soon.
        """
        too_late = self.over and reason in _FROM_OUTSIDE
        if self.reason is None and not too_late:
            self.detail = detail
            self._since_s = self._since_s or time.monotonic()
            self.reason = reason
        self._event.set()

    def fail(self, bug: Exception) -> None:
        """Ask the run to stop because of an unexpected exception."""
        self._since_s = self._since_s or time.monotonic()
        self._bug = self._bug or bug
        self._event.set()

    def raise_bug(self) -> None:
        """Raise the first unexpected exception, if there was one."""
        if self._bug is not None:
            raise self._bug

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal, also an earlier one, raise KeyboardInterrupt: a query may take minutes."""
        self.interrupts = True
        try:
            if self.reason in _SIGNALS.values():
                raise KeyboardInterrupt
            yield
        finally:
            self.interrupts = False

    def wait(self, seconds: float) -> bool:
        """Sleep for *seconds*, or until the run is to stop; return whether it is."""
        return self._event.wait(seconds)

    def overdue(self, grace_s: float) -> bool:
        """Whether the run was asked to stop more than *grace_s* seconds ago."""
        return self.requested and time.monotonic() - self._since_s > grace_s


@contextmanager
def stopping(stop: Stop, deadline_s: float = 0.0) -> Iterator[None]:
    """Let signals, and a deadline other than 0, ask the run to stop.

    A second SIGINT or SIGTERM ends the process at once. A second SIGHUP does not: a terminal that
    closes sends one, and its shell another. If the caller ignores SIGHUP, as nohup does, so does
    the run. When the run is over, it ignores all signals until the process ends.
    """

    def on_signal(number: int, _frame: object) -> None:
        if number in _SECOND_ENDS and not stop.over:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.request(_SIGNALS[signal.Signals(number)])
        if stop.interrupts:
            stop.interrupts = False
            raise KeyboardInterrupt

    timer = threading.Timer(deadline_s, stop.request, [StopReason.DEADLINE])
    timer.daemon = True
    if deadline_s:
        timer.start()
    for number in _SIGNALS:
        if number in _SECOND_ENDS or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, on_signal)
    try:
        yield
    finally:
        timer.cancel()
        stop.over = True
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
