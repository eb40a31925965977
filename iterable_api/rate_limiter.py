"""When the next request may leave: one budget for each endpoint, shared by all threads.

Iterable limits the requests of a whole project, whoever sends them. A budget keeps this job under
its share, and gives way when an answer 429 says that others need more than was left to them.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_S = 1.0
# On its way to where it is counted a request loses a few milliseconds more, or fewer, than the one
# before it. A budget's worth of requests therefore takes this much longer than a second.
JITTER_S = 0.017
# How much of the time lost by a thread that woke up late may be made up for.
CATCH_UP_S = 0.02
# A 429 lowers the rate to this share of what was accepted in the last second ...
GIVE_WAY = 0.95
# ... but not below this share of the budget, which the rate wins back every second.
RECOVERY = 0.01


@dataclass(slots=True, eq=False)
class Departure:
    """When a request left, in seconds of the budget's clock: set to now when it is on the wire.

    Connecting, and waiting for the processor, can take longer than the pace has room for.
    """

    at_s: float


class Budget:
    """Lets at most *per_second* requests leave in any one second, evenly spread.

    *per_second* need not be whole. Every attempt must ``acquire()``; every answer must be
    ``accepted()`` or ``refused()``. All methods may be called from any thread. *wait* sleeps for
    the seconds it is given; a pause that Iterable asked for ends early when it returns True.
    """

    def __init__(
        self,
        per_second: float,
        *,
        wait: Callable[[float], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_second = per_second
        self._wait = wait
        self._clock = clock
        self._gate = threading.Lock()
        self._left: deque[Departure] = deque(maxlen=math.ceil(per_second))
        self._next_s = 0.0
        self._paused_until_s = 0.0
        self._answered: deque[float] = deque(maxlen=math.ceil(per_second))
        self._lowering = threading.Lock()
        # To which rate the last 429 led, and when. One tuple, as it is read without a lock.
        self._lowered = (per_second, -math.inf)
        self._throttled_s = 0.0

    def acquire(self) -> Departure:
        """Wait for this request's moment and return it."""
        with self._gate:
            now = self._clock()
            while (pause := self._paused_until_s - now) > 0:
                if self._sleep(pause):
                    break
                now = self._clock()
            while (ahead := self._earliest_s() - now) > 0:
                time.sleep(ahead)
                now = self._clock()
            self._next_s = max(self._next_s, now - CATCH_UP_S) + self._gap_s(now)
            departure = Departure(now)
            self._left.append(departure)
        return departure

    def accepted(self) -> None:
        """Note an answer that was not 429."""
        self._answered.append(self._clock())

    def refused(self, departure: Departure, retry_after_s: float | None) -> None:
        """Give way after a 429 to the request of *departure*."""
        with self._lowering:
            now = self._clock()
            if retry_after_s:
                self._paused_until_s = max(self._paused_until_s, now + retry_after_s)
            # A lower rate shows after a second, when those before it have left the count.
            if departure.at_s <= self._lowered[1] + WINDOW_S:
                return
            lately = sum(answered > now - WINDOW_S for answered in tuple(self._answered))
            rate = self._rate(now)
            # By no more than half, as one busy instant of the others is not their habit.
            rate = max(min(rate, lately) * GIVE_WAY, rate / 2, self.per_second * RECOVERY)
            self._throttled_s = self.throttled_seconds
            self._lowered = (rate, now)

    @property
    def throttled_seconds(self) -> float:
        """Seconds in which 429s held the rate below the budget."""
        lowered_to, since_s = self._lowered
        recovery_s = (self.per_second - lowered_to) / (self.per_second * RECOVERY)
        return self._throttled_s + min(self._clock() - since_s, recovery_s)

    def _earliest_s(self) -> float:
        """Return when the next request may leave: by the even spread, and by the last second."""
        if len(self._left) < (self._left.maxlen or 0):
            return self._next_s
        return max(self._next_s, self._left[0].at_s + WINDOW_S + JITTER_S)

    def _gap_s(self, now: float) -> float:
        return (WINDOW_S + JITTER_S) / self._rate(now)

    def _rate(self, now: float) -> float:
        """Return the rate that holds now: what it was lowered to, and what it won back since."""
        lowered_to, since_s = self._lowered
        return min(self.per_second, lowered_to + self.per_second * RECOVERY * (now - since_s))

    def _sleep(self, seconds: float) -> bool:
        if self._wait is None:
            time.sleep(seconds)
            return False
        return self._wait(seconds)
