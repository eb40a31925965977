"""What became of a run, from its first row to its exit status."""

import pytest

from records.exit_statuses import ExitStatus, RunError, StopReason
from records.outcomes import NOT_SENT
from records.run import RunOptions, RunRecord
from tests.results import BAD, DOWN, FORGOTTEN, MISTYPED, OK, ended


def run_over(*calls, place=0, allowed=0, reason=None, advice="", rows=None):
    """Return the finished record of a run whose *calls*, of profiles or of events, ended so."""
    total = len(calls) if rows is None else rows
    run = RunRecord(RunOptions(), "1.0.0", rows_read=total, max_refused_rows=allowed)
    pairs = [((c, OK if c is OK else NOT_SENT), (OK, c))[place] for c in calls]
    run.count([ended(number, "a", *pair) for number, pair in enumerate(pairs, 7)])
    run.finish(reason, advice)
    return run


def test_a_row_without_an_outcome_is_a_bug():
    run = run_over(OK, rows=2, reason=StopReason.SIGTERM, advice="stopped")
    assert (run.exit_status, run.error) == (ExitStatus.BUG, "bug: 1 outcomes for 2 rows")


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        *((StopReason.ROW_COUNT, 3), (StopReason.OUTAGE, 4)),
        *((StopReason.SIGINT, 130), (StopReason.SIGTERM, 143)),
    ],
)
@pytest.mark.parametrize("error", [None, ExitStatus.USAGE, ExitStatus.SIGINT, ExitStatus.BUG])
def test_a_reason_to_stop_explains_every_error_but_a_bug(reason, status, error):
    run = RunRecord(RunOptions(), "1.0.0", error_status=error, stop_reason=reason)
    assert run.exit_status == (error if error is ExitStatus.BUG else status)


def test_the_first_error_is_the_one_that_is_told():
    run = RunRecord(RunOptions(), "1.0.0")
    run.fail(ExitStatus.DATABASE, "the query failed")
    run.fail(ExitStatus.BUG, "and then this")
    run.finish(None, "")
    assert (run.exit_status, run.error) == (ExitStatus.DATABASE, "the query failed")


def test_a_stopped_run_says_why_and_tolerates_nothing():
    run = run_over(BAD, allowed=9, reason=StopReason.DEADLINE, advice="the time is over")
    told = {"exit_status": 4, "complete": False, "tolerated": 0, "error": "the time is over"}
    assert told.items() <= run.to_json()["run"].items()


@pytest.mark.parametrize(
    ("calls", "allowed", "status", "tolerated"),
    [
        ([], 0, ExitStatus.OK, 0),
        ([OK, OK], 0, ExitStatus.OK, 0),
        ([OK, BAD], 0, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([OK, BAD], 1, ExitStatus.OK, 1),
        ([OK, BAD, MISTYPED], 1, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([OK, BAD, MISTYPED], 2, ExitStatus.OK, 2),
        ([OK, DOWN], 9, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([BAD, DOWN], 9, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([OK, NOT_SENT], 9, ExitStatus.NOT_ALL_DELIVERED, 0),
        ([OK, FORGOTTEN], 0, ExitStatus.OK, 0),
    ],
)
@pytest.mark.parametrize("place", [0, 1], ids=["profile", "event"])
def test_the_status_follows_from_the_rows_and_from_what_may_be_refused(
    calls, allowed, status, tolerated, place
):
    run = run_over(*calls, place=place, allowed=allowed)
    assert (run.exit_status, run.tolerated, run.complete) == (status, tolerated, True)
    assert run.to_json()["run"]["tolerated"] == tolerated


def test_the_cause_names_the_first_row_that_failed_and_quotes_nothing_of_iterables():
    assert run_over(OK, BAD, DOWN, place=1).cause == (
        "2 of 3 rows were not delivered, the first is customer 8: "
        "events/track refused (client error 400 BadParams)"
    )


def test_the_exit_statuses_are_a_promise_and_each_has_its_meaning():
    assert list(ExitStatus) == [0, 1, 2, 3, 4, 70, 75, 130, 143]
    assert all(status.meaning for status in ExitStatus)
    assert RunError.status is ExitStatus.USAGE
