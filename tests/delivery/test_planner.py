"""What is to be sent of some rows; planning changes nothing."""

import pytest

from records.outcomes import CallOutcome, CallStatus, RowStatus, outcome_of
from tests.rows import make_planner, make_prepared, make_row, open_ledger

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)


@pytest.fixture
def ledger(tmp_path):
    """Yield a ledger that knows what was delivered of customer 1."""
    with open_ledger(tmp_path / "state.sqlite3") as ledger:
        ledger.record([outcome_of(make_prepared(1), OK, OK)])
        yield ledger


def test_a_plan_leaves_out_what_is_unchanged_only_when_asked(ledger):
    rows = [make_row(1), make_row(2), make_row(3, email=" ")]
    everything = make_planner(ledger).plan(rows)
    assert [row.customer_id for row in everything.to_send] == [1, 2]
    assert [out.status for out in everything.outcomes] == [RowStatus.TOTAL_FAILURE]
    changed = make_planner(ledger, changed_only=True).plan(rows)
    assert [row.customer_id for row in changed.to_send] == [2]
    assert {out.customer_id: out.status for out in changed.outcomes} == {
        1: RowStatus.UNCHANGED,
        3: RowStatus.TOTAL_FAILURE,
    }


def test_a_plan_tells_what_of_the_ledger_it_replaces(ledger):
    rows = [make_row(1, first_name="Anna"), make_row(2)]
    assert make_planner(ledger).plan(rows).replaced == [("1", True, False)]
    assert make_planner(ledger).plan([make_row(1)]).replaced == []


def test_a_dry_run_plans_everything_and_replaces_nothing(ledger):
    rows = [make_row(1, first_name="Anna"), make_row(2)]
    plan = make_planner(ledger, changed_only=True, dry_run=True).plan(rows)
    assert (plan.to_send, plan.replaced) == ([], [])
    assert [(out.users_update.status, out.events_track.status) for out in plan.outcomes] == [
        (CallStatus.PLANNED, CallStatus.UNCHANGED),
        (CallStatus.PLANNED, CallStatus.PLANNED),
    ]
    assert ledger.delivered(["1"])["1"].profile == make_prepared(1).user_hash
