"""What is to be sent of some rows; planning changes nothing."""

import pytest

from delivery.planner import Plan, length_to_send
from records.outcomes import NO_EVENT, SUPERSEDED, UNCHANGED, CallStatus, RowStatus
from tests.results import OK
from tests.rows import (
    CHUNK_ROWS,
    PROFILE_FIELDS,
    chunks_of,
    make_planner,
    make_prepared,
    open_ledger,
    project_fields,
    raw_row,
    repeats_in,
    settled,
)

ALL = {*PROFILE_FIELDS}


@pytest.fixture
def ledger(tmp_path):
    """Yield a ledger that knows what was delivered of row 1."""
    with open_ledger(tmp_path / "state.sqlite3") as ledger:
        deliver(ledger, make_prepared(1))
        yield ledger


def deliver(ledger, *rows, sure=True):
    ledger.record([settled(row, OK, OK) for row in rows], sure=sure)


def planner_of(ledger, fields, **options):
    """Return a planner that knows of the project that it has *fields*; None if it does not tell."""
    return make_planner(ledger, fields=project_fields(ledger, known=fields), **options)


def test_a_row_that_cannot_be_sent_is_refused_and_what_is_held_of_it_stays(ledger):
    no_address, no_body = raw_row(3, email=" "), raw_row(1, first_name=b"\xff")
    plan = make_planner(ledger).plan([raw_row(2), no_address, no_body])
    # The other one has its bodies.
    assert plan == Plan(plan.done, [make_prepared(2)])
    assert [(row.customer_id, row.profile.outcome.message) for row in plan.done] == [
        (3, "email is empty"),
        (1, "first_name is not valid UTF-8 text"),
    ]
    assert {(row.status, row.next_call) for row in plan.done} == {(RowStatus.TOTAL_FAILURE, None)}


def test_a_plan_leaves_out_what_is_unchanged_unless_all_is_asked_for(ledger):
    rows = [make_prepared(1), make_prepared(2)]
    assert make_planner(ledger, send_all=True).plan(rows) == Plan(to_send=rows)
    plan = make_planner(ledger).plan(rows)
    assert [row.customer_id for row in plan.to_send] == [2]
    assert [(row.customer_id, row.status) for row in plan.done] == [(1, RowStatus.UNCHANGED)]
    # Another content of which the same body is made replaces nothing.
    same = make_prepared(1, email=" user1@example.com")
    assert make_planner(ledger, send_all=True).plan([same]) == Plan(to_send=[same])


@pytest.mark.parametrize("send_all", [False, True])
def test_of_a_row_without_an_event_only_the_profile_counts(ledger, send_all):
    planner = make_planner(ledger, send_all=send_all)
    plan = planner.plan([raw_row(n, page_view_id=None) for n in (1, 2)])
    assert [row.customer_id for row in plan.to_send] == ([1, 2] if send_all else [2])
    assert {row.event.outcome for row in plan.to_send} == {NO_EVENT}
    expected = [] if send_all else [(RowStatus.UNCHANGED, NO_EVENT, None)]
    assert [(o.status, o.event.outcome, o.event_id) for o in plan.done] == expected


def test_a_plan_tells_what_sending_makes_untrue(ledger):
    row = make_prepared(1)
    for changed, stale in (("first_name", row.profile), ("browser", row.event)):
        plan = make_planner(ledger).plan([make_prepared(1, **{changed: "Anna"}), make_prepared(2)])
        assert [call.name for call in plan.forget] == [stale.name]
        assert plan.renew == []


def test_a_dry_run_plans_everything_and_replaces_nothing(ledger):
    plan = make_planner(ledger, dry_run=True).plan([raw_row(1, first_name="Anna"), raw_row(2)])
    assert plan == Plan(plan.done)
    assert [(out.profile.outcome.status, out.event.outcome.status) for out in plan.done] == [
        (CallStatus.PLANNED, CallStatus.UNCHANGED),
        (CallStatus.PLANNED, CallStatus.PLANNED),
    ]
    assert plan.done[1].event.body == make_prepared(2).event.body


def test_a_row_that_is_superseded_renews_nothing_of_the_first_ones(ledger, monkeypatch):
    """Or the ledger took its profile for the one that Iterable has."""
    row = settled(make_prepared(1, first_name="Anna"), SUPERSEDED)
    monkeypatch.setattr(ledger, "_stale_day", ledger._today + 1)
    plan = make_planner(ledger).plan([row])
    assert (plan.done, plan.renew) == ([row], [row.event])
    assert (row.profile.outcome, row.event.outcome) == (SUPERSEDED, UNCHANGED)


# --- What is held and not sure


@pytest.fixture
def unsure(ledger):
    """Yield the ledger, of which row 2 is not sure to be there as a whole."""
    deliver(ledger, make_prepared(2), sure=False)
    return ledger


def test_what_is_not_sure_is_sent_once_more_when_all_its_fields_are_there(unsure):
    for fields in (None, ALL - {"first_name"}):
        plan = planner_of(unsure, fields).plan([make_prepared(1), make_prepared(2)])
        assert plan == Plan(plan.done)
        # What changed is sent.
        (row,) = planner_of(unsure, fields).plan([make_prepared(2, first_name="Anna")]).to_send
        assert (row.profile.send, row.event.send) == (True, False)
    rows = [make_prepared(1), make_prepared(2)]
    assert planner_of(unsure, ALL).plan(rows) == Plan([rows[0]], [rows[1]])
    row = make_prepared(3, first_name=None)
    deliver(unsure, row, sure=False)
    assert planner_of(unsure, ALL - {"first_name"}).plan([row]).to_send == [row]


def test_a_call_whose_outcome_is_known_is_not_made_once_more(unsure):
    row = settled(make_prepared(2), SUPERSEDED)
    assert planner_of(unsure, ALL).plan([row]).to_send == [row]
    row = settled(row, track=SUPERSEDED)
    assert planner_of(unsure, ALL).plan([row]) == Plan([settled(row)])


# --- The rows that --limit asks for


def length(ledger, limit, rows, fields=ALL):
    planner = planner_of(ledger, fields, repeats=repeats_in(rows), dry_run=True)
    return length_to_send(limit, chunks_of(rows), planner)


SIX_ROWS = [raw_row(number) for number in range(1, 7)]
ONE_EVENT = {"customer_id": 1, "page_view_id": 17}


@pytest.mark.parametrize(
    ("limit", "rows", "expected"),
    [
        (5, [], 0),
        # The first one was delivered.
        *((limit, SIX_ROWS, expected) for limit, expected in [(1, 2), (4, 5), (5, 6), (99, 6)]),
        # One with one call to make, and one that can never be sent.
        (1, [raw_row(1), raw_row(1, browser="Lynx", page_view_id=7), raw_row(3)], 2),
        (1, [raw_row(5, email=None), raw_row(6, email="a b"), raw_row(3), raw_row(4)], 3),
        # The second of an address, whose profile is never sent, and one that comes twice.
        (2, [raw_row(1), raw_row(2, email="user1@example.com"), raw_row(3)], 3),
        (2, [raw_row(2), raw_row(2), raw_row(3), raw_row(4)], 3),
        # An event that would overwrite another is refused on this machine.
        (2, [raw_row(5, **ONE_EVENT), raw_row(5, **ONE_EVENT, browser="Lynx"), raw_row(3)], 3),
    ],
)
def test_a_row_counts_if_it_needs_a_request(ledger, limit, rows, expected):
    assert length(ledger, limit, rows) == expected


@pytest.mark.parametrize("first", [CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS])
def test_it_looks_as_far_as_need_be(ledger, first):
    deliver(ledger, *(make_prepared(number) for number in range(1, first)))
    assert length(ledger, 1, [raw_row(n) for n in range(1, 2 * CHUNK_ROWS + 1)]) == first


@pytest.mark.parametrize(("fields", "expected"), [(ALL, 2), (None, 3)])
def test_what_is_sent_once_more_is_counted_and_what_is_only_not_sure_is_not(
    unsure, fields, expected
):
    assert length(unsure, 1, [raw_row(1), raw_row(2), raw_row(3)], fields) == expected
