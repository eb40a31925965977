"""Pace of the requests to one endpoint: even, slower after 429, patient while there is no answer.

Iterable limits the requests of a whole project, and other programs of the project share its limits.

- Pace: requests depart at even intervals, a little below the limit.
- Overload: when too many of the last second's answers are 429, the rate falls to the number of
  requests that were accepted in that second. Then it climbs back along a cubic: slowly at first, as
  others may still use the limit, then ever faster.
- Silence: a request got no definite answer, and no other has got one since that request departed.
  Then requests depart one by one, with growing pauses, until the first definite answer.
"""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

# A second's worth of requests takes this many seconds, as some arrive late and others early.
SPREAD_S = 1.015
# A thread that woke up late departs at once, and of the time lost this much is made up for.
CATCH_UP_S = 0.01
# Answers 429 within a second that do not lower the rate, as a share of the limit: some come at
# random, or because a request was late.
TOLERATED_SHARE = 0.04
# After an overload the rate is back at the limit after this time.
CLIMB_S = 4.0
# A 429 whose Retry-After is at most this stops nobody: the lower rate is answer enough.
SHORT_PAUSE_S = 1.0
# The first and the longest pause between two requests to a silent endpoint; each doubles the last.
FIRST_PROBE_S = 0.5
LONGEST_PROBE_S = 8.0
# After a silence of this length the run is asked to stop.
OUTAGE_S = 60.0
# A thread that waits for longer looks for new answers, and for a stop, this often.
POLL_S = 0.1
MAX_BACKOFF_DOUBLINGS = 5


def backoff_s(attempt: int) -> float:
    """Return how many seconds to wait after failed attempt number *attempt* (1 is the first).

    Anything from 0 to 1 s, 0 to 2 s, 0 to 4 s ... up to 0 to 32 s: "full jitter", so that many
    clients do not return at the same instant.
    """
    longest_s = 2.0 ** min(attempt - 1, MAX_BACKOFF_DOUBLINGS)
    return random.uniform(0, longest_s)  # noqa: S311 - no secret


class Kind(Enum):
    """What came of a request."""

    ACCEPTED = auto()  # a definite answer other than 429
    THROTTLED = auto()  # 429
    UNANSWERED = auto()  # no definite answer


class Report(NamedTuple):
    """What came of the request that departed at *departed_s*, and when."""

    kind: Kind
    departed_s: float
    at_s: float
    pause_s: float
    cause: str


class Limiter:
    """Lets at most *per_second* requests depart in a second; may be shared by threads.

    Every request takes its turn by ``acquire()``; what came of it goes to ``report()``. *wait*
    sleeps for the seconds it is given and returns True when the run is to stop. *outage* is called,
    with the reason in words, when a request fails after a silence of ``OUTAGE_S``. An answer at the
    *twin*, the endpoint that takes the same rows otherwise, is as good as one here.

    One thread at a time holds the lock: the one whose turn is next. It reads the reports, waits,
    and departs. The others only append reports to a queue, for which they need no lock.
    """

    def __init__(
        self,
        per_second: float,
        *,
        wait: Callable[[float], bool | None] = time.sleep,
        outage: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.per_second = per_second
        self.twin: Limiter | None = None
        # When a definite answer came last.
        self.answered_s = -math.inf
        # Seconds in which answers 429 held the rate below the limit.
        self.throttled_seconds = 0.0
        self._wait = wait
        self._outage = outage
        self._lock = threading.Lock()
        self._reports: deque[Report] = deque()
        # One item for each thread in acquire(), as to add one takes no lock.
        self._waiting: list[None] = []
        # When the last request departed; if it departed late, a little before that.
        self._departed_s = -math.inf
        self._paused_until_s = -math.inf
        # When answers of the last second came. A cut is the moment at which the rate fell.
        self._accepted: deque[float] = deque()
        self._throttled: deque[float] = deque()
        self._cut_s = -math.inf
        self._free = per_second
        # Of the latest silence: when it began; the pause before its next request; its length, and
        # the moment up to which that is counted.
        self._silent_from_s = -math.inf
        self._probe_s = FIRST_PROBE_S
        self._silent_s = self._counted_s = 0.0

    @property
    def waiting(self) -> int:
        """Number of requests that wait in ``acquire()`` now."""
        return len(self._waiting)

    def acquire(self) -> float | None:
        """Wait for this request's turn; return when it departs, None when the run is to stop."""
        self._waiting.append(None)
        try:
            with self._lock:
                return self._depart()
        finally:
            self._waiting.pop()

    def report(self, kind: Kind, departed_s: float, pause_s: float = 0.0, cause: str = "") -> None:
        """Note what came of a request, the pause that its answer asks for, and why it failed."""
        now_s = time.monotonic()
        if kind is not Kind.UNANSWERED:
            self.answered_s = now_s
        self._reports.append(Report(kind, departed_s, now_s, pause_s, cause))

    def _depart(self) -> float | None:
        while (early_s := self._due_s() - time.monotonic()) > 0:
            # The pace lets requests through soon, also those that finish a run that is to stop.
            if early_s < POLL_S and not self._silent:
                time.sleep(early_s)
            elif not self._sleep(min(early_s, POLL_S)):
                return None
        now_s = time.monotonic()
        if self._rate(now_s) < self.per_second:
            self.throttled_seconds += now_s - max(self._cut_s, self._departed_s)
        self._departed_s = max(self._paced_s(now_s), now_s - CATCH_UP_S)
        if self._silent:
            self._probe_s = min(2 * self._probe_s, LONGEST_PROBE_S)
        return now_s

    def _due_s(self) -> float:
        """Return when a request may depart, as it looks now."""
        now_s = time.monotonic()
        while self._reports:
            self._read(self._reports.popleft())
        self._give_way(now_s)
        return max(self._paced_s(now_s), self._paused_until_s)

    @property
    def _last_answer_s(self) -> float:
        """When a definite answer came last, here or at the twin."""
        return max(self.answered_s, self.twin.answered_s if self.twin else -math.inf)

    @property
    def _silent(self) -> bool:
        return self._silent_from_s > self._last_answer_s

    def _sleep(self, seconds: float) -> bool:
        """Sleep; return False when the run is to stop. In a silence this counts."""
        if self._wait(seconds):
            return False
        if self._silent:
            # Not what the clock says: a process that was frozen has not waited for Iterable.
            self._silent_s += seconds
            self._counted_s = time.monotonic()
        return True

    def _paced_s(self, now_s: float) -> float:
        gap_s = self._probe_s if self._silent else SPREAD_S / self._rate(now_s)
        return self._departed_s + gap_s

    def _rate(self, now_s: float) -> float:
        climbed = min(1.0, (now_s - self._cut_s) / CLIMB_S) ** 3
        return self._free + (self.per_second - self._free) * climbed

    def _give_way(self, now_s: float) -> None:
        """Lower the rate if too many of the last second's answers are 429."""
        for answers in (self._accepted, self._throttled):
            while answers and answers[0] <= now_s - 1:
                answers.popleft()
        if len(self._throttled) > TOLERATED_SHARE * self.per_second:
            self._free = min(self.per_second, max(1, len(self._accepted)))
            self._cut_s = now_s
            self._throttled.clear()

    def _read(self, report: Report) -> None:
        if report.pause_s > SHORT_PAUSE_S or report.kind is not Kind.THROTTLED:
            self._paused_until_s = max(self._paused_until_s, report.at_s + report.pause_s)
        if report.kind is Kind.UNANSWERED:
            if report.departed_s > self._last_answer_s:
                self._count_silence(report)
        elif report.kind is Kind.ACCEPTED:
            self._accepted.append(report.at_s)
        elif report.departed_s > self._cut_s:
            # What departed before tells nothing of the rate since.
            self._throttled.append(report.at_s)

    def _count_silence(self, report: Report) -> None:
        if not self._silent:
            self._silent_from_s = self._counted_s = report.at_s
            self._silent_s, self._probe_s = 0.0, FIRST_PROBE_S
        # The request waited for its answer, too. The limit is for a process that was frozen.
        waited_s = report.at_s - max(report.departed_s, self._counted_s)
        self._silent_s += max(0.0, min(waited_s, OUTAGE_S / 2))
        self._counted_s = max(self._counted_s, report.at_s)
        if self._silent_s >= OUTAGE_S:
            self._outage(f"no definite answer for {self._silent_s:.0f} s; {report.cause}")
