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
from dataclasses import dataclass, field

from iterable_api.backoff import sleep
from iterable_api.congestion import Congestion
from iterable_api.hold import POLL_S, Hold, Silence

# On its way to where it is counted a request loses a few milliseconds more, or fewer, than the one
# before it. A second's worth of requests therefore takes this much longer than a second.
JITTER_S = 0.03
WINDOW_S = 1.0 + JITTER_S
# How much of the time lost by a thread that woke up late may be made up for.
CATCH_UP_S = 0.02


@dataclass(slots=True, eq=False)
class Permit:
    """Permission for one request to depart.

    Whoever sends the request calls ``depart()`` once it is on the wire: connecting, and waiting for
    the processor, can take longer than the pace has room for. ``departed_s`` is when that was, by
    time.monotonic(); before, when the permit was given. ``probe`` is the request's number if it
    tries a silent endpoint, and ``lately`` how many were sent in the second before, this one among
    them. ``departures`` are the limiter's own.
    """

    departed_s: float
    probe: int = 0
    lately: int = 0
    departures: deque[float] = field(default_factory=deque)
    on_wire: bool = False

    def depart(self) -> None:
        """Note that the request is on the wire."""
        if not self.on_wire:
            self.on_wire = True
            self.departed_s = time.monotonic()
            self.departures.append(self.departed_s)


class RateLimiter:
    """Lets at most *per_second* requests depart in any one second, evenly spread.

    *per_second* need not be whole. Every request must ``acquire()`` a permit and in the end
    ``release()`` it; every request that departs must be ``accepted()``, ``throttled()`` or
    ``unanswered()``. All methods may be called from any thread. *wait* sleeps for the seconds it is
    given and returns True when the run is to stop.
    """

    def __init__(self, per_second: float, *, wait: Callable[[float], bool] = sleep) -> None:
        self.per_second = per_second
        self._wait = wait
        self._hold = Hold(wait)
        self._gate = threading.Lock()
        # How many requests a second may hold, and how many of these places are free. A place is
        # taken with the permit, and free again a second after the request was on the wire.
        self._budget = self._places = math.ceil(per_second)
        self._departures: deque[float] = deque()
        self._paced_s = -math.inf
        # One item for each thread in acquire(): to add one, or to count them, takes no lock.
        self._waiting: list[None] = []
        # Answers that the congestion control has not seen yet, and whether they were 429.
        self._answers: deque[tuple[Permit, bool]] = deque()
        self._congestion = Congestion(per_second, WINDOW_S)

    @property
    def waiting(self) -> int:
        """How many requests wait in ``acquire()`` now."""
        return len(self._waiting)

    def acquire(self) -> Permit | None:
        """Wait until this request may depart; return its permit, None when the run is to stop."""
        self._waiting.append(None)
        try:
            with self._gate:
                return self._permit()
        finally:
            self._waiting.pop()

    def _permit(self) -> Permit | None:
        probe = 0
        while True:
            now_s = time.monotonic()
            if self._hold.until_s > now_s and not probe:
                entered = self._hold.enter()
                if entered is None:
                    return None
                probe, now_s = entered, time.monotonic()
            self._learn(now_s)
            paced_s = self._paced_s + WINDOW_S / self._congestion.rate(now_s)
            early_s = max(paced_s, self._place_free_s(now_s)) - now_s
            if early_s <= 0:
                break
            if early_s < POLL_S:
                time.sleep(early_s)
            elif self._wait(POLL_S):
                return None
        self._paced_s = max(paced_s, now_s - CATCH_UP_S)
        self._places -= 1
        return Permit(now_s, probe, self._budget - self._places, self._departures)

    def accepted(self, permit: Permit) -> None:
        """Note a definite answer that was not 429."""
        self._answers.append((permit, False))
        self._hold.answered(time.monotonic())

    def throttled(self, permit: Permit) -> None:
        """Give way after a 429 to the request of *permit*."""
        self._answers.append((permit, True))
        self._hold.answered(time.monotonic())

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
        # One that failed on the way to the wire may have left in part.
        permit.depart()
        self._hold.release(permit.probe)

    @property
    def silence(self) -> Silence:
        """For how long there has been no definite answer, and why."""
        return self._hold.silence

    @property
    def throttled_seconds(self) -> float:
        """Seconds in which 429s held the rate below the limit."""
        return self._congestion.slowed_seconds(time.monotonic())

    def _learn(self, now_s: float) -> None:
        """Tell the congestion control of the answers that have come."""
        while self._answers:
            permit, throttled = self._answers.popleft()
            if throttled:
                self._congestion.throttled(permit.departed_s, permit.lately, now_s)
            else:
                self._congestion.accepted(permit.departed_s, now_s)

    def _place_free_s(self, now_s: float) -> float:
        """Return when there is a place; math.inf if all of them are on their way to the wire."""
        departures = self._departures
        while departures and departures[0] <= now_s - WINDOW_S:
            departures.popleft()
            self._places += 1
        if self._places:
            return now_s
        return departures[0] + WINDOW_S if departures else math.inf
