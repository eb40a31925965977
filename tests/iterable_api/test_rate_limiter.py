"""The pace of requests: never more than the limiter, and giving way when others need it."""

import itertools
import threading
from functools import partial

import pytest

from iterable_api.rate_limiter import WINDOW_S, RateLimiter
from tests.iterable_api.simulation import most_in_a_second


def limiter_of(per_second, clock):
    return RateLimiter(per_second, wait=clock.sleep)


def send(limiter):
    """Send a request that is on the wire at once; return its permit."""
    permit = limiter.acquire()
    permit.depart()
    return permit


@pytest.mark.parametrize("per_second", [5, 4.5, 500, 1])
def test_no_second_holds_more_than_the_limit_and_little_is_given_away(clock, per_second):
    limiter = limiter_of(per_second, clock)
    count = int(per_second * 10) + 1
    moments = [send(limiter).departed_s for _ in range(count)]
    assert most_in_a_second(moments) <= -(-per_second // 1)
    assert (count - 1) / (moments[-1] - moments[0]) == pytest.approx(
        per_second / WINDOW_S, rel=0.01
    )


def test_requests_are_spread_evenly_also_after_a_pause(clock):
    limiter = limiter_of(10, clock)
    send(limiter)
    clock.now_s += 60
    moments = [send(limiter).departed_s for _ in range(10)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps[1:]) == pytest.approx(WINDOW_S / 10)


def test_a_request_counts_from_when_it_was_on_the_wire(clock):
    limiter = limiter_of(2, clock)
    slow, quick = limiter.acquire(), limiter.acquire()
    quick.depart()
    clock.now_s += 3
    slow.depart()
    limiter.acquire().depart()
    assert limiter.acquire().departed_s >= slow.departed_s + WINDOW_S


def test_what_is_not_on_the_wire_yet_counts(clock):
    limiter = limiter_of(50, clock)
    # 330 workers connect, which takes eight seconds; then all of them send.
    connected_s, departed = clock.now_s + 8, []

    def connect(permit):
        clock.at(max(clock.now_s, connected_s), partial(leave, permit))

    def leave(permit):
        permit.depart()
        departed.append(permit.departed_s)

    for _ in range(330):
        connect(limiter.acquire())
    clock.sleep(1)
    assert len(departed) == 330
    assert most_in_a_second(departed) == 50
    assert departed[-1] <= connected_s + 330 / 50 * WINDOW_S


def test_a_request_that_never_came_to_the_wire_gives_its_place_back(clock):
    limiter = limiter_of(2, clock)
    for _ in range(2):
        limiter.release(limiter.acquire())
    began_s = clock.now_s
    assert WINDOW_S / 2 <= limiter.acquire().departed_s - began_s <= WINDOW_S


def test_a_request_departs_once_though_its_end_is_told_too(clock):
    limiter = limiter_of(2, clock)
    permit = send(limiter)
    departed_s = permit.departed_s
    clock.now_s += 0.9
    limiter.release(permit)
    assert (permit.departed_s, list(permit.departures)) == (departed_s, [departed_s])


def test_a_stop_ends_the_waiting_for_requests_that_do_not_come_to_the_wire(clock):
    stopping = iter([False, False, True])
    limiter = RateLimiter(50, wait=lambda seconds: clock.sleep(seconds) or next(stopping))
    assert None not in [limiter.acquire() for _ in range(50)]
    assert limiter.acquire() is None


def test_a_stop_ends_the_waiting_for_ones_turn_where_that_is_long(clock):
    stopping = iter([False, True])
    limiter = RateLimiter(0.5, wait=lambda seconds: clock.sleep(seconds) or next(stopping))
    send(limiter)
    assert limiter.acquire() is None


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
        limiter.accepted(probe)
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
