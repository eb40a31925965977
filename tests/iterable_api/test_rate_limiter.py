"""The pace of requests: never more than the limiter, and giving way when others need it."""

import itertools
import threading
from bisect import bisect_left

import pytest

from iterable_api import hold, rate_limiter
from iterable_api.rate_limiter import JITTER_S, RECOVERY, WINDOW_S, RateLimiter


class Clock:
    """Time that passes only when somebody sleeps; it takes the place of the module time."""

    def __init__(self):
        self.now_s = 1000.0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds
        return False


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(rate_limiter, "time", clock)
    monkeypatch.setattr(hold, "time", clock)
    return clock


def limiter_of(per_second, clock):
    return RateLimiter(per_second, wait=clock.sleep)


def most_in_a_second(moments):
    return max(bisect_left(moments, at + WINDOW_S, i) - i for i, at in enumerate(moments))


@pytest.mark.parametrize("per_second", [5, 4.5, 500, 1])
def test_no_second_holds_more_than_the_limit_and_little_is_given_away(clock, per_second):
    limiter = limiter_of(per_second, clock)
    count = int(per_second * 10) + 1
    moments = [limiter.acquire().departed_s for _ in range(count)]
    assert most_in_a_second(moments) <= -(-per_second // 1)
    assert (count - 1) / (moments[-1] - moments[0]) == pytest.approx(
        per_second / (WINDOW_S + JITTER_S), rel=0.01
    )


def test_requests_are_spread_evenly_also_after_a_pause(clock):
    limiter = limiter_of(10, clock)
    limiter.acquire()
    clock.now_s += 60
    moments = [limiter.acquire().departed_s for _ in range(10)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps[1:]) == pytest.approx((WINDOW_S + JITTER_S) / 10)


def test_a_request_counts_from_when_it_was_on_the_wire(clock):
    limiter = limiter_of(2, clock)
    slow, _ = limiter.acquire(), limiter.acquire()
    slow.departed_s += 3
    assert limiter.acquire().departed_s >= slow.departed_s + WINDOW_S


def answered(limiter, clock, per_second, seconds):
    """Send for *seconds*, with answers 200 at *per_second* and 429 beyond; return the 200s."""
    accepted: list[float] = []
    until = clock.now_s + seconds
    while clock.now_s < until:
        permit = limiter.acquire()
        accepted = [moment for moment in accepted if moment > permit.departed_s - WINDOW_S]
        if len(accepted) < per_second:
            accepted.append(permit.departed_s)
            limiter.accepted()
            yield True
        else:
            limiter.throttled(permit)
            yield False


def test_after_429_the_rate_falls_to_what_remains_and_stays_near(clock):
    limiter = limiter_of(500, clock)
    answers = list(answered(limiter, clock, 250, 60))
    assert answers.count(True) >= 0.85 * 250 * 60
    assert answers.count(False) <= 0.02 * len(answers)
    assert limiter.throttled_seconds > 50


def test_when_the_others_are_gone_the_rate_comes_back_gradually(clock):
    limiter = limiter_of(100, clock)
    list(answered(limiter, clock, 50, 5))
    seconds = [sum(answered(limiter, clock, 1000, 1)) for _ in range(int(1 / RECOVERY))]
    assert seconds[0] < 60
    assert seconds[-1] >= 97
    assert all(later - earlier <= 5 for earlier, later in itertools.pairwise(seconds))


def test_one_answer_429_does_not_count_for_all_that_were_under_way(clock):
    limiter = limiter_of(100, clock)
    list(answered(limiter, clock, 1000, 2))
    under_way = [limiter.acquire() for _ in range(20)]
    for permit in under_way:
        limiter.throttled(permit)
    rate = sum(answered(limiter, clock, 1000, 1))
    assert rate > 40


def test_a_pause_that_was_asked_for_holds_everybody_back(clock):
    limiter = limiter_of(100, clock)
    limiter.acquire()
    limiter.pause(7.0)
    began_s = clock.now_s
    moments = [limiter.acquire().departed_s for _ in range(3)]
    assert moments[0] >= began_s + 7
    assert moments[-1] - moments[0] < 0.1


@pytest.mark.parametrize("why", ["paused", "silent"])
def test_a_stop_ends_the_waiting_without_a_permit(clock, why):
    limiter = RateLimiter(100, wait=lambda seconds: True)
    permit = limiter.acquire()
    assert permit is not None
    if why == "paused":
        limiter.pause(60.0)
    else:
        limiter.unanswered(permit, "answered 503")
    before_s = clock.now_s
    assert limiter.acquire() is None
    assert clock.now_s - before_s < 1


def test_a_stop_takes_no_permit_away_while_all_is_well(clock):
    limiter = RateLimiter(100, wait=lambda seconds: True)
    assert limiter.acquire() is not None


def test_a_silent_endpoint_is_tried_by_one_request_at_a_time(clock):
    limiter = limiter_of(100, clock)
    permits = [limiter.acquire() for _ in range(5)]
    for permit in permits:
        limiter.unanswered(permit, "answered 503")
    probes = []
    for _ in range(4):
        probes.append(limiter.acquire())
        limiter.unanswered(probes[-1], "answered 503")
        limiter.release(probes[-1])
    departed = [probe.departed_s for probe in probes]
    gaps = [later - earlier for earlier, later in itertools.pairwise(departed)]
    assert gaps == pytest.approx([1, 2, 4])
    assert [probe.probe for probe in probes] == [1, 2, 3, 4]
    assert limiter.silence.cause == "answered 503"


@pytest.mark.parametrize("alive", ["accepted", "throttled"])
def test_any_definite_answer_lets_all_go_again(clock, alive):
    limiter = limiter_of(100, clock)
    limiter.unanswered(limiter.acquire(), "answered 503")
    probe = limiter.acquire()
    clock.now_s += 0.01
    if alive == "accepted":
        limiter.accepted()
    else:
        limiter.throttled(probe)
    limiter.release(probe)
    began_s = clock.now_s
    assert all(limiter.acquire().probe == 0 for _ in range(10))
    assert clock.now_s - began_s < 0.5
    assert limiter.silence.seconds == 0


def test_threads_share_one_limit():
    limiter, moments = RateLimiter(200), []

    def send():
        for _ in range(5):
            permit = limiter.acquire()
            assert permit is not None
            moments.append(permit.departed_s)

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moments.sort()
    assert moments[-1] - moments[0] >= 99 / 200 * 0.9
