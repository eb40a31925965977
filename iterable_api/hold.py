"""Patience with an endpoint that gives no definite answer: all wait, and one at a time tries it.

An outage is outlived by time. What waits here uses up no attempt of its call, however many threads
there are.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# After a probe without a definite answer the next one waits twice as long, within these.
FIRST_PROBE_S = 0.5
LONGEST_PROBE_S = 30.0
# How often a thread that waits looks whether an answer has ended the waiting.
POLL_S = 0.1


class Silence(NamedTuple):
    """For how long an endpoint has given no definite answer, and why, in words."""

    seconds: float = 0.0
    cause: str = ""


class Hold:
    """Holds back the requests to one endpoint while it is silent, or when it asks for a pause.

    It is silent from the departure of a request that got no definite answer, if no other request
    has got one since; the next definite answer opens it. Meanwhile a request is let through now and
    then: the probe. Every probe must be reported to ``unanswered()`` or to ``release()``.

    *wait* sleeps for the seconds it is given and returns True when the run is to stop. What it has
    slept counts, whatever the clock says. ``until_s`` is when requests may depart again, by
    time.monotonic(); it may be read at any time, so that a look at it is all that is to be done for
    an endpoint that answers.
    """

    def __init__(self, wait: Callable[[float], bool]) -> None:
        self.until_s = 0.0
        self._wait = wait
        self._lock = threading.Lock()
        self._answered_s = -math.inf
        self._silent_since_s: float | None = None
        self._failed_s = 0.0
        self._cause = ""
        self._paused_until_s = 0.0
        self._probe_due_s = 0.0
        self._probe_after_s = FIRST_PROBE_S
        self._probes = 0
        # Number of the probe that is under way, 0 for none.
        self._probe = 0
        self._waiting = False
        self._waited_until_s = 0.0

    def enter(self) -> int | None:
        """Wait until a request may depart; return the number of the probe that it is, 0 for none.

        Returns None when the run is to stop. For one thread at a time.
        """
        self._waiting = True
        try:
            while (left_s := self._left_s()) > 0:
                until_s = self._now_s() + min(left_s, POLL_S)
                if self._wait(min(left_s, POLL_S)):
                    return None
                self._waited_until_s = max(self._waited_until_s, until_s)
            return self._let_through()
        finally:
            self._waiting = False

    def answered(self, now_s: float) -> None:
        """Note a definite answer, which came at *now_s*."""
        self._answered_s = now_s
        if self._silent_since_s is not None:
            with self._lock:
                if self._silent_since_s is not None and self._silent_since_s <= now_s:
                    self._open()

    def unanswered(self, departed_s: float, probe: int, cause: str) -> None:
        """Note that the request which left at *departed_s* got no definite answer."""
        with self._lock:
            self._failed_s, self._cause = time.monotonic(), cause
            if self._silent_since_s is not None:
                self._silent_since_s = min(self._silent_since_s, departed_s)
                if probe and probe == self._probe:
                    self._probe = 0
                    self._probe_after_s = min(2 * self._probe_after_s, LONGEST_PROBE_S)
                    self._probe_due_s = self._now_s() + self._probe_after_s
            elif self._answered_s < departed_s:
                self._silent_since_s = departed_s
                self._probe_after_s = FIRST_PROBE_S
                self._probe_due_s = self._now_s() + FIRST_PROBE_S
                self.until_s = math.inf
                # An answer may have come since, and answered() not yet seen the silence.
                if self._answered_s >= departed_s:
                    self._open()

    def release(self, probe: int) -> None:
        """Let another probe go if the one of this number has come to nothing."""
        if probe:
            with self._lock:
                if probe == self._probe:
                    self._probe = 0

    def given_up(self) -> None:
        """Note that a call was given up. If nobody else waits, its own request may be to blame.

        Then the next one need not wait as long as that one had to in the end.
        """
        with self._lock:
            if self._silent_since_s is not None and not (self._waiting or self._probe):
                self._probe_after_s = FIRST_PROBE_S
                self._probe_due_s = min(self._probe_due_s, self._now_s() + FIRST_PROBE_S)

    def pause(self, seconds: float) -> None:
        """Let nothing through for *seconds*, as the endpoint has asked for."""
        with self._lock:
            self._paused_until_s = max(self._paused_until_s, self._now_s() + seconds)
            if self._silent_since_s is None:
                self.until_s = self._paused_until_s

    @property
    def silence(self) -> Silence:
        """How long the endpoint has been silent, as far as it was asked."""
        with self._lock:
            if self._silent_since_s is None:
                return Silence()
            asked = self._waiting or self._probe
            until_s = time.monotonic() if asked else self._failed_s
            return Silence(max(0.0, until_s - self._silent_since_s), self._cause)

    def _left_s(self) -> float:
        """Return how long to wait at least, as it looks now."""
        with self._lock:
            now_s = self._now_s()
            pause_s = self._paused_until_s - now_s
            if self._silent_since_s is None:
                return pause_s
            return max(pause_s, POLL_S if self._probe else self._probe_due_s - now_s)

    def _let_through(self) -> int:
        with self._lock:
            if self._silent_since_s is None:
                if self._paused_until_s <= self._now_s():
                    self.until_s = 0.0
                return 0
            self._probes += 1
            self._probe = self._probes
            return self._probe

    def _open(self) -> None:
        self._silent_since_s = None
        self._probe = 0
        self.until_s = self._paused_until_s

    def _now_s(self) -> float:
        return max(time.monotonic(), self._waited_until_s)
