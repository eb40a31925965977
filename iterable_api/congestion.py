"""How much of the limit is free, found by the answers 429 as congestion control finds it.

The limit is the whole project's, and nobody says how much of it others use. Three rules find it:

- Overload. Many of the last second's requests were answered 429: those that were not are what is
  free. The rate falls to that, for a moment below it, so that the server forgets the excess.
- Touch. There each 429 lowers the rate by a little, and each other answer raises it by very little:
  a small share of the requests is answered 429, and nothing is left unused.
- Climb. When even these 429s stay away there is more. The rate rises to the limit along a cubic,
  slowly at first, until 429s end it. An early climb finds out whether it was a burst.

Answers 429 may also come without a limit behind them. These do not go away at a lower rate: now and
then it is lowered to count them, and so many are overlooked.

An answer tells what was free when its request departed, so evidence is dated by departures.
Sources: CUBIC (RFC 9438); PCC (NSDI 2015).
"""

import math
from bisect import bisect_right, insort

# More 429s than this share of the last second's requests, and than so many, are an overload.
OVERLOAD_SHARE = 0.1
OVERLOAD_COUNT = 2
# What is free is taken a little too high, as touching corrects that and nothing else the contrary.
ROUND_UP = 1.02
# For so long after an overload the rate stays below what is free, at first at this share of it.
GIVE_WAY = 0.98
RETURN_S = 0.7
# The share of the requests that is answered 429 while touching. One 429 lowers the rate by so many
# requests a second, at most by a share of it.
TOUCH_SHARE = 0.006
STEP_PER_S = 0.5
LARGEST_STEP = 0.1
# The rate climbs after so many requests without a 429, or after the seconds here, but not after
# less than the lower bound of both. After an overload the first climb comes sooner, and each that
# fails doubles the time until the next.
CLEAN_COUNT = (25, 250)
CLEAN_S = (1.1, 3.3)
FIRST_CLEAN_S = 0.45
# So long the climb takes to the limit. After one that failed it takes the time of an answer more,
# after several twice that, as so much is under way when the first 429 comes.
CLIMB_S = 1.0
# What was accepted during a climb that failed may be what a bucket had saved, to this share.
SAVED_SHARE = 0.05
# A test lowers the rate to this share, for about so many requests in these bounds of seconds. Those
# that depart after the first moments count. The next test comes so many seconds later.
TEST_SHARE = 0.95
TEST_COUNT = 150
TEST_S = (1.0, 3.0)
TEST_FROM_S = 0.3
TEST_EVERY_S = 10.0
# By this factor more 429s are overlooked than were counted, and so many at once.
OVERLOOK_MORE = 1.2
OVERLOOK_AT_ONCE = 3.0
# Where nearly all is answered 429, this share of the limit goes on asking, one a second at least.
LEAST_SHARE = 0.01
LEAST_PER_S = 1.0
# How much one answer counts in the time that answers take.
DELAY_WEIGHT = 0.02


class Congestion:
    """The rate that holds now, in requests in *window_s* seconds, at most *per_second*.

    *window_s* is a second and what a limiter allows for jitter. Times are of time.monotonic(). Not
    to be used by two threads at once, but for ``slowed_seconds()``.
    """

    def __init__(self, per_second: float, window_s: float = 1.0) -> None:
        self._window_s = window_s
        self.per_second = self._rate = self._free = per_second
        self._least = max(min(per_second, LEAST_PER_S), LEAST_SHARE * per_second)
        self._noise = _Noise()
        # When the requests departed that were answered 429, in order; and the latest of them.
        self._throttled: list[float] = []
        self._last_429_s = self._lowered_s = -math.inf
        self._climbing = False
        # How many climbs have failed in a row, and how long to wait for the next.
        self._failed, self._clean_s = 0, FIRST_CLEAN_S
        self._at_limit_s = math.inf
        self._delay_s = 0.0
        self._slowed_s = 0.0
        self._slow_since_s: float | None = None

    def rate(self, now_s: float) -> float:
        """Return the rate that holds at *now_s*."""
        return self._rate * TEST_SHARE if now_s < self._noise.until_s else self._rate

    def slowed_seconds(self, now_s: float) -> float:
        """Return for how many seconds the rate was below the limit until *now_s*."""
        since_s = self._slow_since_s
        return self._slowed_s + (0.0 if since_s is None else now_s - since_s)

    def accepted(self, departed_s: float, now_s: float) -> None:
        """Note an answer that was not 429, to a request that left at *departed_s*."""
        noise = self._noise
        if noise.share or noise.testing:
            noise.note(departed_s, 0)
        if self._slow_since_s is not None:
            self._raise(departed_s, now_s)

    def throttled(self, departed_s: float, lately: int, now_s: float) -> None:
        """Note a 429 to a request that left at *departed_s*.

        *lately* requests departed in the window before, this one among them.
        """
        self._noise.note(departed_s, 1)
        count, overload = self._count(departed_s, lately)
        settled = departed_s > self._lowered_s + self._window_s and not (overload or self._climbing)
        if settled and now_s >= self._noise.until_s + TEST_EVERY_S:
            self._noise.start_test(now_s, self._rate)
        if not overload and self._noise.overlooks():
            return
        self._last_429_s = max(self._last_429_s, departed_s)
        free = ROUND_UP * (lately - count)
        if self._climbing:
            # A little more than before in any case, as without a 429 there it was too little.
            least = max((1 - SAVED_SHARE) * free, min(ROUND_UP * self._free, free))
            self._end_climb(free if overload else max(self._free, least), now_s)
        elif overload:
            self._lower(min(self._free, free), departed_s, now_s)
        elif departed_s > self._lowered_s + RETURN_S:
            self._free = max(self._least, self._free - self._step())
            self._rate = min(self._rate, self._free)
        if self._slow_since_s is None and self._rate < self.per_second:
            self._slow_since_s = now_s

    def _count(self, departed_s: float, lately: int) -> tuple[int, bool]:
        """Return how many of *lately* requests were answered 429, as far as known; and if too many.

        Answers do not come in the order of their requests.
        """
        throttled = self._throttled
        insort(throttled, departed_s)
        if len(throttled) > 4 * self.per_second:
            del throttled[: len(throttled) // 2]
        until, from_s = bisect_right(throttled, departed_s), departed_s - self._window_s
        count = until - bisect_right(throttled, from_s)
        if from_s < self._lowered_s < departed_s:
            # What came of the rate before proves nothing against this one.
            from_s = self._lowered_s
        recent = until - bisect_right(throttled, from_s)
        # A few 429s prove nothing where little is sent, as in the first moments of a run.
        sent = max(lately, self._rate) * (departed_s - from_s) / self._window_s
        return count, recent > max(OVERLOAD_COUNT, (OVERLOAD_SHARE + self._noise.share) * sent)

    def _step(self) -> float:
        return min(STEP_PER_S, LARGEST_STEP * self._free)

    def _lower(self, free: float, departed_s: float, now_s: float) -> None:
        """Go to below *free*; for an overload that is known already, correct only what is free."""
        self._noise.stop_test(now_s)
        self._free = min(max(self._least, free), self.per_second)
        if departed_s > self._lowered_s:
            self._lowered_s = now_s
        self._rate = min(self._rate, self._returning(now_s))

    def _end_climb(self, free: float, now_s: float) -> None:
        self._climbing, self._at_limit_s = False, math.inf
        self._lower(free, math.inf, now_s)
        few_s, many_s = (count / self._free for count in CLEAN_COUNT)
        self._failed += 1
        self._clean_s = min(2 * self._clean_s, max(CLEAN_S[0], few_s, min(CLEAN_S[1], many_s)))

    def _raise(self, departed_s: float, now_s: float) -> None:
        """Raise the rate below the limit, after an answer that was not 429."""
        self._delay_s += DELAY_WEIGHT * (now_s - departed_s - self._delay_s)
        clean_s = departed_s - self._clean_from_s() - self._clean_s
        if clean_s > 0:
            self._climb(clean_s, departed_s, now_s)
        elif now_s < self._lowered_s + RETURN_S:
            self._rate = self._returning(now_s)
        else:
            self._rate = self._free = self._free + TOUCH_SHARE * self._step()
            if self._rate >= self.per_second:
                self._recover(now_s)

    def _returning(self, now_s: float) -> float:
        """Return the rate at which to come back to what is free, ever more slowly."""
        left = max(0.0, 1 - (now_s - self._lowered_s) / RETURN_S)
        return max(self._least, self._free * (1 - (1 - GIVE_WAY) * left**3))

    def _clean_from_s(self) -> float:
        """Return since when the absence of 429s counts."""
        from_s = max(self._last_429_s, self._noise.until_s)
        # The first two climbs do not wait until the rate has come back to what is free.
        if self._failed > 1:
            return max(from_s, self._lowered_s + RETURN_S)
        return from_s

    def _climb(self, clean_s: float, departed_s: float, now_s: float) -> None:
        """Go up to where the climb has come after *clean_s* seconds of it; end it at the top."""
        self._climbing = True
        climb_s = CLIMB_S + min(2, self._failed) * self._delay_s
        above = (self.per_second - self._free) * min(1.0, clean_s / climb_s) ** 3
        self._rate = min(max(self._rate, self._free + above), self.per_second)
        if self._rate < self.per_second:
            return
        self._at_limit_s = min(self._at_limit_s, now_s)
        if departed_s > self._at_limit_s + self._window_s:
            self._recover(now_s)

    def _recover(self, now_s: float) -> None:
        """Go on at the limit, as if there had been no 429."""
        self._rate = self._free = self.per_second
        self._climbing, self._at_limit_s = False, math.inf
        self._failed, self._clean_s = 0, FIRST_CLEAN_S
        self._slowed_s, self._slow_since_s = self.slowed_seconds(now_s), None


class _Noise:
    """The ``share`` of requests that is answered 429 whatever the rate, as tests have counted it.

    ``until_s`` is when the latest test ended, or will end; until then the rate is lowered.
    ``testing`` says whether answers of a test are still to come.
    """

    def __init__(self) -> None:
        self.share = 0.0
        self.testing = False
        self.until_s = -math.inf
        self._from_s = math.inf
        # Answers to the requests of the test that is under way, and of those before: all, and 429.
        self._now = self._before = (0.0, 0.0)
        self._credit = 0.0

    def start_test(self, now_s: float, rate: float) -> None:
        """Begin a test."""
        self.testing = True
        self._from_s = now_s + TEST_FROM_S
        self.until_s = now_s + min(max(TEST_COUNT / rate, TEST_S[0]), TEST_S[1])
        self._now = (0.0, 0.0)

    def stop_test(self, now_s: float) -> None:
        """Let the test that is under way not count, as something else than noise was met."""
        self.testing = False
        self.until_s = min(self.until_s, now_s)

    def note(self, departed_s: float, throttled: int) -> None:
        """Note an answer, 1 if it was 429."""
        self._credit = min(OVERLOOK_AT_ONCE, self._credit + OVERLOOK_MORE * self.share)
        if not self.testing or departed_s < self._from_s:
            return
        if departed_s < self.until_s:
            self._now = (self._now[0] + 1, self._now[1] + throttled)
        else:
            self._end_test()

    def _end_test(self) -> None:
        self.testing = False
        # What earlier tests have counted counts half.
        answers, throttled = (
            now + old / 2 for now, old in zip(self._now, self._before, strict=True)
        )
        self._before = (answers, throttled)
        # As if there had been so many answers more, as a few prove little.
        share = throttled / (answers + 20)
        self.share = min(share, OVERLOAD_SHARE) if share > TOUCH_SHARE / 2 else 0.0

    def overlooks(self) -> bool:
        """Whether this 429 is to be overlooked."""
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
