"""Pace of the requests: one limiter for each endpoint, shared by all threads.

Iterable limits the requests of a whole project, whoever sends them. A limiter keeps this job under
its share, and gives way when an answer 429 says that others need more than was left to them. An
endpoint that gives no definite answer is given time, as hold.py has it.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from iterable_api.backoff import sleep
from iterable_api.hold import Hold, Silence

WINDOW_S = 1.0
# On its way to where it is counted a request loses a few milliseconds more, or fewer, than the one
# before it. A limiter's worth of requests therefore takes this much longer than a second.
JITTER_S = 0.017
# How much of the time lost by a thread that woke up late may be made up for.
CATCH_UP_S = 0.02
# A 429 lowers the rate to this share of what was accepted in the last second ...
GIVE_WAY = 0.95
# ... but not below this share of the limit, which the rate wins back every second.
RECOVERY = 0.01


@dataclass(slots=True, eq=False)
class Permit:
    """Permission for one request to depart.

    ``departed_s`` is when that was, by time.monotonic(). Whoever sends the request sets it anew
    once the request is on the wire: connecting, and waiting for the processor, can take longer
    than the pace has room for. ``probe`` is the request's number if it tries a silent endpoint.
    """

    departed_s: float
    probe: int = 0


class RateLimiter:
    """Lets at most *per_second* requests depart in any one second, evenly spread.

    *per_second* need not be whole. Every request must ``acquire()`` a permit and in the end
    ``release()`` it; every request that departs must be ``accepted()``, ``throttled()`` or
    ``unanswered()``. All methods may be called from any thread. *wait* sleeps for the seconds it is
    given and returns True when the run is to stop.
    """

    def __init__(self, per_second: float, *, wait: Callable[[float], bool] = sleep) -> None:
        self.per_second = per_second
        self._hold = Hold(wait)
        self._gate = threading.Lock()
        self._departures: deque[Permit] = deque(maxlen=math.ceil(per_second))
        self._next_s = 0.0
        # One item for each thread in acquire(): to add one, or to count them, takes no lock.
        self._waiting: list[None] = []
        self._accepted_at_s: deque[float] = deque(maxlen=math.ceil(per_second))
        self._lowering = threading.Lock()
        # To which rate the last 429 led, and when. One tuple, as it is read without a lock.
        self._lowered = (per_second, -math.inf)
        self._throttled_s = 0.0

    @property
    def waiting(self) -> int:
        """How many requests wait in ``acquire()`` now."""
        return len(self._waiting)

    def acquire(self) -> Permit | None:
        """Wait until this request may depart; return its permit, None when the run is to stop."""
        self._waiting.append(None)
        try:
            return self._permit()
        finally:
            self._waiting.pop()

    def _permit(self) -> Permit | None:
        with self._gate:
            now_s, probe = time.monotonic(), 0
            if self._hold.until_s > now_s:
                entered = self._hold.enter()
                if entered is None:
                    return None
                now_s, probe = time.monotonic(), entered
            while (early_s := self._earliest_s() - now_s) > 0:
                time.sleep(early_s)
                now_s = time.monotonic()
            self._next_s = max(self._next_s, now_s - CATCH_UP_S) + self._gap_s(now_s)
            permit = Permit(now_s, probe)
            self._departures.append(permit)
        return permit

    def accepted(self) -> None:
        """Note a definite answer that was not 429."""
        now_s = time.monotonic()
        self._accepted_at_s.append(now_s)
        self._hold.answered(now_s)

    def throttled(self, permit: Permit) -> None:
        """Give way after a 429 to the request of *permit*."""
        now_s = time.monotonic()
        self._hold.answered(now_s)
        with self._lowering:
            # A lower rate shows after a second, when those before it are out of the count.
            if permit.departed_s <= self._lowered[1] + WINDOW_S:
                return
            lately = sum(each > now_s - WINDOW_S for each in tuple(self._accepted_at_s))
            rate = self._rate(now_s)
            # By no more than half, as one busy instant of the others is not their habit.
            rate = max(min(rate, lately) * GIVE_WAY, rate / 2, self.per_second * RECOVERY)
            self._throttled_s = self.throttled_seconds
            self._lowered = (rate, now_s)

    def unanswered(self, permit: Permit, cause: str) -> None:
        """Note that the request of *permit* got no definite answer; *cause* says why, in words."""
        self._hold.unanswered(permit.departed_s, permit.probe, cause)

    def given_up(self) -> None:
        """Note that a call was given up, which got no definite answer however often it asked."""
        self._hold.given_up()

    def pause(self, seconds: float) -> None:
        """Let nothing depart for *seconds*, as Iterable has asked for."""
        self._hold.pause(seconds)

    def release(self, permit: Permit) -> None:
        """Note that the request of *permit* is over, whatever has come of it."""
        self._hold.release(permit.probe)

    @property
    def silence(self) -> Silence:
        """For how long there has been no definite answer, and why."""
        return self._hold.silence

    @property
    def throttled_seconds(self) -> float:
        """Seconds in which 429s held the rate below the limit."""
        lowered_to, since_s = self._lowered
        recovery_s = (self.per_second - lowered_to) / (self.per_second * RECOVERY)
        return self._throttled_s + min(time.monotonic() - since_s, recovery_s)

    def _earliest_s(self) -> float:
        """Return when the next request may depart: by the even spread, and by the last second."""
        if len(self._departures) < (self._departures.maxlen or 0):
            return self._next_s
        return max(self._next_s, self._departures[0].departed_s + WINDOW_S + JITTER_S)

    def _gap_s(self, now_s: float) -> float:
        return (WINDOW_S + JITTER_S) / self._rate(now_s)

    def _rate(self, now_s: float) -> float:
        """Return the rate that holds now: what it was lowered to, and what it won back since."""
        lowered_to, since_s = self._lowered
        return min(self.per_second, lowered_to + self.per_second * RECOVERY * (now_s - since_s))
