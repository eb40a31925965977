"""The limiter against simulated servers, in simulated time."""

import heapq
import itertools
import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from iterable_api.limiter import Kind, Limiter

# The time that a request takes from its turn to the server, beyond a constant part.
WIRE_S = (0.0005, 0.003)


class Clock:
    """Time that passes only when somebody sleeps; it takes the place of the module time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> bool:
        """Let time pass, and do what falls due; return False, as a run that goes on does."""
        until_s = self.now_s + seconds
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
        self.now_s = until_s
        return False

    def at(self, moment_s: float, event: Callable[[], object]) -> None:
        """Have *event* called at this moment."""
        heapq.heappush(self._events, (moment_s, next(self._numbers), event))


# Servers: a function of the moment of a request, and of the number that is free in a second, which
# says whether the server accepts the request.
Server = Callable[[float, float], bool]


def sliding_window() -> Server:
    """Accept what leaves no second, wherever it begins, with more than is free."""
    accepted: deque[float] = deque()

    def accepts(now_s: float, free: float) -> bool:
        while accepted and accepted[0] <= now_s - 1:
            accepted.popleft()
        if len(accepted) < int(free):
            accepted.append(now_s)
            return True
        return False

    return accepts


def token_bucket() -> Server:
    """Accept while there are tokens; those of a second are kept."""
    tokens, seen_s = math.inf, 1000.0

    def accepts(now_s: float, free: float) -> bool:
        nonlocal tokens, seen_s
        tokens = min(max(2.0, free), tokens + free * (now_s - seen_s))
        seen_s = now_s
        if tokens < 1:
            return False
        tokens -= 1
        return True

    return accepts


SERVERS: dict[str, Callable[[], Server]] = {"sliding": sliding_window, "bucket": token_bucket}


@dataclass
class Trace:
    """When the server saw the requests of a run, in seconds of it: accepted, and answered 429."""

    limiter: Limiter
    accepted: list[float] = field(default_factory=list)
    throttled: list[float] = field(default_factory=list)

    def rate(self, from_s: float, to_s: float) -> float:
        """Return how many were accepted a second between two moments."""
        return _count(self.accepted, from_s, to_s) / (to_s - from_s)

    def share_429(self, from_s: float = 0.0) -> float:
        """Return the share of requests answered 429 from a moment on."""
        throttled = _count(self.throttled, from_s, math.inf)
        return throttled / max(1, throttled + _count(self.accepted, from_s, math.inf))

    def back_s(self, from_s: float, rate: float) -> float:
        """Return how long after *from_s* the rate is back: for half a second, and from then on."""
        steps = int((self.accepted[-1] - 0.5 - from_s) / 0.05)
        moments = (from_s + 0.05 * step for step in range(steps))
        low = [at for at in moments if self.rate(at, at + 0.5) < rate]
        return low[-1] + 0.05 - from_s if low else 0.0


def _count(moments: list[float], from_s: float, to_s: float) -> int:
    return bisect_left(moments, to_s) - bisect_left(moments, from_s)


def most_in_a_second(moments: list[float]) -> int:
    """Return how many of *moments*, which are in order, fall into any one second."""
    return max(bisect_left(moments, at + 1.0, i) - i for i, at in enumerate(moments))


def simulate(
    clock: Clock,
    per_second: float,
    latency_s: float,
    kind: str,
    seconds: float,
    share: Callable[[float], float],
) -> Trace:
    """Send all that the limiter lets through in *seconds*; return what came of it.

    ``share(seconds)`` of the limit is free. An answer takes *latency_s*, a tenth more or less.
    """
    chance, accepts = random.Random(7), SERVERS[kind]()
    began_s = clock.now_s
    limiter = Limiter(per_second, wait=clock.sleep)
    trace = Trace(limiter)

    def arrive(departed_s: float) -> None:
        now_s = clock.now_s
        free = per_second * share(now_s - began_s)
        accepted = accepts(now_s, free)
        (trace.accepted if accepted else trace.throttled).append(now_s - began_s)
        answer_s = latency_s * chance.uniform(0.9, 1.1)
        kind = Kind.ACCEPTED if accepted else Kind.THROTTLED
        clock.at(now_s + answer_s, partial(limiter.report, kind, departed_s))

    while clock.now_s < began_s + seconds:
        departed_s = limiter.acquire()
        assert departed_s is not None
        clock.at(clock.now_s + chance.uniform(*WIRE_S), partial(arrive, departed_s))
    return trace
