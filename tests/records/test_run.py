"""What became of a run, from its first row to its exit status."""

import pytest

from records.exit_statuses import ExitStatus, StopReason
from records.outcomes import COUNTERS, NOT_SENT, CallOutcome, CallStatus, RowStatus, outcome_of
from records.run import RunOptions, RunRecord
from tests.rows import make_prepared

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
REFUSED = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)


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
        ([OK, REFUSED], ExitStatus.NOT_ALL_DELIVERED, True),
    ],
)
def test_the_status_follows_from_the_rows(run, updates, status, complete):
    run.begin(len(updates))
    run.count(outcomes(*updates))
    run.finish(None, "")
    assert (run.exit_status, run.complete, run.error) == (status, complete, "")
    assert run.summary()["users_update"] == {
        status: updates.count(call)
        for call, status in ((OK, "delivered"), (REFUSED, "refused"))
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
