"""The limiter: even pace, less beside other clients, patience with an endpoint that is silent.

In simulated time. What other clients leave is played by a few of simulation.py's cases.
"""

import itertools
import threading
from functools import partial

import pytest

from iterable_api import limiter as limiter_module
from iterable_api.limiter import (
    CATCH_UP_S,
    OUTAGE_S,
    PROBE_S,
    SPREAD_S,
    Kind,
    Limiter,
    backoff_s,
)
from tests.iterable_api.simulation import Clock, most_in_a_second, simulate

cases = pytest.mark.parametrize(
    ("per_second", "latency_s", "kind"),
    [(500, 0.02, "sliding"), (200, 0.3, "bucket"), (500, 0.6, "sliding"), (200, 1.2, "bucket")],
)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(limiter_module, "time", clock)
    return clock


@pytest.fixture
def outages():
    """Return the list of the reasons for which runs were to stop."""
    return []


@pytest.fixture
def limiter(clock, outages):
    return Limiter(100, wait=clock.sleep, outage=outages.append)


def depart(limiter):
    """Return when the next request departs."""
    departed_s = limiter.acquire()
    assert departed_s is not None
    return departed_s


# --- Pace


@pytest.mark.parametrize("per_second", [5, 4.5, 500, 1])
def test_no_second_holds_more_than_the_limit_and_little_is_given_away(clock, per_second):
    limiter = Limiter(per_second, wait=clock.sleep)
    count = int(per_second * 10) + 1
    moments = [depart(limiter) for _ in range(count)]
    assert most_in_a_second(moments) <= -(-per_second // 1)
    rate = (count - 1) / (moments[-1] - moments[0])
    assert rate == pytest.approx(per_second / SPREAD_S, rel=0.01)


@pytest.mark.parametrize("idle_s", [CATCH_UP_S, 60])
def test_little_of_the_time_in_which_nobody_departed_is_made_up_for(clock, idle_s):
    """As after a process was frozen."""
    limiter = Limiter(500, wait=clock.sleep)
    limiter.acquire()
    clock.now_s += idle_s
    moments = [depart(limiter) for _ in range(1000)]
    assert most_in_a_second(moments) <= 500


def test_threads_share_one_limit():
    moments: list[float] = []
    limiter = Limiter(200)

    def send():
        moments.extend(depart(limiter) for _ in range(5))

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(moments) - min(moments) >= 99 / 200 * 0.9
    assert limiter.waiting == 0


def test_a_stop_does_not_keep_those_back_whose_turn_comes_soon():
    """They finish the rows that are in flight."""
    limiter = Limiter(100, wait=lambda seconds: True)
    assert None not in [limiter.acquire() for _ in range(3)]


@pytest.mark.parametrize("why", ["pace", "pause", "silence"])
def test_a_stop_ends_a_long_wait(clock, why):
    limiter = Limiter(0.5 if why == "pace" else 100, wait=lambda seconds: True)
    departed_s = depart(limiter)
    if why == "pause":
        limiter.report(Kind.ACCEPTED, departed_s, pause_s=60.0)
    elif why == "silence":
        limiter.report(Kind.UNANSWERED, departed_s)
    assert limiter.acquire() is None
    assert clock.now_s - departed_s < 1


@pytest.mark.parametrize("kind", Kind)
def test_a_pause_holds_everybody_back_and_then_lets_all_go(limiter, kind):
    departed_s = limiter.acquire()
    limiter.report(kind, departed_s, pause_s=25.0)
    limiter.report(kind, departed_s, pause_s=7.0)
    limiter.report(Kind.ACCEPTED, departed_s)
    moments = [limiter.acquire() for _ in range(3)]
    assert moments[0] == pytest.approx(departed_s + 25)
    assert moments[-1] - moments[0] < 0.1


# --- 429


@cases
def test_with_nobody_else_the_whole_limit_is_used_and_next_to_nothing_is_answered_429(
    clock, per_second, latency_s, kind
):
    trace = simulate(clock, per_second, latency_s, kind, 8, lambda _: 1.0)
    assert trace.rate(1, 8) >= 0.95 * per_second
    assert trace.share_429() <= 0.01
    assert trace.limiter.throttled_seconds == 0


@cases
def test_a_burst_of_another_client_costs_at_most_six_seconds(clock, per_second, latency_s, kind):
    trace = simulate(
        clock, per_second, latency_s, kind, 12, lambda at_s: 0.1 if 3 <= at_s < 5 else 1.0
    )
    assert trace.throttled
    assert per_second * 12 - len(trace.accepted) <= 6.0 * per_second
    assert trace.back_s(5, 0.9 * per_second) <= 4.5
    assert 2 <= trace.limiter.throttled_seconds <= 7


@cases
def test_most_of_what_another_client_leaves_for_good_is_used(clock, per_second, latency_s, kind):
    trace = simulate(clock, per_second, latency_s, kind, 20, lambda _: 0.5)
    assert trace.rate(3, 20) >= 0.9 * per_second / 2
    # The longer an answer takes, the more requests are under way when the limit is met.
    assert trace.share_429(5) <= 0.05 + 0.12 * latency_s


def test_where_nothing_at_all_is_left_some_requests_go_on_asking(clock):
    trace = simulate(clock, 200, 0.1, "sliding", 20, lambda at_s: 0.0 if 2 <= at_s < 12 else 1.0)
    asked = sum(5 < at_s < 12 for at_s in trace.throttled)
    assert 7 <= asked <= 70
    assert trace.back_s(12, 0.9 * 200) <= 4.5


def test_so_few_requests_a_second_as_in_bulk_find_what_is_left(clock):
    trace = simulate(clock, 5, 0.6, "bucket", 60, lambda _: 0.5)
    assert trace.rate(5, 60) >= 0.9 * 2.5


# --- Silence


def fail(limiter, departed_s=None, cause="answered 503"):
    """Let a request fail as soon as it has departed."""
    departed_s = depart(limiter) if departed_s is None else departed_s
    limiter.report(Kind.UNANSWERED, departed_s, cause=cause)
    return departed_s


@pytest.mark.parametrize("kind", [Kind.ACCEPTED, Kind.THROTTLED])
def test_a_silent_endpoint_gets_a_request_a_second_until_any_definite_answer(
    clock, limiter, outages, kind
):
    for departed_s in [limiter.acquire() for _ in range(5)]:
        last_s = fail(limiter, departed_s)
    moments = [last_s, *(fail(limiter) for _ in range(3)), limiter.acquire()]
    assert [later - at for at, later in itertools.pairwise(moments)] == pytest.approx([PROBE_S] * 4)
    clock.now_s += 0.01
    limiter.report(kind, moments[-1])
    assert [limiter.acquire() for _ in range(10)][-1] - moments[-1] < 0.5
    # And the next silence begins anew.
    clock.now_s += 1
    began_s = fail(limiter)
    assert limiter.acquire() - began_s == pytest.approx(PROBE_S, abs=CATCH_UP_S)
    assert outages == []


@pytest.mark.parametrize("of_its_twin", [False, True])
def test_an_answer_ends_a_silence_while_others_wait(clock, limiter, of_its_twin):
    limiter.twin = Limiter(100, wait=clock.sleep)
    answered = limiter.twin if of_its_twin else limiter
    last_s = [fail(limiter) for _ in range(6)][-1]
    clock.at(last_s + 0.4, partial(answered.report, Kind.ACCEPTED, last_s))
    assert limiter.acquire() - last_s == pytest.approx(0.4, abs=0.2)


def test_a_request_that_fails_while_others_are_answered_holds_nobody(clock, limiter):
    for _ in range(20):
        departed_s = limiter.acquire()
        clock.now_s += 0.05
        limiter.report(Kind.ACCEPTED, departed_s)
        clock.now_s += 0.05
        fail(limiter, departed_s)
    before_s = clock.now_s
    assert limiter.acquire() == before_s


def test_while_its_twin_is_answered_there_is_no_outage(clock, limiter, outages):
    """A bulk endpoint may be down while the one for single calls is not."""
    limiter.twin = Limiter(100, wait=clock.sleep)
    for _ in range(int(3 * OUTAGE_S)):
        departed_s = depart(limiter)
        clock.sleep(1.0)
        limiter.report(Kind.UNANSWERED, departed_s)
        limiter.twin.report(Kind.ACCEPTED, depart(limiter.twin))
    assert outages == []


def test_a_minute_of_silence_is_an_outage_and_says_why(clock, limiter, outages):
    began_s = fail(limiter)
    while not outages:
        last_s = fail(limiter, cause="connection reset by peer")
    # The limiter reads of a failure when the next request is about to depart.
    silent_s = last_s - PROBE_S - began_s
    assert OUTAGE_S <= silent_s <= OUTAGE_S + PROBE_S
    assert outages == [f"no definite answer for {silent_s:.0f} s; connection reset by peer"]


@pytest.mark.parametrize(("waited_s", "failures"), [(25, 3), (3600, 2)])
def test_a_silence_begins_with_a_failure_and_each_adds_half_a_minute_at_most(
    clock, limiter, outages, waited_s, failures
):
    """A process may have been frozen, or an endpoint not used for a while."""
    departed_s = limiter.acquire()
    for _ in range(failures + 1):
        clock.now_s += waited_s
        fail(limiter, departed_s)
        assert outages == []
        departed_s = limiter.acquire()
    assert len(outages) == 1


def test_backoff_doubles_with_full_jitter_up_to_32_seconds():
    for attempt, longest in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 32), (5000, 32)]:
        waits = [backoff_s(attempt) for _ in range(300)]
        assert 0 <= min(waits) < longest / 4
        assert longest * 3 / 4 < max(waits) <= longest
