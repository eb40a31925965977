"""The limiter against simulated servers, in simulated time.

    python3 -m tests.iterable_api.simulation 500 2000

plays all latencies and kinds of servers at these limits, and prints what came of it. It takes a
minute of the processor for each thousand.
"""

import heapq
import itertools
import math
import random
import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from iterable_api import limiter as limiter_module
from iterable_api.limiter import Kind, Limiter

# The time that a request takes from its turn to the server, beyond a constant part.
WIRE_S = (0.0005, 0.003)
LATENCIES_S = (0.02, 0.1, 0.3, 0.6, 1.2)


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

    def replace_time(self, put: Callable[[Any, str, Any], object]) -> None:
        """Take the place of the module time, by *put*(module, name, value)."""
        put(limiter_module, "time", self)


class SlidingWindow:
    """A server that accepts what leaves no second, wherever it begins, with more than is free."""

    def __init__(self, per_second: float) -> None:
        self._accepted: deque[float] = deque()

    def accepts(self, now_s: float, free: float) -> bool:
        """Whether a request that arrives now is accepted when so many a second are *free*."""
        while self._accepted and self._accepted[0] <= now_s - 1:
            self._accepted.popleft()
        if len(self._accepted) >= int(free):
            return False
        self._accepted.append(now_s)
        return True


class FixedWindow:
    """A server that begins to count anew with each full second."""

    def __init__(self, per_second: float) -> None:
        self._second = self._count = 0

    def accepts(self, now_s: float, free: float) -> bool:
        """Whether a request that arrives now is accepted when so many a second are *free*."""
        if int(now_s) != self._second:
            self._second, self._count = int(now_s), 0
        self._count += 1
        return self._count <= int(free)


class TokenBucket:
    """A server that accepts while there are tokens, of which it keeps *kept_s* seconds' worth."""

    def __init__(self, per_second: float, kept_s: float = 1.0) -> None:
        self._most = self._tokens = max(2.0, per_second * kept_s)
        self._seen_s = 1000.0

    def accepts(self, now_s: float, free: float) -> bool:
        """Whether a request that arrives now is accepted when so many a second are *free*."""
        self._tokens = min(self._most, self._tokens + free * (now_s - self._seen_s))
        self._seen_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


SERVERS: dict[str, Callable[[float], Any]] = {
    "sliding": SlidingWindow,
    "fixed": FixedWindow,
    "bucket": TokenBucket,
    "small bucket": partial(TokenBucket, kept_s=0.1),
}


@dataclass
class Trace:
    """When the server saw the requests of a run, in seconds of it: accepted, and answered 429."""

    limiter: Limiter
    accepted: list[float] = field(default_factory=list)
    throttled: list[float] = field(default_factory=list)

    def rate(self, from_s: float, to_s: float) -> float:
        """Return how many were accepted a second between two moments."""
        return _count(self.accepted, from_s, to_s) / (to_s - from_s)

    def share_429(self, from_s: float = 0.0, to_s: float = math.inf) -> float:
        """Return the share of requests answered 429 between two moments."""
        throttled = _count(self.throttled, from_s, to_s)
        return throttled / max(1, throttled + _count(self.accepted, from_s, to_s))

    def back_s(self, from_s: float, rate: float) -> float:
        """Return how long after *from_s* the rate is back: for half a second, and from then on."""
        last_s = self.accepted[-1] - 0.5
        low = [at for at in _steps(from_s, last_s) if self.rate(at, at + 0.5) < rate]
        return low[-1] + 0.05 - from_s if low else 0.0


def _count(moments: list[float], from_s: float, to_s: float) -> int:
    return bisect_left(moments, to_s) - bisect_left(moments, from_s)


def _steps(from_s: float, to_s: float) -> Iterable[float]:
    return (from_s + 0.05 * step for step in range(int((to_s - from_s) / 0.05)))


def most_in_a_second(moments: list[float]) -> int:
    """Return how many of *moments*, which are in order, fall into any one second."""
    return max(bisect_left(moments, at + 1.0, i) - i for i, at in enumerate(moments))


def play(
    clock: Clock,
    server: Any,
    seconds: float,
    *,
    per_second: float,
    latency_s: float,
    free: Callable[[float], float],
    noise: float = 0.0,
    quick_429: bool = False,
) -> Trace:
    """Send all the limiter lets through for so many *seconds*; return what came of it.

    Of *server*'s limit ``free(seconds)`` is free. *noise* is the share of requests answered 429
    without a limit. An answer takes *latency_s*, a tenth more or less; a 429 next to nothing if it
    is a *quick_429*.
    """
    chance = random.Random(7)
    began_s = clock.now_s
    limiter = Limiter(per_second, wait=clock.sleep)
    trace = Trace(limiter)

    def arrive(departed_s: float) -> None:
        now_s = clock.now_s
        accepted = chance.random() >= noise and server.accepts(now_s, free(now_s - began_s))
        (trace.accepted if accepted else trace.throttled).append(now_s - began_s)
        answer_s = latency_s * chance.uniform(0.9, 1.1)
        if quick_429 and not accepted:
            answer_s = 0.005
        kind = Kind.ACCEPTED if accepted else Kind.THROTTLED
        clock.at(now_s + answer_s, partial(limiter.report, kind, departed_s))

    while clock.now_s < began_s + seconds:
        departed_s = limiter.acquire()
        assert departed_s is not None
        clock.at(clock.now_s + chance.uniform(*WIRE_S), partial(arrive, departed_s))
    return trace


def _grid(per_second: float) -> None:
    clock = Clock()
    clock.replace_time(setattr)
    for latency_s, kind, quick_429 in itertools.product(LATENCIES_S, SERVERS, (False, True)):
        run = partial(simulate, clock, per_second, latency_s, kind, quick_429=quick_429)
        alone = run(12, lambda _: 1.0)
        burst = run(16, lambda at_s: 0.1 if 4 <= at_s < 6 else 1.0)
        half = run(60, lambda at_s: 0.5 if at_s < 50 else 1.0)
        noisy = run(30, lambda _: 1.0, noise=0.02)
        cost_s = (alone.rate(4, 12) - burst.rate(4, 16)) * 12 / per_second
        sys.stdout.write(
            f"{per_second:5.0f}/s {latency_s:4.2f} s {kind:12} {'quick 429' if quick_429 else '':9}"
            f" alone {alone.rate(1, 12) / per_second:.3f}, {len(alone.throttled)} 429"
            f" | burst back {burst.back_s(6, 0.9 * per_second):4.2f} s, cost {cost_s:4.2f} s"
            f" | half {half.rate(2, 50) / per_second * 2:.3f},"
            f" 429 {half.share_429(0, 50):.1%}, from 10 s {half.share_429(10, 50):.1%},"
            f" back {half.back_s(50, 0.9 * per_second):4.2f} s"
            f" | 2 % noise {noisy.rate(2, 30) / per_second:.3f}\n"
        )
        sys.stdout.flush()


def simulate(
    clock: Clock,
    per_second: float,
    latency_s: float,
    kind: str,
    seconds: float,
    share: Callable[[float], float],
    *,
    noise: float = 0.0,
    quick_429: bool = False,
) -> Trace:
    """Play a run for so many *seconds*, of which ``share(seconds)`` of the limit is free."""
    return play(
        clock,
        SERVERS[kind](per_second),
        seconds,
        per_second=per_second,
        latency_s=latency_s,
        quick_429=quick_429,
        free=lambda at_s: per_second * share(at_s),
        noise=noise,
    )


if __name__ == "__main__":
    for limit in sys.argv[1:] or ["500"]:
        _grid(float(limit))
