"""A project that creates no new fields drops them and says nothing."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery.project_fields import INTERVAL_S, LEFT_OUT, PATIENCE_S, ProjectFields
from records.outcomes import (
    NOT_SENT,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    RowStatus,
    outcome_of,
)
from records.run import RunOptions, RunRecord
from tests.rows import PROFILE_FIELDS, make_planner, make_prepared, open_ledger

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
REFUSED = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
ALL = set(PROFILE_FIELDS)
SURE, HELD = [(True, True)] * 2, [(True, False)] * 2
REAL_THREAD = threading.Thread


def without(call, *names):
    """Return the outcome of a call of which an answer says that these fields were left out."""
    return CallOutcome(call.status, 200, fields=tuple((name, "filtered out") for name in names))


def no_wait(seconds):
    return False


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite3"


@pytest.fixture(autouse=True)
def own_thread(monkeypatch):
    """Have a look in another thread done when it is begun; return how many there were."""
    looks = []

    class AtOnce(threading.Thread):
        def start(self):
            looks.append(self)
            self.run()

    monkeypatch.setattr("delivery.project_fields.threading.Thread", AtOnce)
    return looks


@pytest.fixture
def clock(monkeypatch):
    """Return what lets so many seconds go by."""
    now_s = 1000.0

    def advance(seconds):
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr("delivery.project_fields.time.monotonic", lambda: now_s)
    return advance


@pytest.fixture
def deliver(path):
    """Return what does a run: looks, plans, delivers one row, looks again. It returns the run."""

    def deliver(
        before, after=None, *, wait=no_wait, calls=(OK, OK), patient=True, bulk=False, **changes
    ):
        run = RunRecord(RunOptions(bulk=bulk), "1.0.0")
        answers = [before]
        with open_ledger(path) as ledger:
            fields = ProjectFields(run, ledger, lambda: answers[0], wait)
            ledger.begin_run({})
            fields.know(fields._fetch())
            answers[0] = before if after is None else after
            plan = make_planner(ledger, fields=fields).plan([make_prepared(**changes)])
            ledger.forget(plan.forget)
            outcomes = [
                outcome_of(row, row.users_update or calls[0], row.events_track or calls[1])
                for row in plan.to_send
            ]
            run.count([*plan.outcomes, *outcomes])
            ledger.record(outcomes, sure=fields.add(outcomes))
            fields.finish(patient=patient)
        return run

    return deliver


def known(path, row=None):
    with open_ledger(path) as ledger:
        (held,) = ledger.held([row or make_prepared()])
        return [(each.same, each.sure) for each in held]


def missing(run):
    return run.filtered_fields.get("users_update", set())


# --- One run


def test_when_the_project_has_all_fields_the_delivery_is_sure(path, deliver, warned, own_thread):
    run = deliver(ALL | {"more"})
    assert (missing(run), run.news, known(path)) == (set(), "", SURE)
    assert warned == own_thread == []


def test_fields_that_it_does_not_have_are_missing_after_some_patience(path, deliver):
    waits: list[float] = []

    def wait(seconds):
        waits.append(seconds)
        return False

    run = deliver(ALL - {"first_name"}, wait=wait)
    assert (missing(run), known(path)) == ({"first_name"}, HELD)
    assert sum(waits) == PATIENCE_S


def test_a_field_that_shows_after_a_while_is_not_missing(path):
    answers: list[set[str]] = [set(), set(), set(), ALL]
    run, row = RunRecord(RunOptions(), "1.0.0"), make_prepared()
    with open_ledger(path) as ledger:
        fields = ProjectFields(run, ledger, lambda: answers.pop(0), no_wait)
        fields.know(fields._fetch())
        outcomes = [outcome_of(row, OK, OK)]
        ledger.record(outcomes, sure=fields.add(outcomes))
        fields.finish(patient=True)
    assert (missing(run), known(path), answers) == (set(), SURE, [])


def test_when_the_project_does_not_tell_nothing_is_missing_and_nothing_is_sure(
    path, deliver, warned
):
    run = deliver(None)
    assert (missing(run), run.news, known(path)) == (set(), "", HELD)
    (text,) = warned
    assert text.startswith("Iterable does not tell the project's fields, see --check")


def test_a_stop_ends_the_patience_and_nothing_is_sure(path, deliver):
    waits = []

    def wait(seconds):
        waits.append(seconds)
        return True

    run = deliver(set(), wait=wait)
    assert (missing(run), known(path)) == (set(), HELD)
    assert waits == [INTERVAL_S]


def test_after_a_stop_the_project_is_not_asked(path, warned):
    run, asked = RunRecord(RunOptions(), "1.0.0"), 0

    def fetch():
        nonlocal asked
        asked += 1
        return {"candidate"}

    with open_ledger(path) as ledger:
        fields = ProjectFields(run, ledger, fetch, no_wait)
        outcomes = [outcome_of(make_prepared(), OK, OK)]
        ledger.record(outcomes, sure=fields.add(outcomes))
        fields.finish(patient=False)
        # While the run went on.
        assert asked == 1
    assert (missing(run), known(path), warned) == (set(), HELD, [])


def test_what_is_known_at_a_stop_makes_sure(path, deliver):
    deliver(ALL, patient=False)
    assert known(path) == SURE


def test_only_what_was_delivered_is_looked_for(path, deliver):
    run = deliver(ALL - {"first_name"}, first_name=None)
    assert missing(run) == set()
    assert known(path, make_prepared(first_name=None)) == SURE


def test_without_a_delivered_profile_the_project_is_not_asked(path):
    run, row = RunRecord(RunOptions(), "1.0.0"), make_prepared()
    with open_ledger(path) as ledger:
        fields = ProjectFields(run, ledger, lambda: pytest.fail("asked"), no_wait)
        outcomes = [outcome_of(row, REFUSED, NOT_SENT), outcome_of(row, UNCHANGED, REFUSED)]
        assert fields.add(outcomes)
        fields.finish(patient=True)
    assert missing(run) == set()


def test_an_event_is_sure_when_the_fields_of_the_runs_profiles_are_all_there(path):
    first, second = make_prepared(1), make_prepared(2)
    for fields_there, expected in ((ALL - {"plan_type"}, (True, False)), (ALL, (True, True))):
        with open_ledger(path) as ledger:
            ledger.begin_run({})
            there = fields_there
            run = RunRecord(RunOptions(), "1.0.0")
            fields = ProjectFields(run, ledger, lambda there=there: there, no_wait)  # type: ignore[misc]
            fields.know(fields._fetch())
            for outcome in (outcome_of(first, OK, NOT_SENT), outcome_of(second, UNCHANGED, OK)):
                ledger.record([outcome], sure=fields.add([outcome]))
            fields.finish(patient=True)
            ((_, event),) = ledger.held([second])
            assert (event.same, event.sure) == expected


@pytest.mark.parametrize("value", ["null", "[]", "[null]", "[[]]", "[[], [null]]"])
def test_what_makes_a_field_in_no_project_is_not_missing(path, value):
    row = make_prepared()
    row = row._replace(user=row.user[:-2] + f', "tags": {value}}}}}'.encode())
    run = RunRecord(RunOptions(), "1.0.0")
    with open_ledger(path) as ledger:
        fields = ProjectFields(run, ledger, lambda: ALL, no_wait)
        fields.know(fields._fetch())
        assert fields.add([outcome_of(row, OK, OK)])
        fields.finish(patient=True)
    assert missing(run) == set()


def test_what_is_in_an_object_is_a_field_of_its_own(path):
    row = make_prepared()
    row = row._replace(user=row.user[:-2] + b', "address": {"city": "Bern", "zip": null}}}')
    run = RunRecord(RunOptions(), "1.0.0")
    with open_ledger(path) as ledger:
        fields = ProjectFields(run, ledger, lambda: ALL | {"address"}, no_wait)
        fields.know(fields._fetch())
        assert not fields.add([outcome_of(row, OK, OK)])
        fields.finish(patient=True)
    assert missing(run) == {"address.city"}


# --- Several runs


@pytest.mark.parametrize("fields", [None, ALL - {"first_name"}, set()])
def test_what_is_not_sure_counts_as_held_each_night_with_one_warning(path, deliver, warned, fields):
    deliver(fields)
    for _ in range(3):
        warned.clear()
        run = deliver(fields)
        assert run.outcomes == {RowStatus.UNCHANGED: 1}
        (text,) = warned
        assert text.startswith("1 row counts as held, perhaps without all fields: ")
        assert text.endswith("Once all fields are there, this is sent once more")
    assert known(path) == HELD


def test_a_run_that_tells_which_fields_are_left_out_has_no_other_warning(deliver, warned):
    deliver(ALL - {"first_name"})
    warned.clear()
    run = deliver(ALL - {"first_name"}, browser="Lynx", page_view_id=101)
    assert run.outcomes == {RowStatus.SUCCESSFUL: 1}
    assert missing(run) == set()
    (text,) = warned
    assert text.startswith("1 row counts as held")
    warned.clear()
    # The console tells it of the run, whose profile is another one.
    run = deliver(ALL - {"first_name"}, first_name="Anna")
    assert (missing(run), warned) == ({"first_name"}, [])


def test_the_warning_names_the_missing_fields(deliver, warned):
    deliver(ALL - {"first_name", "plan_type"})
    warned.clear()
    deliver(ALL - {"first_name"})
    assert "without all fields: the project lacks fields first_name. Once" in warned[0]
    warned.clear()
    deliver(None)
    assert "Iterable does not tell the project's fields, see --check. Once" in warned[0]


@pytest.mark.parametrize("first", [None, ALL - {"first_name"}])
def test_when_all_fields_are_there_it_is_sent_once_more_and_then_no_longer(
    path, deliver, warned, first
):
    deliver(first)
    assert deliver(ALL).outcomes == {RowStatus.SUCCESSFUL: 1}
    assert known(path) == SURE
    warned.clear()
    assert deliver(ALL).outcomes == {RowStatus.UNCHANGED: 1}
    assert warned == []


def test_what_is_sent_once_more_is_sent_only_once_whatever_the_project_tells_then(path, deliver):
    deliver(None)
    assert deliver(ALL, None).outcomes == {RowStatus.SUCCESSFUL: 1}
    assert known(path) == SURE


@pytest.mark.parametrize("refusal", [REFUSED, CallOutcome(CallStatus.UNKNOWN, attempts=5)])
def test_what_does_not_arrive_once_more_is_sent_again(path, deliver, refusal):
    deliver(None)
    deliver(ALL, calls=(refusal, NOT_SENT))
    assert deliver(ALL).outcomes == {RowStatus.SUCCESSFUL: 1}


def test_a_run_that_has_looked_says_nothing_of_one_that_could_not(path, deliver):
    """It may have delivered fewer fields, or none."""
    deliver(None)
    deliver(ALL - {"first_name"}, number=2, first_name=None)
    assert known(path) == HELD
    assert known(path, make_prepared(2, first_name=None)) == SURE


def test_while_one_field_is_left_out_nothing_is_sent_once_more(path, deliver):
    """What a row without it has in its event nobody tells."""
    deliver(ALL - {"first_name"})
    deliver(None, number=2, first_name=None)
    run = deliver(ALL - {"first_name"}, number=2, first_name=None)
    assert run.outcomes == {RowStatus.UNCHANGED: 1}
    assert deliver(ALL, number=2, first_name=None).outcomes == {RowStatus.SUCCESSFUL: 1}


# --- While the run goes on


def looking(path, answers):
    ledger = open_ledger(path)
    ledger.begin_run({})
    run = RunRecord(RunOptions(), "1.0.0")
    return ledger, ProjectFields(run, ledger, lambda: answers[0], no_wait)


def add(ledger, fields, number):
    outcomes = [outcome_of(make_prepared(number), OK, OK)]
    sure = fields.add(outcomes)
    ledger.record(outcomes, sure=sure)
    return sure


def test_a_run_that_is_killed_later_leaves_what_is_sure_by_then(path, clock, own_thread):
    answers: list[set[str]] = [set()]
    ledger, fields = looking(path, answers)
    with ledger:
        fields.know(fields._fetch())
        assert not add(ledger, fields, 1)
        answers[0] = ALL
        clock(INTERVAL_S + 0.1)
        # The look is begun here, and what it finds is known with the next row.
        assert not add(ledger, fields, 2)
        assert add(ledger, fields, 3)
        assert len(own_thread) == 2
    assert known(path, make_prepared(1)) == known(path, make_prepared(2)) == SURE


def test_it_looks_now_and_then_until_all_fields_are_there(path, clock, own_thread):
    answers: list[set[str]] = [set()]
    ledger, fields = looking(path, answers)
    with ledger:
        for number in range(8):
            assert not add(ledger, fields, number)
            clock(INTERVAL_S / 4)
        assert len(own_thread) == 2
        answers[0] = ALL
        for number in range(8):
            add(ledger, fields, number)
            clock(INTERVAL_S)
        assert add(ledger, fields, 9)
        assert len(own_thread) == 3


def test_an_answer_that_is_slow_holds_up_nothing(path, monkeypatch, clock):
    monkeypatch.setattr("delivery.project_fields.threading.Thread", REAL_THREAD)
    release, answered = threading.Event(), threading.Event()

    def fetch():
        release.wait(30)
        answered.set()
        return ALL

    with open_ledger(path) as ledger:
        fields = ProjectFields(RunRecord(RunOptions(), "1.0.0"), ledger, fetch, no_wait)
        for number in range(3):
            assert not add(ledger, fields, number)
            clock(INTERVAL_S)
        release.set()
        assert answered.wait(30)
        # The answer is put away a moment after it is there.
        for thread in threading.enumerate():
            if "_look" in thread.name:
                thread.join(30)
        assert add(ledger, fields, 3)


# --- News


def test_what_the_project_now_leaves_out_or_takes_is_told_once(deliver):
    run = deliver(ALL - {"first_name"})
    assert run.news == "Iterable now leaves out first_name (profile)"
    assert deliver(ALL - {"first_name"}, first_name="Anna").news == ""
    run = deliver(ALL - {"plan_type"}, first_name="Zoë")
    assert run.news == "Iterable now leaves out plan_type (profile)"
    assert deliver(ALL, first_name="Eva").news == "Iterable now leaves out no fields"
    assert deliver(ALL).news == ""


def test_what_a_run_has_not_sent_stays_left_out(deliver):
    deliver(ALL - {"first_name"})
    run = deliver(ALL - {"first_name", "plan_type"}, number=2, first_name=None)
    assert run.news == "Iterable now leaves out first_name (profile), plan_type (profile)"
    assert deliver(ALL, number=3).news == "Iterable now leaves out no fields"


def test_a_run_that_cannot_look_tells_nothing_and_forgets_nothing(path, deliver):
    deliver(ALL - {"first_name"})
    assert deliver(None, first_name="Anna").news == ""
    with open_ledger(path) as ledger:
        assert "first_name" in ledger.noted(LEFT_OUT)
    assert deliver(ALL, first_name="Zoë").news == "Iterable now leaves out no fields"


# --- In bulk, where the answers tell


def test_what_an_answer_names_is_not_sure_and_is_told(path, deliver):
    calls = (without(OK, "first_name"), without(OK, "page", "browser"))
    run = deliver(ALL - {"first_name"}, calls=calls, bulk=True)
    listed = "first_name (profile), browser (event), page (event)"
    assert run.news == f"Iterable now leaves out {listed}"
    assert known(path) == HELD
    run = deliver(ALL, bulk=True, page_view_id=5, first_name="Anna")
    assert run.news == "Iterable now leaves out no fields"


def test_of_event_fields_a_run_tells_only_what_its_answers_tell(deliver):
    deliver(ALL, calls=(OK, without(OK, "page")), bulk=True)
    # No event was delivered, or its answer does not tell.
    assert deliver(ALL, calls=(OK, REFUSED), bulk=True, page_view_id=5).news == ""
    assert deliver(ALL, page_view_id=6).news == ""
    assert deliver(ALL, bulk=True, page_view_id=7).news == "Iterable now leaves out no fields"


def test_in_bulk_an_event_counts_as_held_until_the_project_takes_its_fields(deliver, warned):
    """Or each event would be sent twice, the second time in the next night."""
    calls = (OK, without(OK, "page"))
    deliver(ALL, calls=calls, bulk=True)
    for _ in range(2):
        warned.clear()
        assert deliver(ALL, calls=calls, bulk=True).outcomes == {RowStatus.UNCHANGED: 1}
        (text,) = warned
        assert "without all fields: the project lacks fields page. Once" in text
    # An answer that leaves nothing out tells that the field is there.
    deliver(ALL, bulk=True, page_view_id=5)
    assert deliver(ALL, bulk=True).outcomes == {RowStatus.SUCCESSFUL: 1}
    assert deliver(ALL, bulk=True).outcomes == {RowStatus.UNCHANGED: 1}


# --- Whatever the project does

NIGHTS = st.lists(
    st.tuples(
        # What the project has at the start and at the end of a night.
        st.sampled_from([None, frozenset(ALL), frozenset(ALL - {"first_name"}), frozenset()]),
        st.sampled_from([None, frozenset(ALL), frozenset(ALL - {"first_name"})]),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=100)
@given(NIGHTS)
def test_a_row_that_stays_the_same_is_sent_at_most_twice(tmp_path_factory, nights):
    """The second time only when all fields are known to be there, and then it is sure."""
    path = tmp_path_factory.mktemp("nights") / "state.sqlite3"
    sent = []
    for start, end in nights:
        run, answers = RunRecord(RunOptions(), "1.0.0"), [start]
        with open_ledger(path) as ledger:
            ledger.begin_run({})
            fields = ProjectFields(run, ledger, lambda answers=answers: answers[0], no_wait)  # type: ignore[misc]
            fields.know(fields._fetch())
            answers[0] = end
            plan = make_planner(ledger, fields=fields).plan([make_prepared()])
            assert plan.forget == []
            outcomes = [outcome_of(row, OK, OK) for row in plan.to_send]
            run.count([*plan.outcomes, *outcomes])
            ledger.record(outcomes, sure=fields.add(outcomes))
            fields.finish(patient=True)
        sent += [start] * len(outcomes)
        if len(sent) == 2:
            assert known(path) == SURE
    assert sent[:1] == [nights[0][0]]
    assert sent[1:] in ([], [ALL])
    whole = ALL in (nights[0][0], nights[0][1])
    if whole:
        assert len(sent) == 1
