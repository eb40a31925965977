"""A project that creates no new fields drops them and says nothing."""

import math
import queue
import threading
from contextlib import contextmanager

import pytest

from delivery.project_fields import INTERVAL_S, LEFT_OUT, PATIENCE_S, ProjectFields
from records.outcomes import NOT_SENT, UNCHANGED, CallOutcome, CallStatus, RowStatus
from records.run import RunOptions, RunRecord
from tests.results import OK
from tests.rows import (
    PROFILE_FIELDS,
    answered,
    make_planner,
    make_prepared,
    open_ledger,
    settled,
    with_bodies,
)

REFUSED = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
ALL = set(PROFILE_FIELDS)
SURE, HELD = [(True, True)] * 2, [(True, False)] * 2


def no_wait(seconds):
    return False


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite3"


class AtOnce(threading.Thread):
    """Is done with its work when it is begun."""

    start = threading.Thread.run


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr("delivery.project_fields.threading.Thread", AtOnce)


@contextmanager
def night(path, there, wait=no_wait):
    """Yield the fields of a run with one ledger; the project tells *there*, None for nothing."""
    with open_ledger(path) as ledger:
        ledger.begin_run({})
        yield ProjectFields(RunRecord(RunOptions(), "1.0.0"), ledger, lambda: there, wait)


def add(fields, *rows):
    """Record *rows*; return whether they are sure."""
    sure = fields.add(rows)
    fields.ledger.record(rows, sure=sure)
    return sure


@pytest.fixture
def deliver(path):
    """Return what does a run: looks, plans, delivers one row, looks again. It returns the run."""

    def deliver(before, after=None, *, wait=no_wait, calls=(OK, OK), **changes):
        with night(path, before if after is None else after, wait) as fields:
            fields.know(before)
            plan = make_planner(fields.ledger, fields=fields).plan([make_prepared(**changes)])
            fields.ledger.forget(plan.forget)
            sent = [answered(row, *calls) for row in plan.to_send]
            fields.run.count([*plan.done, *sent])
            add(fields, *sent)
            fields.finish(patient=True)
            return fields.run

    return deliver


def known(path, row=None):
    with open_ledger(path) as ledger:
        (held,) = ledger.held([row or make_prepared()])
        return [(each.same, each.sure) for each in held]


def missing(run):
    return run.filtered_fields.get("users_update", set())


# --- One run


def test_when_the_project_has_all_fields_the_delivery_is_sure(path, warned):
    with night(path, None) as fields:
        fields.know(ALL | {"more"})
        fields.fetch = lambda: pytest.fail("asked")
        assert add(fields, settled(make_prepared(), OK, OK))
        fields.finish(patient=False)
    assert (missing(fields.run), fields.run.news, known(path), warned) == (set(), "", SURE, [])


def test_fields_that_it_does_not_have_are_missing_after_some_patience(path, deliver):
    waits: list[float] = []
    run = deliver(ALL - {"first_name"}, wait=waits.append)
    assert (missing(run), known(path)) == ({"first_name"}, HELD)
    assert sum(waits) == PATIENCE_S
    # What was left out before is not waited for.
    assert missing(deliver(ALL - {"first_name"}, first_name="Eva", wait=waits.append))
    assert sum(waits) == PATIENCE_S


def test_a_field_that_shows_after_a_while_is_not_missing(path):
    with night(path, set()) as fields:
        assert not add(fields, settled(make_prepared(), OK, OK))
        answers = [ALL, set(), set()]
        fields.fetch = answers.pop
        fields.finish(patient=True)
    assert (missing(fields.run), known(path), answers) == (set(), SURE, [])


@pytest.mark.parametrize(("there", "stops"), [(None, False), (set(), True)])
def test_if_the_project_does_not_tell_or_a_stop_comes_nothing_is_missing_and_nothing_sure(
    path, deliver, warned, there, stops
):
    waits: list[float] = []

    def wait(seconds):
        waits.append(seconds)
        return stops

    run = deliver(there, wait=wait)
    assert (missing(run), run.news, known(path)) == (set(), "", HELD)
    assert waits == [INTERVAL_S] * stops
    (text,) = warned
    assert text.startswith("Some rows count as delivered, perhaps without these fields: ")
    assert "fields: candidate, first_name, plan_type, recent_page_view. The project may" in text


def test_after_a_stop_the_project_is_not_asked(path, warned):
    rows = make_prepared(), make_prepared(2)
    with night(path, {"candidate"}) as fields:
        fields.fetch = lambda: pytest.fail("asked")
        # Nor is it before there is a profile to look for.
        assert add(fields, settled(rows[0], REFUSED, NOT_SENT))
        fields._look_s = math.inf
        assert not add(fields, settled(rows[1], OK, OK))
        fields.finish(patient=False)
    assert (missing(fields.run), known(path, rows[1]), warned) == (set(), HELD, [])


@pytest.mark.parametrize(("there", "sure"), [(ALL - {"plan_type"}, False), (ALL, True)])
def test_an_event_is_sure_when_the_fields_of_the_runs_profiles_are_all_there(path, there, sure):
    rows = make_prepared(1), make_prepared(2)
    with night(path, there) as fields:
        fields.know(there)
        add(fields, settled(rows[0], OK, NOT_SENT))
        add(fields, settled(rows[1], UNCHANGED, OK))
        fields.finish(patient=True)
        ((_, event),) = fields.ledger.held(rows[1:])
    assert (event.same, event.sure) == (True, sure)
    with night(path, there) as fields:
        fields.know(there)
        # So does a later event wait for fields that its own row need not have.
        assert fields.may_be_sent_again(make_prepared(plan_type=None)) is sure


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        # These make a field in no project.
        *((f'"tags": {value}', set()) for value in ("null", "[]", "[null]")),
        ('"tags": ["a"]', {"tags"}),
        # What is in an object is a field of its own.
        ('"address": {"city": "Bern", "zip": null}', {"address", "address.city"}),
    ],
)
def test_what_makes_a_field_is_looked_for(path, member, expected):
    row = make_prepared()
    row = with_bodies(row, row.profile.body[:-2] + f", {member}}}}}".encode())
    with night(path, ALL) as fields:
        fields.know(ALL)
        assert add(fields, settled(row, OK, OK)) is not bool(expected)
        fields.finish(patient=True)
    assert missing(fields.run) == expected


# --- Several runs


@pytest.mark.parametrize("first", [None, ALL - {"first_name"}])
@pytest.mark.parametrize("failure", [None, REFUSED, CallOutcome(CallStatus.UNKNOWN, attempts=5)])
def test_when_all_fields_are_there_it_is_sent_once_more_and_then_no_longer(
    path, deliver, warned, first, failure
):
    def sends_nothing(*fields):
        return all(deliver(each, ALL).outcomes == {RowStatus.UNCHANGED: 1} for each in fields)

    deliver(first)
    assert sends_nothing(None, ALL - {"first_name"}, set())
    if failure:
        assert RowStatus.UNCHANGED not in deliver(ALL, calls=(failure, NOT_SENT)).outcomes
    # Whatever the project tells then.
    assert deliver(ALL, None).outcomes == {RowStatus.SUCCESSFUL: 1}
    assert known(path) == SURE
    warned.clear()
    assert sends_nothing(ALL, None, set())
    assert warned == []


# --- While the run goes on


def test_a_look_now_and_then_holds_up_nothing_and_leaves_a_killed_run_what_is_sure_by_then(
    path, monkeypatch
):
    monkeypatch.delattr(AtOnce, "start")
    now_s, looks = 1000.0, 0
    monkeypatch.setattr("delivery.project_fields.time.monotonic", lambda: now_s)
    answers: queue.SimpleQueue[set[str]] = queue.SimpleQueue()

    def look():
        nonlocal looks
        looks += 1
        return answers.get(timeout=30)

    def answer(fields):
        answers.put(fields)
        for thread in threading.enumerate():
            if "_look" in thread.name:
                thread.join(30)

    rows = [settled(make_prepared(number), OK, OK) for number in range(5)]
    with night(path, None) as fields:
        fields.fetch = look
        assert not add(fields, rows[0])
        now_s += PATIENCE_S + 0.1
        assert not add(fields, rows[1])
        answer(set())
        assert not add(fields, rows[2])
        now_s += PATIENCE_S + 0.1
        # The look is begun here, and what it finds is known with the next row.
        assert not add(fields, rows[3])
        answer(ALL)
        assert add(fields, rows[4])
    assert looks == 2
    assert [known(path, row) for row in rows] == [SURE] * 5


# --- News


def test_what_the_project_now_leaves_out_or_takes_is_told_once(path, deliver):
    news = [
        (deliver(ALL - {"first_name"}), "first_name"),
        (deliver(ALL - {"first_name"}, first_name="Anna"), ""),
        # A run that cannot look tells nothing and forgets nothing.
        (deliver(None, first_name="Ida"), ""),
        # What a run has not sent stays left out.
        (deliver(ALL - {"first_name", "plan_type"}, number=2, first_name=None), "both"),
        (deliver(ALL - {"plan_type"}, first_name="Zoë"), "plan_type"),
        (deliver(ALL, first_name="Eva"), "no fields"),
        (deliver(ALL), ""),
    ]
    for run, fields in news:
        told = fields.replace("both", "first_name, plan_type")
        assert run.news == (f"Iterable now ignores {told}" if told else "")
    with open_ledger(path) as ledger:
        assert ledger.notes.get(LEFT_OUT, "") == "[]"
