"""A project that creates no new fields drops them and says nothing."""

import pytest

from delivery.field_check import INTERVAL_S, PATIENCE_S, FieldCheck
from iterable_api.mapping import PROFILE_FIELDS
from records.delivery_ledger import Held
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, outcome_of
from records.run import RunOptions, RunRecord
from tests.rows import make_prepared, open_ledger

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
REFUSED = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
ALL = set(PROFILE_FIELDS)
SAME, OTHER, NOTHING = 2 * (Held.SAME,), 2 * (Held.OTHER,), 2 * (Held.NOTHING,)


def no_wait(seconds):
    return False


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite3"


@pytest.fixture
def finish(path):
    """Return what delivers a row and then looks: what is missing, and what the next run knows."""

    def finish(fetch, wait=no_wait, **changes):
        row = make_prepared(**changes)
        outcomes = [outcome_of(row, OK, OK)]
        run = RunRecord(RunOptions(), "1.0.0")
        with open_ledger(path) as ledger:
            ledger.begin_run(proven=False)
            ledger.record(outcomes)
            check = FieldCheck(PROFILE_FIELDS, ledger, fetch, wait)
            check.add(outcomes)
            check.finish(run)
        return run.filtered_fields.get("users_update", set()), known(path, row)

    return finish


def known(path, row):
    with open_ledger(path) as ledger:
        (held,) = ledger.held([row])
        return held


def test_when_the_project_has_all_fields_the_run_counts(finish):
    assert finish(lambda: ALL | {"more"}) == (set(), SAME)


def test_fields_that_it_does_not_have_are_missing_after_some_patience(finish):
    waits: list[float] = []

    def wait(seconds):
        waits.append(seconds)
        return False

    assert finish(lambda: ALL - {"first_name"}, wait) == ({"first_name"}, NOTHING)
    assert sum(waits) == PATIENCE_S


def test_a_field_that_shows_after_a_while_is_not_missing(finish):
    answers = [set(), set(), ALL]
    assert finish(lambda: answers.pop(0)) == (set(), SAME)
    assert answers == []


def test_when_the_project_does_not_tell_nothing_is_missing_and_nothing_counts(finish):
    assert finish(lambda: None) == (set(), OTHER)


def test_a_stop_ends_the_patience_and_nothing_counts(finish):
    waits = []

    def wait(seconds):
        waits.append(seconds)
        return True

    assert finish(set, wait) == (set(), OTHER)
    assert waits == [INTERVAL_S]


def test_only_what_was_delivered_is_looked_for(finish):
    assert finish(lambda: ALL - {"first_name"}, first_name=None) == (set(), SAME)


def test_without_a_delivered_profile_the_project_is_not_asked(path):
    run = RunRecord(RunOptions(), "1.0.0")
    with open_ledger(path) as ledger:
        ledger.begin_run(proven=False)
        check = FieldCheck(PROFILE_FIELDS, ledger, lambda: pytest.fail("asked"), no_wait)
        check.add([outcome_of(make_prepared(), REFUSED, NOT_SENT)])
        check.finish(run)
        assert run.filtered_fields == {}


def test_a_run_that_has_looked_says_nothing_of_one_that_could_not(path, finish):
    """It may have delivered fewer fields, or none."""
    finish(lambda: None)
    finish(lambda: ALL - {"first_name"}, number=2, first_name=None)
    assert known(path, make_prepared()) == OTHER
    assert known(path, make_prepared(2, first_name=None)) == SAME


@pytest.mark.parametrize(
    ("fields", "expected"), [(ALL, SAME), (ALL - {"candidate"}, NOTHING), (None, OTHER)]
)
def test_the_next_run_looks_for_one_that_could_not(path, finish, fields, expected):
    finish(lambda: None)
    with open_ledger(path) as ledger:
        FieldCheck(PROFILE_FIELDS, ledger, lambda: fields, no_wait).check_earlier_runs()
    assert known(path, make_prepared()) == expected


def test_it_does_not_ask_when_every_run_has_looked(path, finish):
    finish(lambda: ALL)
    with open_ledger(path) as ledger:
        FieldCheck(
            PROFILE_FIELDS, ledger, lambda: pytest.fail("asked"), no_wait
        ).check_earlier_runs()


@pytest.mark.parametrize("objects", [True, False])
def test_what_is_in_an_object_is_in_no_list_of_names_so_nothing_earlier_is_proven(path, objects):
    row = make_prepared()
    with open_ledger(path) as ledger:
        ledger.begin_run(proven=False)
        ledger.record([outcome_of(row, OK, OK)])
    with open_ledger(path) as ledger:
        check = FieldCheck(PROFILE_FIELDS, ledger, lambda: ALL, no_wait, objects=objects)
        check.check_earlier_runs()
    assert known(path, row) == (NOTHING if objects else SAME)


@pytest.mark.parametrize("value", ["null", "[]", "[null]", "[[]]", "[[], [null]]"])
def test_what_makes_a_field_in_no_project_is_not_missing(path, value):
    row = make_prepared()
    row = row._replace(user=row.user[:-2] + f', "tags": {value}}}}}'.encode())
    outcomes = [outcome_of(row, OK, OK)]
    run = RunRecord(RunOptions(), "1.0.0")
    with open_ledger(path) as ledger:
        ledger.begin_run(proven=False)
        ledger.record(outcomes)
        check = FieldCheck({*ALL, "tags"}, ledger, lambda: ALL, no_wait)
        check.add(outcomes)
        check.finish(run)
    assert run.filtered_fields == {}
    assert known(path, row) == SAME
