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


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.fixture
def stop():
    return Stop()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("before", [False, True])
def test_a_signal_asks_to_stop_and_interrupts_what_may_take_long(stop, number, before):
    with stopping(stop):
        if before:
            send(number)
        with pytest.raises(KeyboardInterrupt), stop.interrupting():
            (pytest.fail if before else send)(number)
        assert (stop.reason, stop.wait(0), stop.interrupts) == (NUMBERS[number], True, False)


def test_another_reason_does_not_interrupt(stop):
    stop.request(StopReason.DEADLINE)
    with stop.interrupting():
        pass


@pytest.mark.parametrize("reason", [*NUMBERS.values(), StopReason.DEADLINE])
def test_after_the_last_row_nothing_from_outside_stops_anything(stop, reason):
    stop.over = True
    assert not stop.wait(0)
    stop.request(reason)
    # But it ends the waits that are left: Docker, for one, kills ten seconds after its signal.
    assert (stop.reason, stop.wait(0)) == (None, True)
    stop.request(StopReason.NOT_RECORDED)
    assert stop.reason is StopReason.NOT_RECORDED


@pytest.mark.parametrize("number", NUMBERS)
def test_until_the_process_ends_a_signal_changes_nothing_either(stop, number):
    with stopping(stop):
        stop.over = True
        send(number, number, number)
    send(number, number, number)
    assert stop.reason is None


def test_a_second_hangup_is_not_impatience_and_a_second_of_another_is(stop):
    with stopping(stop):
        send(signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP)
        assert stop.reason is StopReason.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_a_hangup_that_the_caller_ignores_stays_ignored(stop):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping(stop):
        send(signal.SIGHUP)
        assert stop.reason is None
