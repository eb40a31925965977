"""How a run ends: every reason, error and count has its exit status."""

import pytest

from records.exit_statuses import MEANINGS, ExitStatus, RunError, StopReason, final_status

OWN = {
    StopReason.ROW_COUNT: ExitStatus.DATABASE,
    StopReason.SIGINT: ExitStatus.SIGINT,
    StopReason.SIGTERM: ExitStatus.SIGTERM,
}


@pytest.mark.parametrize("reason", StopReason)
@pytest.mark.parametrize("error", [None, ExitStatus.USAGE, ExitStatus.SIGINT])
def test_a_reason_to_stop_explains_what_follows_from_it(reason, error):
    assert final_status(reason, 3, error) is OWN.get(reason, ExitStatus.STOPPED)


@pytest.mark.parametrize(
    ("undelivered", "error", "status"),
    [
        (0, None, ExitStatus.OK),
        (1, None, ExitStatus.NOT_ALL_DELIVERED),
        (0, ExitStatus.DATABASE, ExitStatus.DATABASE),
        (5, ExitStatus.USAGE, ExitStatus.USAGE),
        (0, ExitStatus.BUSY, ExitStatus.BUSY),
    ],
)
def test_without_a_reason_the_error_counts_and_then_the_rows(undelivered, error, status):
    assert final_status(None, undelivered, error) is status


@pytest.mark.parametrize("reason", [None, *StopReason])
def test_a_bug_is_told_whatever_else_happened(reason):
    assert final_status(reason, 0, ExitStatus.BUG) is ExitStatus.BUG


def test_the_numbers_are_a_promise_and_each_has_its_meaning():
    assert [int(status) for status in MEANINGS] == [0, 1, 2, 3, 4, 70, 75, 130, 143]
    assert {meaning.level for meaning in MEANINGS.values()} == {"good", "warn", "bad"}
    assert RunError.status is ExitStatus.USAGE
