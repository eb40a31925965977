"""What asks a run to stop, and from when on it comes too late."""

import os
import signal

import pytest

from delivery.stopping import Stop, stopping
from records.exit_statuses import StopReason

NUMBERS = {
    signal.SIGINT: StopReason.SIGINT,
    signal.SIGTERM: StopReason.SIGTERM,
    signal.SIGHUP: StopReason.SIGTERM,
}


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_asks_to_stop(number):
    stop = Stop()
    with stopping(stop):
        send(number)
        assert stop.reason is NUMBERS[number]
        assert stop.wait(0)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_interrupts_what_may_take_long(number):
    stop = Stop()
    with stopping(stop):
        with pytest.raises(KeyboardInterrupt), stop.interrupting():
            send(number)
        assert not stop.interrupts


@pytest.mark.parametrize("number", NUMBERS)
def test_so_does_one_that_came_before(number):
    stop = Stop()
    with stopping(stop):
        send(number)
        with pytest.raises(KeyboardInterrupt), stop.interrupting():
            pytest.fail("was not interrupted")


def test_another_reason_does_not_interrupt():
    stop = Stop()
    stop.request(StopReason.DEADLINE)
    with stop.interrupting():
        pass


@pytest.mark.parametrize("reason", [*NUMBERS.values(), StopReason.DEADLINE])
def test_after_the_last_row_nothing_from_outside_stops_anything(reason):
    stop = Stop()
    stop.over = True
    assert not stop.wait(0)
    stop.request(reason)
    assert stop.reason is None
    stop.request(StopReason.NOT_RECORDED)
    assert stop.reason is StopReason.NOT_RECORDED


@pytest.mark.parametrize("number", NUMBERS)
def test_after_the_last_row_a_signal_ends_the_waits_that_are_left(number):
    """Docker, for one, kills ten seconds after the first signal, and then there are no results."""
    stop = Stop()
    with stopping(stop):
        stop.over = True
        send(number)
        assert stop.wait(0)
        assert stop.reason is None


@pytest.mark.parametrize("number", NUMBERS)
def test_until_the_process_ends_a_signal_changes_nothing_either(number):
    stop = Stop()
    with stopping(stop):
        stop.over = True
        for _ in range(3):
            send(number)
    for _ in range(3):
        send(number)
    assert stop.reason is None


def test_a_second_hangup_is_not_impatience_and_a_second_of_another_is():
    stop = Stop()
    with stopping(stop):
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            send(number)
        assert stop.reason is StopReason.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_a_hangup_that_the_caller_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = Stop()
    with stopping(stop):
        send(signal.SIGHUP)
        assert stop.reason is None
