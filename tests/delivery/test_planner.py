"""What is to be sent of some rows; planning changes nothing."""

import json

import pytest

from delivery.planner import Plan
from delivery.project_fields import ProjectFields
from iterable_api.mapping import RowMapping
from iterable_api.payloads import JOB_MAPPING, Payloads
from records.columns import Column, Kind
from records.delivery_ledger import MARK_DAYS
from records.outcomes import (
    NO_EVENT,
    SUPERSEDED,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    RowStatus,
    outcome_of,
)
from records.run import RunOptions, RunRecord
from tests.rows import PROFILE_FIELDS, make_planner, make_prepared, open_ledger, raw_row

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)


@pytest.fixture
def ledger(tmp_path):
    """Yield a ledger that knows what was delivered of row 1."""
    with open_ledger(tmp_path / "state.sqlite3") as ledger:
        ledger.record([outcome_of(make_prepared(1), OK, OK)], sure=True)
        yield ledger


def planner_of(ledger, fields, **options):
    """Return a planner that knows of the project that it has *fields*; None if it does not tell."""
    known = ProjectFields(RunRecord(RunOptions(), "1.0.0"), ledger, lambda: fields, lambda _: False)
    known.know(fields)
    return make_planner(ledger, fields=known, **options)


def test_a_row_that_cannot_be_sent_has_its_outcome_at_once(ledger):
    outcomes, prepared = make_planner(ledger).prepare([raw_row(2), raw_row(3, email=" ")])
    assert [row.customer_id for row in prepared] == [2]
    assert [(out.customer_id, out.status) for out in outcomes] == [(3, RowStatus.TOTAL_FAILURE)]


def test_a_plan_leaves_out_what_is_unchanged_unless_all_is_asked_for(ledger):
    rows = [make_prepared(1), make_prepared(2)]
    assert make_planner(ledger, send_all=True).plan(rows).to_send == rows
    changed = make_planner(ledger).plan(rows)
    assert [row.customer_id for row in changed.to_send] == [2]
    assert [(out.customer_id, out.status) for out in changed.outcomes] == [(1, RowStatus.UNCHANGED)]


@pytest.mark.parametrize("send_all", [False, True])
def test_of_a_row_without_an_event_only_the_profile_counts(ledger, send_all):
    planner = make_planner(ledger, send_all=send_all)
    _, prepared = planner.prepare([raw_row(n, page_view_id=None) for n in (1, 2)])
    plan = planner.plan(prepared)
    assert [row.customer_id for row in plan.to_send] == ([1, 2] if send_all else [2])
    assert {row.events_track for row in plan.to_send} == {NO_EVENT}
    expected = [] if send_all else [(RowStatus.UNCHANGED, NO_EVENT, None)]
    assert [(o.status, o.events_track, o.event_id) for o in plan.outcomes] == expected


def test_rows_that_are_to_be_sent_have_their_bodies(ledger):
    _, prepared = make_planner(ledger).prepare([raw_row(2)])
    (row,) = make_planner(ledger).plan(prepared).to_send
    assert row == make_prepared(2)
    assert json.loads(row.user)["email"] == "user2@example.com"


def test_a_call_whose_outcome_is_known_stays_as_it_is(ledger):
    row = make_prepared(1, first_name="Anna")._replace(users_update=SUPERSEDED)
    plan = make_planner(ledger).plan([row])
    (outcome,) = plan.outcomes
    assert (outcome.users_update, outcome.events_track) == (SUPERSEDED, UNCHANGED)
    assert (plan.forget, plan.renew) == ([], [])


def test_a_plan_tells_what_sending_makes_untrue(ledger):
    rows = [make_prepared(1, first_name="Anna"), make_prepared(2)]
    plan = make_planner(ledger).plan(rows)
    assert (plan.forget, plan.renew) == ([rows[0].user_name], [])
    plan = make_planner(ledger).plan([make_prepared(1, browser="Lynx")])
    assert (plan.forget, plan.renew) == ([rows[0].event_name], [])
    plan = make_planner(ledger).plan([make_prepared(1)])
    assert (plan.forget, plan.renew) == ([], [])


def test_all_that_is_sent_again_as_it_is_makes_nothing_untrue(ledger):
    plan = make_planner(ledger, send_all=True).plan([make_prepared(1)])
    assert (len(plan.to_send), plan.forget, plan.renew) == (1, [], [])
    plan = make_planner(ledger, send_all=True).plan([make_prepared(1, email=" user1@example.com")])
    assert (len(plan.to_send), plan.forget) == (1, [])


def test_a_dry_run_plans_everything_and_replaces_nothing(ledger):
    rows = [make_prepared(1, first_name="Anna"), make_prepared(2)]
    plan = make_planner(ledger, dry_run=True).plan(rows)
    assert (plan.forget, plan.renew) == ([], [])
    assert plan.to_send == []
    assert [(out.users_update.status, out.events_track.status) for out in plan.outcomes] == [
        (CallStatus.PLANNED, CallStatus.UNCHANGED),
        (CallStatus.PLANNED, CallStatus.PLANNED),
    ]
    (held,) = ledger.held([make_prepared(1)])
    assert [(each.same, each.sure) for each in held] == [(True, True)] * 2


def test_a_dry_run_shows_the_bodies(ledger):
    _, prepared = make_planner(ledger).prepare([raw_row(2)])
    (outcome,) = make_planner(ledger, dry_run=True).plan(prepared).outcomes
    assert outcome.prepared
    assert outcome.prepared.user == make_prepared(2).user


def test_a_value_of_which_no_body_can_be_made_refuses_its_row_and_keeps_what_is_held(ledger):
    columns = (*JOB_MAPPING.columns, Column("user.visits:long", Kind.TEXT))
    payloads = Payloads("db", mapping=RowMapping(columns))
    planner = make_planner(ledger, payloads=payloads)
    outcomes, prepared = planner.prepare([(*raw_row(1), b"many"), (*raw_row(2), b"7")])
    assert outcomes == []
    plan = planner.plan(prepared)
    (refused,) = plan.outcomes
    assert (refused.status, refused.prepared) == (RowStatus.TOTAL_FAILURE, None)
    assert "user.visits" in refused.users_update.message
    assert [row.customer_id for row in plan.to_send] == [2]
    assert plan.forget == []


@pytest.mark.parametrize(
    ("numbers", "expected"), [([2], set()), ([2, 1], {"users", "events"}), ([], set())]
)
def test_it_tells_at_which_endpoints_iterable_holds_a_row(ledger, numbers, expected):
    assert make_planner(ledger).held_at([[raw_row(n)] for n in numbers]) == expected


def test_it_tells_the_endpoints_apart(ledger):
    assert make_planner(ledger).held_at([[raw_row(1, browser="Lynx")]]) == {"users"}
    assert make_planner(ledger).held_at([[raw_row(1, first_name="Anna")]]) == {"events"}


# --- What is held and not sure

ALL = {*PROFILE_FIELDS}


@pytest.fixture
def unsure(ledger):
    """Yield the ledger, of which row 2 is not sure to be there as a whole."""
    ledger.record([outcome_of(make_prepared(2), OK, OK)], sure=False)
    return ledger


@pytest.mark.parametrize("fields", [None, ALL - {"first_name"}, set()])
def test_what_is_not_sure_counts_as_held_while_fields_are_missing(unsure, fields):
    planner = planner_of(unsure, fields)
    plan = planner.plan([make_prepared(1), make_prepared(2)])
    assert [outcome.status for outcome in plan.outcomes] == [RowStatus.UNCHANGED] * 2
    assert plan == Plan(plan.outcomes)
    assert planner._fields.unsure_rows == 1


def test_what_is_not_sure_is_sent_once_more_when_all_fields_are_there(unsure):
    plan = planner_of(unsure, ALL).plan([make_prepared(1), make_prepared(2)])
    assert [(row.customer_id, row.once_more) for row in plan.to_send] == [(2, True)]
    assert (plan.forget, plan.renew) == ([], [])


def test_a_row_needs_only_the_fields_that_it_has(unsure):
    row = make_prepared(3, first_name=None)
    unsure.record([outcome_of(row, OK, OK)], sure=False)
    assert planner_of(unsure, ALL - {"first_name"}).plan([row]).to_send[0].once_more


def test_what_changed_is_sent_though_the_project_does_not_tell_its_fields(unsure):
    (row,) = planner_of(unsure, None).plan([make_prepared(2, first_name="Anna")]).to_send
    assert (row.send_user, row.send_event, row.once_more) == (True, False, False)


def test_a_call_whose_outcome_is_known_is_not_made_once_more(unsure):
    row = make_prepared(2)._replace(users_update=SUPERSEDED)
    (row,) = planner_of(unsure, ALL).plan([row]).to_send
    assert (row.users_update, row.send_event) == (SUPERSEDED, True)
    row = make_prepared(2)._replace(users_update=SUPERSEDED, events_track=SUPERSEDED)
    plan = planner_of(unsure, None).plan([row])
    assert plan == Plan([outcome_of(row, SUPERSEDED, SUPERSEDED)])


def test_what_is_told_of_unsure_rows_is_only_what_the_run_leaves_as_it_is(unsure):
    """Not of calls that are known, of rows that are all sent, or in a dry run."""
    known = make_prepared(2, browser="Lynx")._replace(users_update=SUPERSEDED)
    for row, options in (
        (known, {}),
        (make_prepared(2), {"send_all": True}),
        (make_prepared(2), {"dry_run": True}),
    ):
        planner = planner_of(unsure, None, **options)
        plan = planner.plan([row])
        assert (len(plan.to_send), planner._fields.unsure_rows) == (not planner._dry_run, 0)
        assert not any(each.once_more for each in plan.to_send)


def test_a_row_that_is_superseded_renews_nothing_of_the_first_ones(ledger, monkeypatch):
    """Or the ledger took its profile for the one that Iterable has."""
    first, second = make_prepared(1), make_prepared(1, first_name="Anna")
    monkeypatch.setattr(ledger, "_today", ledger._today + MARK_DAYS + 1)
    plan = make_planner(ledger).plan([second._replace(users_update=SUPERSEDED)])
    assert plan.renew == [(first.event_content, first.event_name)]
