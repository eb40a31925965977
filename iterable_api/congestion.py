"""Congestion control: at which rate to send, by which answers were 429.

What others leave free is found as TCP finds it: give way to what was accepted, hold a moment, then
return along a cubic curve, slowly at first and ever faster (CUBIC, RFC 9438). Two things differ.
A refusal costs the others something as well, so there is an allowance of them; and a 429 may have no
limit behind it, as a packet may be lost on a good line.
"""

import math
import threading
from collections import deque
from typing import NamedTuple

WINDOW_S = 1.0
# A rate is measured over a second, or over so many requests where those take longer: fewer would
# make it a matter of luck.
MEASURED = 20
# A 429 lowers the rate to just below what was accepted, but by no more than half at a time, as one
# busy instant of the others is not their habit, and never below this share of the limit.
GIVE_WAY = 0.97
AT_MOST = 0.5
LOWEST = 0.01
# The rate rises again once a request was accepted that left so long after the last refused one ...
HOLD_S = 0.25
# ... and so as to regain the whole limit in this time: after 0.3 s it has won 3 %, then all the rest.
RETURN_S = 1.0
# One in so many requests may be refused for trying how much is free; that is saved up for half a
# second's worth of the limit. A 429 so long after the rate began to rise is not due to that.
ALLOWANCE = 0.01
SAVED_S = 0.5
TRIAL_S = 10.0
# If lowering the rate has not halved the share of 429s, they are not due to the rate, and are put up
# with for so long. That takes so many answers; and what is more than this share is a limit's doing.
ENOUGH_ANSWERS = 50
MOST_NOISE = 0.1
NOISE_S = 60.0


class _Course(NamedTuple):
    """The rate over time: *base* until *rises_s*, then up to the limit, reached at *full_s*."""

    base: float
    rises_s: float
    full_s: float


_FREE = _Course(0.0, -math.inf, -math.inf)


class Congestion:
    """Finds the rate, at most *per_second*, that leaves the others what they need.

    Each answer is to be told, with when its request departed. Times are by one clock, which is the
    caller's. All methods may be called from any thread.
    """

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._span_s = max(WINDOW_S, MEASURED / per_second)
        most = math.ceil(per_second * self._span_s)
        self._accepted_at_s: deque[float] = deque(maxlen=most)
        self._refused_at_s: deque[float] = deque(maxlen=most)
        # Guards all below. A course is one tuple, as rate() reads it without the lock.
        self._lock = threading.Lock()
        self._course = _FREE
        self._throttled_s = 0.0
        self._since_s = 0.0
        # When 429s were last found to mean that the rate is too high, what it was, and when it was
        # lowered last; when the latest refused request left.
        self._event_s = self._lowered_s = self._refused_s = -math.inf
        self._floor = 0.0
        self._rose_s = -math.inf
        self._saved = self._most_saved = max(1.0, per_second * SAVED_S)
        # Answers since the rate was lowered, the 429s among them, and the share of 429s before.
        self._answers = self._refused = 0
        self._share_before = 0.0
        self._noise = 0.0
        self._noise_until_s = -math.inf

    def rate(self, now_s: float) -> float:
        """Return how many requests a second may depart at *now_s*."""
        base, rises_s, full_s = self._course
        if now_s >= full_s:
            return self.per_second
        risen_s = max(0.0, now_s - rises_s)
        return min(self.per_second, base + self.per_second * (risen_s / RETURN_S) ** 3)
