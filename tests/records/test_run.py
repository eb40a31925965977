"""What became of a run, from its first row to its exit status."""

import pytest

from records.exit_statuses import ExitStatus, StopReason
from records.outcomes import COUNTERS, NOT_SENT, RowOutcome, RowStatus, outcome_of
from records.run import RunOptions, RunRecord
from tests.results import BAD, DOWN, GONE, MISTYPED, OK
from tests.rows import make_prepared


def outcomes(*updates):
    return [
        outcome_of(make_prepared(number), update, OK if update is OK else NOT_SENT)
        for number, update in enumerate(updates)
    ]


@pytest.fixture
def run():
    return RunRecord(RunOptions(), "1.0.0")


def test_every_outcome_of_a_row_has_its_counter():
    assert list(COUNTERS) == list(RowStatus)


@pytest.mark.parametrize(
    ("updates", "status", "complete"),
    [
        ([], ExitStatus.OK, True),
        ([OK, OK], ExitStatus.OK, True),
        ([OK, BAD], ExitStatus.NOT_ALL_DELIVERED, True),
    ],
)
def test_the_status_follows_from_the_rows(run, updates, status, complete):
    run.begin(len(updates))
    run.count(outcomes(*updates))
    run.finish(None, "")
    assert (run.exit_status, run.complete, run.error) == (status, complete, "")
    assert run.summary()["users_update"] == {
        status: updates.count(call)
        for call, status in ((OK, "delivered"), (BAD, "refused"))
        if call in updates
    }


def test_a_row_without_an_outcome_is_a_bug(run):
    run.begin(2)
    run.count(outcomes(OK))
    run.finish(StopReason.SIGTERM, "stopped")
    assert run.exit_status is ExitStatus.BUG
    assert run.error == "bug: 1 outcomes for 2 rows"


def test_the_first_error_is_the_one_that_is_told(run):
    run.fail(ExitStatus.DATABASE, "the query failed")
    run.fail(ExitStatus.BUG, "and then this")
    run.finish(None, "")
    assert (run.exit_status, run.error) == (ExitStatus.DATABASE, "the query failed")


def test_a_stopped_run_says_why(run):
    run.begin(0)
    run.finish(StopReason.DEADLINE, "MAX_RUNTIME_SECONDS is over")
    record = run.to_json()
    assert (record["exit_status"], record["complete"]) == (4, False)
    assert record["error"] == "MAX_RUNTIME_SECONDS is over"


@pytest.mark.parametrize(
    ("calls", "allowed", "status", "tolerated"),
    [
        ([OK, BAD], 0, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([OK, BAD], 1, ExitStatus.OK, 1),
        ([OK, BAD, MISTYPED], 1, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([OK, BAD, MISTYPED], 2, ExitStatus.OK, 2),
        ([BAD, BAD], 9, ExitStatus.OK, 2),
        ([OK, DOWN], 9, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([BAD, DOWN], 9, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([OK, NOT_SENT], 9, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([OK, GONE], 0, ExitStatus.OK, 0),
    ],
)
@pytest.mark.parametrize("place", [0, 1], ids=["profile", "event"])
def test_refused_rows_within_the_limit_are_no_failure(
    run, calls, allowed, status, tolerated, place
):
    run.set_job("state.sqlite3", allowed)
    run.begin(len(calls))
    pairs = [((c, OK if c is OK else NOT_SENT), (OK, c))[place] for c in calls]
    run.count([RowOutcome(n, "a", *pair) for n, pair in enumerate(pairs)])
    run.finish(None, "")
    assert (run.exit_status, run.tolerated) == (status, tolerated)
    assert run.to_json()["tolerated"] == tolerated


def test_a_run_that_was_stopped_tolerates_nothing(run):
    run.set_job("state.sqlite3", 9)
    run.begin(1)
    run.count([RowOutcome(1, "a", BAD, NOT_SENT)])
    run.finish(StopReason.EVERY_ROW_REFUSED, "all refused")
    assert (run.exit_status, run.tolerated) == (ExitStatus.STOPPED, 0)


def test_the_cause_names_the_first_row_that_failed_and_quotes_nothing_of_iterables(run):
    run.begin(3)
    run.count([RowOutcome(7, "a", OK, BAD), RowOutcome(8, "b", DOWN, NOT_SENT)])
    run.count([RowOutcome(9, "c", OK, OK)])
    run.finish(None, "")
    assert run.cause == (
        "2 of 3 rows were not delivered, the first is customer 7: "
        "events/track refused (client error 400 BadParams)"
    )
