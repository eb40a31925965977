"""The rate beside other clients: how much of what they leave is used, and at what price.

In simulated time, by a few of the cases that simulation.py plays.
"""

import pytest

from iterable_api.congestion import Congestion
from iterable_api.rate_limiter import WINDOW_S
from tests.iterable_api.simulation import simulate

TENTH_LEFT_FROM_S, TENTH_LEFT_TO_S = 3.0, 5.0

cases = pytest.mark.parametrize(
    ("per_second", "latency_s", "kind"),
    [
        (500, 0.3, "sliding"),
        (200, 0.02, "sliding"),
        (200, 0.6, "fixed"),
        (200, 0.1, "bucket"),
        (200, 0.3, "small bucket"),
        (50, 1.2, "sliding"),
    ],
)


def burst(at_s):
    return 0.1 if TENTH_LEFT_FROM_S <= at_s < TENTH_LEFT_TO_S else 1.0


@cases
def test_with_nobody_else_the_whole_limit_is_used_and_nothing_is_answered_429(
    clock, per_second, latency_s, kind
):
    trace = simulate(clock, per_second, latency_s, kind, 5, lambda _: 1.0)
    assert trace.rate(1, 5) >= 0.95 * per_second
    assert trace.throttled == []
    assert trace.limiter.throttled_seconds == 0


@cases
def test_after_a_burst_of_another_client_the_rate_is_back_within_three_seconds(
    clock, per_second, latency_s, kind
):
    trace = simulate(clock, per_second, latency_s, kind, 10, burst)
    assert trace.throttled
    assert trace.back_s(TENTH_LEFT_TO_S, 0.9 * per_second) <= 3.0
    lost = per_second * 10 / WINDOW_S - len(trace.accepted)
    assert lost <= 4.0 * per_second


@cases
def test_of_what_another_client_leaves_for_good_nearly_all_is_used_at_a_small_price(
    clock, per_second, latency_s, kind
):
    trace = simulate(clock, per_second, latency_s, kind, 30, lambda _: 0.5)
    assert trace.rate(2, 30) >= 0.95 * per_second / 2
    # In the long run; at first the limit is met at full speed. The smallest limit pays more.
    assert trace.share_429(12, 30) <= (0.02 if per_second > 50 else 0.06)


def test_a_limit_that_falls_in_steps_is_followed_and_found_again_when_it_rises(clock):
    steps = [1.0, 0.6, 0.3, 0.6, 1.0]
    trace = simulate(clock, 200, 0.1, "sliding", 50, lambda at_s: steps[min(4, int(at_s / 10))])
    for number, share in enumerate(steps):
        assert trace.rate(10 * number + 4, 10 * number + 10) >= 0.93 * share * 200


@pytest.mark.parametrize(("per_second", "latency_s"), [(500, 0.3), (50, 0.6)])
def test_429s_without_a_limit_behind_them_cost_little(clock, per_second, latency_s):
    trace = simulate(clock, per_second, latency_s, "sliding", 20, lambda _: 1.0, noise=0.02)
    assert len(trace.throttled) > 10
    assert trace.rate(1, 20) >= 0.9 * per_second


def test_a_limit_is_still_found_behind_429s_that_have_none(clock):
    trace = simulate(clock, 200, 0.1, "sliding", 40, lambda _: 0.5, noise=0.02)
    assert trace.rate(5, 40) >= 0.85 * 100
    assert trace.share_429(12, 40) <= 0.02 + 0.02


def test_429s_that_come_much_quicker_than_other_answers_mean_the_same(clock):
    trace = simulate(clock, 200, 0.6, "sliding", 25, lambda _: 0.5, quick_429=True)
    assert trace.rate(2, 25) >= 0.95 * 100
    assert trace.share_429(10, 25) <= 0.02


def test_where_nothing_at_all_is_left_a_hundredth_of_the_limit_goes_on_asking(clock):
    trace = simulate(clock, 200, 0.1, "sliding", 20, lambda at_s: 0.0 if 2 <= at_s < 12 else 1.0)
    asked = sum(5 < at_s < 12 for at_s in trace.throttled)
    assert 13 <= asked <= 15
    assert trace.back_s(12, 0.9 * 200) <= 3.5


def test_so_few_requests_a_second_as_in_bulk_find_what_is_left(clock):
    trace = simulate(clock, 5, 0.6, "bucket", 100, lambda _: 0.5)
    assert trace.rate(5, 100) >= 0.95 * 2.5
    assert trace.share_429() <= 0.2


@pytest.mark.parametrize("share", [0.8, 0.95, 0.98, 0.99])
def test_a_limit_that_is_little_below_is_found_and_left_behind(clock, share):
    trace = simulate(clock, 200, 0.1, "sliding", 30, lambda at_s: share if at_s < 15 else 1.0)
    assert trace.rate(5, 15) >= 0.95 * share * 200
    assert trace.rate(20, 30) >= 0.99 * 200 / WINDOW_S
    assert trace.limiter.throttled_seconds <= 20


def test_the_seconds_below_the_limit_are_counted(clock):
    trace = simulate(clock, 200, 0.1, "sliding", 15, burst)
    assert 2 <= trace.limiter.throttled_seconds <= TENTH_LEFT_TO_S - TENTH_LEFT_FROM_S + 4.5


def test_one_429_costs_next_to_nothing():
    congestion = Congestion(500)
    congestion.throttled(10.0, 500, 10.3)
    assert 0.99 * 500 <= congestion.rate(12.0) < 500


def test_many_429s_of_one_moment_lower_the_rate_once():
    congestion = Congestion(500)
    for number in range(200):
        congestion.throttled(10 + number / 500, 500, 10.4 + number / 500)
    assert 0.55 * 500 <= congestion.rate(10.8) <= 0.65 * 500


def test_a_few_429s_among_the_first_requests_are_no_overload():
    congestion = Congestion(500)
    for number in range(7):
        congestion.throttled(10 + number / 500, number + 1, 10.3 + number / 500)
    assert congestion.rate(12.0) >= 0.98 * 500
