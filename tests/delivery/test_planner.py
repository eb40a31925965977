"""What is to be sent of some rows; planning changes nothing."""

import pytest

from records.delivery_ledger import Change, Held
from records.outcomes import (
    SUPERSEDED,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    RowStatus,
    outcome_of,
)
from tests.rows import make_planner, make_prepared, make_row, open_ledger

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)


@pytest.fixture
def ledger(tmp_path):
    """Yield a ledger that knows what was delivered of row 1."""
    with open_ledger(tmp_path / "state.sqlite3") as ledger:
        ledger.record([outcome_of(make_prepared(1), OK, OK)])
        yield ledger


def test_a_row_that_cannot_be_sent_has_its_outcome_at_once(ledger):
    outcomes, prepared = make_planner(ledger).prepare([make_row(2), make_row(3, email=" ")])
    assert [row.customer_id for row in prepared] == [2]
    assert [(out.customer_id, out.status) for out in outcomes] == [(3, RowStatus.TOTAL_FAILURE)]


def test_a_plan_leaves_out_what_is_unchanged_unless_all_is_asked_for(ledger):
    rows = [make_prepared(1), make_prepared(2)]
    assert make_planner(ledger, send_all=True).plan(rows).to_send == rows
    changed = make_planner(ledger).plan(rows)
    assert [row.customer_id for row in changed.to_send] == [2]
    assert [(out.customer_id, out.status) for out in changed.outcomes] == [(1, RowStatus.UNCHANGED)]


def test_a_call_whose_outcome_is_known_stays_as_it_is(ledger):
    row = make_prepared(1, first_name="Anna")._replace(users_update=SUPERSEDED)
    plan = make_planner(ledger).plan([row])
    (outcome,) = plan.outcomes
    assert (outcome.users_update, outcome.events_track) == (SUPERSEDED, UNCHANGED)
    assert plan.change == Change()


def test_a_plan_tells_what_sending_makes_untrue(ledger):
    rows = [make_prepared(1, first_name="Anna"), make_prepared(2)]
    change = make_planner(ledger).plan(rows).change
    assert change == Change(profiles_to_forget=rows[:1])
    assert make_planner(ledger).plan([make_prepared(1)]).change == Change()


def test_a_dry_run_plans_everything_and_replaces_nothing(ledger):
    rows = [make_prepared(1, first_name="Anna"), make_prepared(2)]
    plan = make_planner(ledger, dry_run=True).plan(rows)
    assert plan.to_send == []
    assert plan.change == Change()
    assert [(out.users_update.status, out.events_track.status) for out in plan.outcomes] == [
        (CallStatus.PLANNED, CallStatus.UNCHANGED),
        (CallStatus.PLANNED, CallStatus.PLANNED),
    ]
    assert list(ledger.held([make_prepared(1)])) == [(Held.SAME, Held.SAME)]
