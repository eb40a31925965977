"""Patience with a silent endpoint: who waits, who tries it, and when all may go again."""

import math

import pytest

from iterable_api.hold import FIRST_PROBE_S, LONGEST_PROBE_S, POLL_S, Hold, Silence


@pytest.fixture
def held(clock):
    return Hold(clock.sleep)


def fail(held, clock, probe=0, cause="answered 503"):
    """Let a request fail that left just now."""
    held.unanswered(clock.now_s, probe, cause)


def answer(held, clock):
    held.answered(clock.now_s)


def test_an_endpoint_that_answers_holds_nobody(held, clock):
    answer(held, clock)
    assert held.until_s < clock.now_s
    assert held.silence == Silence(0.0, "")


def test_a_silent_endpoint_is_tried_once_after_half_a_second(held, clock):
    fail(held, clock)
    began_s = clock.now_s
    assert held.until_s > clock.now_s
    assert held.enter() == 1
    assert clock.now_s - began_s == pytest.approx(FIRST_PROBE_S)


def test_each_failed_probe_makes_the_next_wait_twice_as_long_up_to_a_limit(held, clock):
    fail(held, clock)
    waits = []
    for _ in range(9):
        began_s = clock.now_s
        probe = held.enter()
        waits.append(clock.now_s - began_s)
        fail(held, clock, probe)
    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, LONGEST_PROBE_S, LONGEST_PROBE_S, 30])


def test_while_a_probe_is_under_way_nobody_else_is_let_through(clock):
    patience = iter([False] * 600 + [True])
    held = Hold(lambda seconds: clock.sleep(seconds) or next(patience))
    fail(held, clock)
    assert held.enter() == 1
    began_s = clock.now_s
    assert held.enter() is None
    assert clock.now_s - began_s >= 590 * POLL_S


def test_a_definite_answer_opens_it_at_once_and_for_all(held, clock):
    fail(held, clock)
    held.enter()
    clock.now_s += 0.02
    answer(held, clock)
    began_s = clock.now_s
    assert [held.enter() for _ in range(3)] == [0, 0, 0]
    assert clock.now_s == began_s
    assert held.until_s <= clock.now_s
    assert held.silence.seconds == 0


def test_a_definite_answer_to_another_request_ends_the_waiting_for_a_probe(clock):
    began_s = math.inf

    def sleep(seconds):
        clock.sleep(seconds)
        if clock.now_s > began_s + 3 * POLL_S:
            answer(held, clock)
        return False

    held = Hold(sleep)
    fail(held, clock)
    assert held.enter() == 1
    began_s = clock.now_s
    assert held.enter() == 0
    assert clock.now_s - began_s == pytest.approx(4 * POLL_S, abs=POLL_S)


def test_a_request_that_fails_while_others_are_answered_holds_nobody(held, clock):
    for _ in range(20):
        departed_s = clock.now_s
        clock.now_s += 0.05
        answer(held, clock)
        clock.now_s += 0.05
        held.unanswered(departed_s, 0, "answered 500")
        assert held.until_s < clock.now_s
    assert held.silence == Silence(0.0, "")


def test_an_answer_that_came_before_the_failed_request_left_proves_nothing(held, clock):
    answer(held, clock)
    clock.now_s += 0.01
    fail(held, clock)
    assert held.until_s > clock.now_s


def test_after_an_outage_the_next_one_is_tried_quickly_again(held, clock):
    for _ in range(2):
        fail(held, clock)
        for _ in range(5):
            fail(held, clock, held.enter())
        clock.now_s += 1
        answer(held, clock)
        clock.now_s += 1
    fail(held, clock)
    began_s = clock.now_s
    held.enter()
    assert clock.now_s - began_s == pytest.approx(FIRST_PROBE_S)


def test_requests_that_left_before_do_not_lengthen_the_waiting(held, clock):
    departed_s = clock.now_s
    clock.now_s += 1
    for _ in range(300):
        held.unanswered(departed_s, 0, "answered 503")
    held.enter()
    assert clock.now_s - departed_s == pytest.approx(1 + FIRST_PROBE_S)


def test_a_probe_that_was_not_sent_lets_another_go_at_once(held, clock):
    fail(held, clock)
    held.release(held.enter())
    began_s = clock.now_s
    assert held.enter() == 2
    assert clock.now_s == began_s


def test_after_a_call_was_given_up_the_next_waits_no_longer_than_the_first(held, clock):
    fail(held, clock)
    for _ in range(4):
        fail(held, clock, held.enter())
    held.given_up()
    began_s = clock.now_s
    fail(held, clock, held.enter())
    held.enter()
    assert clock.now_s - began_s == pytest.approx(0.5 + 1)


def test_a_call_that_was_given_up_proves_nothing_while_others_wait_too(clock):
    def sleep(seconds):
        waiting.given_up()
        return clock.sleep(seconds)

    waiting = Hold(sleep)
    fail(waiting, clock)
    for _ in range(4):
        fail(waiting, clock, waiting.enter())
    began_s = clock.now_s
    waiting.enter()
    assert clock.now_s - began_s == pytest.approx(8)


def test_what_is_said_of_a_probe_of_an_earlier_silence_does_not_count_for_this_one(held, clock):
    fail(held, clock)
    old = held.enter()
    clock.now_s += 1
    answer(held, clock)
    clock.now_s += 1
    fail(held, clock)
    new = held.enter()
    fail(held, clock, old)
    held.release(old)
    assert (old, new) == (1, 2)
    assert held._left_s() > 0  # the new probe is still under way


def test_a_pause_holds_everybody_and_then_lets_all_go(held, clock):
    answer(held, clock)
    held.pause(7.0)
    began_s = clock.now_s
    assert held.until_s == began_s + 7
    assert [held.enter(), held.enter()] == [0, 0]
    assert clock.now_s - began_s == pytest.approx(7)


def test_a_definite_answer_does_not_end_a_pause_that_was_asked_for(held, clock):
    held.pause(7.0)
    answer(held, clock)
    began_s = clock.now_s
    held.enter()
    assert clock.now_s - began_s == pytest.approx(7)


def test_a_shorter_pause_does_not_shorten_a_longer_one(held, clock):
    held.pause(9.0)
    held.pause(2.0)
    began_s = clock.now_s
    held.enter()
    assert clock.now_s - began_s == pytest.approx(9)


def test_after_a_pause_a_silent_endpoint_is_still_tried_by_one(held, clock):
    fail(held, clock)
    held.pause(25.0)
    began_s = clock.now_s
    assert held.enter() == 1
    assert clock.now_s - began_s == pytest.approx(25)


@pytest.mark.parametrize("why", ["silent", "paused"])
def test_a_stop_ends_the_waiting(clock, why):
    held = Hold(lambda seconds: True)
    if why == "silent":
        fail(held, clock)
    else:
        held.pause(60.0)
    assert held.enter() is None


def test_what_a_wait_has_slept_counts_whatever_the_clock_says(clock):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        return False

    held = Hold(sleep)
    held.pause(25.0)
    fail(held, clock)
    assert held.enter() == 1
    assert sum(slept) == pytest.approx(25)


def test_silence_is_told_from_the_departure_of_the_first_that_failed(held, clock):
    departed_s = clock.now_s
    clock.now_s += 30
    held.unanswered(departed_s + 3, 0, "answered 503")
    held.unanswered(departed_s, 0, "no answer within 30 s")
    assert held.silence == Silence(30.0, "no answer within 30 s")


def test_silence_grows_while_somebody_asks_and_not_when_nobody_does(held, clock):
    fail(held, clock)
    clock.now_s += 500
    assert held.silence.seconds == 0
    probe = held.enter()
    clock.now_s += 10
    assert held.silence.seconds == pytest.approx(510)
    fail(held, clock, probe, "the connection was reset")
    clock.now_s += 500
    assert held.silence.seconds == pytest.approx(510)
    assert held.silence.cause == "the connection was reset"


def test_silence_grows_while_a_thread_waits_for_its_turn(clock):
    seen = []

    def sleep(seconds):
        seen.append(waiting.silence.seconds)
        return clock.sleep(seconds)

    waiting = Hold(sleep)
    fail(waiting, clock)
    fail(waiting, clock, waiting.enter())
    waiting.enter()
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(FIRST_PROBE_S * 3, abs=2 * POLL_S)
