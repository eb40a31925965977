"""Paces the requests to one endpoint: evenly, more slowly after 429, one by one without answers.

Iterable's rate limits are for a whole project, so its other programs use a part of them.

- Pace: requests depart at even intervals, a little below the limit.
- Overload: when too many of the last second's answers are 429, the rate falls to the number of
  requests that were accepted in that second. Then it climbs back along a cubic: slowly at first,
  because others may still use the limit, then faster.
- Silence: a request got no definite answer, and no other request has got one since it departed.
  Then one request a second departs, until the first definite answer.
"""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

# The requests of one second are spread over this many, as some arrive late and others early.
SPREAD_S = 1.015
# If a thread wakes up late, the next requests make up for at most this much of the lost time.
CATCH_UP_S = 0.01
# Share of the limit that may be answered 429 in a second without lowering the rate: some such
# answers come at random, or because a request was late.
TOLERATED_SHARE = 0.04
# Time after an overload until the rate is back at the limit.
CLIMB_S = 4.0
# A 429 with a shorter Retry-After causes no pause: the lower rate is enough.
SHORT_PAUSE_S = 1.0
# Pause between two requests to a silent endpoint.
PROBE_S = 1.0
# Length of a silence after which the run is asked to stop.
OUTAGE_S = 60.0
# Interval at which a waiting thread checks for new answers and for a stop.
POLL_S = 0.1
MAX_BACKOFF_DOUBLINGS = 5


def backoff_s(attempt: int) -> float:
    """Return how many seconds to wait after failed attempt number *attempt* (1 is the first).

    A random time up to 1 s, 2 s, 4 s ... 32 s ("full jitter"), so that many clients do not retry at
    the same instant.
    """
    longest_s = 2.0 ** min(attempt - 1, MAX_BACKOFF_DOUBLINGS)
    return random.uniform(0, longest_s)  # noqa: S311 - no secret


class Kind(Enum):
    """Result of a request."""

    ACCEPTED = auto()  # a definite answer other than 429
    THROTTLED = auto()  # 429
    UNANSWERED = auto()  # no definite answer


class Report(NamedTuple):
    """Result of the request that departed at *departed_s*; it came at *at_s*."""

    kind: Kind
    departed_s: float
    at_s: float
    pause_s: float
    cause: str


class Limiter:
    """Lets at most *per_second* requests depart in a second; may be shared by threads.

    Every request takes its turn by ``acquire()``, and ``report()`` takes its result. *wait* sleeps
    for a number of seconds and returns True if the run is to stop. *outage* is called, with the
    reason in words, when a request fails after a silence of ``OUTAGE_S``. An answer at the *twin*,
    the single or bulk endpoint for the same rows, counts like one here.

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
        # Seconds in which 429 answers kept the rate below the limit.
        self.throttled_seconds = 0.0
        self._wait = wait
        self._outage = outage
        self._lock = threading.Lock()
        self._reports: deque[Report] = deque()
        # One item for each thread in acquire(), because appending needs no lock.
        self._waiting: list[None] = []
        # When the last request departed; if it departed late, a little before that.
        self._departed_s = -math.inf
        self._paused_until_s = -math.inf
        # When the answers of the last second came, and when the rate last fell (the cut).
        self._accepted: deque[float] = deque()
        self._throttled: deque[float] = deque()
        self._cut_s = -math.inf
        self._free = per_second
        # The latest silence: when its first and its last request failed, and its length.
        self._silent_from_s = self._failed_s = -math.inf
        self._silent_s = 0.0

    @property
    def waiting(self) -> int:
        """Number of requests that wait in ``acquire()`` now."""
        return len(self._waiting)

    def acquire(self) -> float | None:
        """Wait for this request's turn; return when it departs, None if the run is to stop."""
        self._waiting.append(None)
        try:
            with self._lock:
                return self._depart()
        finally:
            self._waiting.pop()

    def report(self, kind: Kind, departed_s: float, pause_s: float = 0.0, cause: str = "") -> None:
        """Note the result of a request, the pause that the answer asks for, and why it failed."""
        now_s = time.monotonic()
        if kind is not Kind.UNANSWERED:
            self.answered_s = now_s
        self._reports.append(Report(kind, departed_s, now_s, pause_s, cause))

    def _depart(self) -> float | None:
        while (early_s := self._due_s() - time.monotonic()) > 0:
            # A short wait is not interrupted: a stop lets the rows in flight finish.
            if early_s < POLL_S and not self._silent:
                time.sleep(early_s)
            elif self._wait(min(early_s, POLL_S)):
                return None
        now_s = time.monotonic()
        if self._rate(now_s) < self.per_second:
            self.throttled_seconds += now_s - max(self._cut_s, self._departed_s)
        self._departed_s = max(self._paced_s(now_s), now_s - CATCH_UP_S)
        return now_s

    def _due_s(self) -> float:
        """Return when the next request may depart, by the reports up to now."""
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

    def _paced_s(self, now_s: float) -> float:
        gap_s = SPREAD_S / self._rate(now_s)
        return self._departed_s + (max(gap_s, PROBE_S) if self._silent else gap_s)

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
            # Requests from before the cut say nothing about the rate since.
            self._throttled.append(report.at_s)

    def _count_silence(self, report: Report) -> None:
        if not self._silent:
            self._silent_from_s = self._failed_s = report.at_s
            self._silent_s = 0.0
        # A longer gap is that of a frozen process, or of an endpoint without requests.
        self._silent_s += min(report.at_s - self._failed_s, OUTAGE_S / 2)
        self._failed_s = report.at_s
        if self._silent_s >= OUTAGE_S:
            self._outage(f"no definite answer for {self._silent_s:.0f} s; {report.cause}")
