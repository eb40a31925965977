"""A project that creates no new fields drops them and says nothing."""

from delivery.field_check import INTERVAL_S, PATIENCE_S, FieldCheck
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, outcome_of
from tests.rows import make_prepared

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
REFUSED = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
ALL = dict.fromkeys(("first_name", "plan_type", "recent_page_view", "candidate"), "string")


def delivered(**changes):
    check = FieldCheck()
    check.add([outcome_of(make_prepared(**changes), OK, OK)])
    return check


def no_wait(seconds):
    return False


def test_fields_that_the_project_has_are_not_missing():
    assert delivered().missing(lambda: ALL | {"more": "long"}, no_wait) == set()


def test_fields_that_it_does_not_have_are_missing_after_some_patience():
    waits: list[float] = []

    def wait(seconds):
        waits.append(seconds)
        return False

    fields = {"plan_type": "string", "candidate": "string", "recent_page_view": "boolean"}
    missing = delivered().missing(lambda: fields, wait)
    assert missing == {"first_name"}
    assert sum(waits) == PATIENCE_S


def test_a_field_that_shows_after_a_while_is_not_missing():
    answers = [{}, {}, ALL]
    assert delivered().missing(lambda: answers.pop(0), no_wait) == set()
    assert answers == []


def test_nothing_is_missing_when_the_project_does_not_tell():
    assert delivered().missing(lambda: None, no_wait) == set()


def test_a_stop_ends_the_patience():
    waits = []

    def wait(seconds):
        waits.append(seconds)
        return True

    assert delivered().missing(dict, wait) == ALL.keys()
    assert waits == [INTERVAL_S]


def test_only_what_was_delivered_is_looked_for():
    assert (
        delivered(first_name=None).missing(
            lambda: {name: kind for name, kind in ALL.items() if name != "first_name"}, no_wait
        )
        == set()
    )
    check = FieldCheck()
    check.add([outcome_of(make_prepared(), REFUSED, NOT_SENT)])
    assert check.missing(dict, no_wait) == set()
