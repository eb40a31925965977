"""The pace of requests: never more than the budget, and giving way when others need it."""

import itertools
import threading
import time

import pytest

from iterable_api.rate_limiter import JITTER_S, RECOVERY, WINDOW_S, Budget


class Clock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


def budget_of(per_second, clock):
    return Budget(per_second, wait=clock.sleep, clock=clock)


def most_in_a_second(moments):
    return max(sum(first <= each < first + WINDOW_S for each in moments) for first in moments)


@pytest.mark.parametrize("per_second", [5, 4.5, 500, 1])
def test_no_second_holds_more_than_the_budget_and_little_is_given_away(clock, per_second):
    budget = budget_of(per_second, clock)
    count = int(per_second * 10) + 1
    moments = [budget.acquire().at_s for _ in range(count)]
    assert most_in_a_second(moments) <= -(-per_second // 1)
    assert (count - 1) / (moments[-1] - moments[0]) == pytest.approx(
        per_second / (WINDOW_S + JITTER_S), rel=0.01
    )


def test_requests_are_spread_evenly_also_after_a_pause(clock):
    budget = budget_of(10, clock)
    budget.acquire()
    clock.now += 60
    moments = [budget.acquire().at_s for _ in range(10)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps[1:]) == pytest.approx((WINDOW_S + JITTER_S) / 10)


def test_a_request_counts_from_when_it_was_on_the_wire(clock):
    budget = budget_of(2, clock)
    slow, _ = budget.acquire(), budget.acquire()
    slow.at_s += 3
    assert budget.acquire().at_s >= slow.at_s + WINDOW_S


def answered(budget, clock, per_second, seconds):
    """Send for *seconds*, with answers 200 at *per_second* and 429 beyond; return the 200s."""
    accepted: list[float] = []
    until = clock.now + seconds
    while clock.now < until:
        departure = budget.acquire()
        accepted = [moment for moment in accepted if moment > departure.at_s - WINDOW_S]
        if len(accepted) < per_second:
            accepted.append(departure.at_s)
            budget.accepted()
            yield True
        else:
            budget.refused(departure, None)
            yield False


def test_after_429_the_rate_falls_to_what_is_left_and_stays_near(clock):
    budget = budget_of(500, clock)
    answers = list(answered(budget, clock, 250, 60))
    assert answers.count(True) >= 0.85 * 250 * 60
    assert answers.count(False) <= 0.02 * len(answers)
    assert budget.throttled_seconds > 50


def test_when_the_others_are_gone_the_rate_comes_back_gradually(clock):
    budget = budget_of(100, clock)
    list(answered(budget, clock, 50, 5))
    seconds = [sum(answered(budget, clock, 1000, 1)) for _ in range(int(1 / RECOVERY))]
    assert seconds[0] < 60
    assert seconds[-1] >= 97
    assert all(later - earlier <= 5 for earlier, later in itertools.pairwise(seconds))


def test_one_answer_429_does_not_count_for_all_that_were_under_way(clock):
    budget = budget_of(100, clock)
    list(answered(budget, clock, 1000, 2))
    under_way = [budget.acquire() for _ in range(20)]
    for departure in under_way:
        budget.refused(departure, None)
    rate = sum(answered(budget, clock, 1000, 1))
    assert rate > 40


def test_retry_after_holds_everybody_back(clock):
    budget = budget_of(100, clock)
    budget.refused(budget.acquire(), 7.0)
    refused_at = clock.now
    assert budget.acquire().at_s >= refused_at + 7


def test_a_stop_ends_the_pause(clock):
    budget = Budget(100, wait=lambda seconds: True, clock=clock)
    budget.refused(budget.acquire(), 60.0)
    before = clock.now
    budget.acquire()
    assert clock.now - before < 1


def test_threads_share_one_budget():
    budget, moments = Budget(200), []

    def send():
        for _ in range(5):
            moments.append(budget.acquire().at_s)

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moments.sort()
    assert moments[-1] - moments[0] >= 99 / 200 * 0.9
