"""A run that is refused as a whole stops; bad rows stop nothing."""

import pytest

from delivery.refusals import REFUSED_ROWS, RefusalWatch
from delivery.stopping import Stop
from records.exit_statuses import StopReason
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, Fault, outcome_of
from tests.rows import make_prepared

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
FORBIDDEN = CallOutcome(
    CallStatus.UNAVAILABLE, 403, "Forbidden", 1, "the key may not do this", Fault.PROJECT
)
PROXY = CallOutcome(CallStatus.UNAVAILABLE, 403, None, 1, "not by Iterable", Fault.NETWORK)
MISTYPED = CallOutcome(
    CallStatus.REFUSED,
    400,
    "RequestFieldsTypesMismatched",
    1,
    "Project 1: sarah is no long",
    Fault.FIELD,
    (("first_name", "long"),),
)
BAD_EMAIL = CallOutcome(
    CallStatus.REFUSED, 400, "InvalidEmailAddressError", 1, "Invalid email: x", Fault.ROW
)
DOWN = CallOutcome(CallStatus.UNAVAILABLE, 503, None, 5, "answered 503", Fault.ITERABLE)
NO_NETWORK = CallOutcome(CallStatus.UNAVAILABLE, None, None, 5, "ReadTimeout", Fault.NETWORK)

UNTRUSTED = CallOutcome(
    CallStatus.UNAVAILABLE, None, "SSLError", 1, "SSLError: TLS failed", Fault.NETWORK
)


def users(*calls):
    return [outcome_of(make_prepared(), call, OK if call is OK else NOT_SENT) for call in calls]


def events(*calls):
    return [outcome_of(make_prepared(), OK, call) for call in calls]


@pytest.fixture
def stop():
    return Stop()


@pytest.mark.parametrize("call", [FORBIDDEN, PROXY, UNTRUSTED])
@pytest.mark.parametrize("rows", [users, events])
def test_a_reason_that_cannot_lie_in_a_row_stops_after_a_few(stop, rows, call):
    watch = RefusalWatch(stop)
    watch.watch(rows(OK, OK))
    for _ in range(REFUSED_ROWS[Fault.PROJECT] - 1):
        watch.watch(rows(call))
        assert stop.reason is None
    watch.watch(rows(call))
    assert stop.reason is StopReason.EVERY_ROW_REFUSED
    assert stop.detail.count(call.message) == 1
    assert f"Iterable takes no {rows.__name__}" in stop.detail


def test_one_row_that_is_accepted_in_between_begins_the_count_again(stop):
    watch = RefusalWatch(stop)
    for call in [FORBIDDEN, FORBIDDEN, FORBIDDEN, OK] * 5:
        watch.watch(users(call))
    assert stop.reason is None


def test_a_field_that_has_another_type_stops_a_run_that_delivered_nothing(stop):
    watch = RefusalWatch(stop)
    watch.watch(users(*[MISTYPED] * (REFUSED_ROWS[Fault.FIELD] - 1)))
    assert stop.reason is None
    watch.watch(users(MISTYPED))
    assert stop.reason is StopReason.EVERY_ROW_REFUSED
    assert "'first_name' as long" in stop.detail
    # Iterable's own message quotes a value.
    assert "sarah" not in stop.detail


def test_bad_values_stop_no_run_that_has_delivered_something(stop):
    watch = RefusalWatch(stop)
    watch.watch(users(*[MISTYPED] * 100, OK))
    watch.watch(users(*[MISTYPED] * 100))
    watch.finish()
    assert stop.reason is None


@pytest.mark.parametrize("rows", [users, events])
def test_bad_values_stop_no_run_of_which_iterable_holds_a_row_at_that_endpoint(stop, rows):
    watch = RefusalWatch(stop)
    watch.accept({rows.__name__})
    watch.watch(rows(*[MISTYPED] * 100))
    watch.finish()
    assert stop.reason is None


def test_a_row_that_iterable_holds_says_nothing_of_the_other_endpoint(stop):
    watch = RefusalWatch(stop)
    watch.accept({"events"})
    watch.watch(users(*[MISTYPED] * 100))
    assert stop.reason is StopReason.EVERY_ROW_REFUSED


@pytest.mark.parametrize("call", [BAD_EMAIL, DOWN, NO_NETWORK])
def test_what_says_nothing_about_other_rows_stops_nothing(stop, call):
    watch = RefusalWatch(stop)
    watch.watch(users(*[call] * 1000))
    watch.finish()
    assert stop.reason is None


@pytest.mark.parametrize(
    ("calls", "stops"),
    [
        ([FORBIDDEN], True),
        ([UNTRUSTED], True),
        ([MISTYPED] * 4, True),
        ([MISTYPED] * 3, False),
        ([FORBIDDEN, OK], False),
        ([FORBIDDEN, BAD_EMAIL], False),
        ([MISTYPED] * 4 + [FORBIDDEN], True),
        ([OK], False),
        ([], False),
    ],
)
def test_a_short_run_is_judged_at_its_end(stop, calls, stops):
    watch = RefusalWatch(stop)
    watch.watch(users(*calls))
    watch.finish()
    assert (stop.reason is StopReason.EVERY_ROW_REFUSED) is stops
