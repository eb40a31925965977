"""A run that is refused as a whole stops; bad rows stop nothing."""

import pytest

from delivery.recorder import REFUSED_ROWS, RefusalWatch
from delivery.stopping import Stop
from iterable_api.answers import NAME_BLOCKED
from records.exit_statuses import StopReason
from records.outcomes import NOT_SENT, UNCHANGED, CallOutcome, CallStatus, Fault
from tests.results import BAD, DOWN, MISTYPED, OK
from tests.rows import make_prepared, settled, with_bodies

LOST = CallStatus.UNAVAILABLE
FORBIDDEN = CallOutcome(LOST, 403, "Forbidden", 1, "the key may not do this", Fault.PROJECT)
PROXY = CallOutcome(LOST, 403, None, 1, "not by Iterable", Fault.NETWORK)
UNTRUSTED = CallOutcome(LOST, None, "SSLError", 1, "SSLError: TLS failed", Fault.NETWORK)
NO_NETWORK = CallOutcome(LOST, None, None, 5, "ReadTimeout", Fault.NETWORK)


def users(*calls):
    return [settled(make_prepared(), call, OK if call is OK else NOT_SENT) for call in calls]


def events(*calls):
    return [settled(make_prepared(), OK, call) for call in calls]


@pytest.fixture
def stop():
    return Stop()


@pytest.fixture
def watch(stop):
    return RefusalWatch(stop)


@pytest.mark.parametrize("call", [FORBIDDEN, PROXY, UNTRUSTED])
@pytest.mark.parametrize("rows", [users, events])
def test_a_reason_that_cannot_lie_in_a_row_stops_after_a_few(stop, watch, rows, call):
    watch.watch(rows(OK, OK))
    for _ in range(REFUSED_ROWS[Fault.PROJECT] - 1):
        watch.watch(rows(call))
        assert stop.reason is None
    watch.watch(rows(call))
    assert stop.reason is StopReason.EVERY_ROW_REFUSED
    assert stop.detail.count(call.message) == 1
    assert f"Iterable refuses all {rows.__name__}" in stop.detail


def test_one_row_that_is_accepted_in_between_begins_the_count_again(stop, watch):
    for call in [FORBIDDEN, FORBIDDEN, FORBIDDEN, OK] * 5:
        watch.watch(users(call))
    assert stop.reason is None
    # One that Iterable holds from an earlier run does not.
    for call in [FORBIDDEN, FORBIDDEN, UNCHANGED, FORBIDDEN, FORBIDDEN]:
        watch.watch(users(call))
    assert stop.reason is StopReason.EVERY_ROW_REFUSED


def test_a_field_that_has_another_type_stops_a_run_that_delivered_nothing(stop, watch):
    watch.watch(users(*[MISTYPED] * (REFUSED_ROWS[Fault.FIELD] - 1)))
    assert stop.reason is None
    watch.watch(users(MISTYPED))
    assert stop.reason is StopReason.EVERY_ROW_REFUSED
    assert "'plan_type' has the type date" in stop.detail
    # Iterable's own message quotes a value.
    assert MISTYPED.message not in stop.detail


@pytest.mark.parametrize("accepted", [OK, UNCHANGED])
def test_bad_values_stop_no_run_of_which_iterable_has_a_row_at_that_endpoint(stop, watch, accepted):
    watch.watch(users(accepted, *[MISTYPED] * 100))
    watch.watch(users(*[MISTYPED] * 100))
    watch.finish()
    assert stop.reason is None
    watch.watch(events(*[MISTYPED] * 100))
    assert (stop.reason is None) == (accepted is OK)


@pytest.mark.parametrize("has_own_name", [True, False])
def test_a_blocked_name_is_a_rows_own_if_rows_have_names(stop, watch, has_own_name):
    row = make_prepared()
    row = with_bodies(row, event=b'{"eventName": "sold"}') if has_own_name else row
    blocked = CallOutcome(LOST, 200, "Success", 1, NAME_BLOCKED, Fault.PROJECT)
    for track in (OK, *[blocked] * 100):
        watch.watch([settled(row, OK, track)])
    assert (stop.reason is None) is has_own_name


@pytest.mark.parametrize("call", [BAD, DOWN, NO_NETWORK])
def test_what_says_nothing_about_other_rows_stops_nothing(stop, watch, call):
    watch.watch(users(*[call] * 100))
    watch.finish()
    assert stop.reason is None


@pytest.mark.parametrize(
    ("calls", "stops"),
    [
        ([FORBIDDEN], True),
        ([UNTRUSTED], True),
        ([FORBIDDEN, BAD], True),
        ([MISTYPED] * 4, True),
        ([MISTYPED] * 3, False),
        ([FORBIDDEN, OK], False),
        ([], False),
    ],
)
def test_a_short_run_is_judged_at_its_end(stop, watch, calls, stops):
    watch.watch(users(*calls))
    watch.finish()
    assert (stop.reason is StopReason.EVERY_ROW_REFUSED) is stops
