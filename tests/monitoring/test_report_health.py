"""Whether the report calls a job healthy, and what it says against it."""

from datetime import UTC, datetime, timedelta

import pytest

from monitoring.report_health import ADVICE
from records.exit_statuses import ExitStatus
from records.results_files import ResultsWriter
from tests.monitoring.report_page import NOW, report_text
from tests.results import (
    BAD,
    LAST,
    delivered,
    failing,
    filtered,
    not_attempted,
    refused,
    save,
    save_daily,
    unfinished,
)


def test_a_healthy_job_is_said_to_be_so_and_named(tmp_path):
    save_daily(tmp_path, [0, 1, 0, 0, 0], job="orders.sqlite3")
    text = report_text(tmp_path)
    assert "Iterable sync: orders.sqlite3" in text
    assert (
        "Healthy Did it run? Yes. The last run: Sun 1 Mar 2026, 02:15 UTC, 3 h 45 min before this "
        "page was written. It ended after 0.0 s with exit status 0. Is every row delivered? Yes, "
        "100 of 100 rows. What do I do? Nothing. The runs"
    ) in text


def test_a_failing_job_says_since_when_and_why_and_what_to_do(tmp_path):
    save_daily(tmp_path, [0, 0, 0, 0], count=3)
    save(tmp_path, LAST + timedelta(days=1), status=3, error="the server is gone; check DB_HOST")
    assert (
        "It ended after 0.0 s with exit status 3: database: no connection, failed query, or too "
        "few or many rows; nothing was sent. Is every row delivered? No: nothing was sent. Last "
        "complete delivery: Sun 1 Mar 2026, 02:15 UTC. What is wrong? the server is gone; check "
        "DB_HOST What do I do? Fix what is named above until python3 main.py --check reports no "
        "problem. Run it again; it sends only what is missing."
    ) in report_text(tmp_path, NOW + timedelta(days=1))


def test_rows_that_were_not_delivered_need_a_look_at_the_most_frequent_reasons(tmp_path):
    codes = [BAD.__class__(BAD.status, 400, f"Code{n}", 1) for n in (1, 1, 2, 3, 4, 5)]
    rows = [*delivered(2), *filtered(1), *failing(*codes), *not_attempted(4)]
    save(tmp_path, rows=rows, status=1)
    text = report_text(tmp_path)
    assert "Needs a look" in text
    assert (
        "No: 10 of 13 rows were not delivered. The run ended before it came to 4 of them. No run "
        "on this page has delivered every row. What is wrong? 2 rows: Code1 1 row: Code2 1 row: "
        "Code3 2 more reasons, below. The project accepts no new fields: Iterable ignored "
        "candidate, plan_type in users/update. What do I do? See below what to do about each "
        "reason. Create candidate, plan_type in Iterable. The next run then sends the rows again."
    ) in text
    save(tmp_path, LAST + timedelta(hours=1), filtered(1))
    assert "Needs a look" in report_text(tmp_path)


def test_a_job_that_no_longer_runs_is_not_healthy_and_delivers_nobody(tmp_path):
    save_daily(tmp_path, [0] * 5)
    assert "Healthy" in report_text(tmp_path, LAST + timedelta(hours=35))
    text = report_text(tmp_path, LAST + timedelta(hours=37))
    assert "Failing Did it run? No: no run has started for 1 d 13 h; normally one starts" in text
    assert "every day. The last run: Sun" in text
    assert "Not since the last run, which delivered 100 of 100 rows." in text
    assert "Check that the machine is up, and that cron or systemd starts the job." in text
    with ResultsWriter(tmp_path, LAST + timedelta(days=1)):
        text = report_text(tmp_path, LAST + timedelta(hours=37))
    assert "Healthy" in text
    assert "A run has been under way since Mon 2 Mar 2026, 02:15 UTC: write this page again" in text


def test_runs_by_hand_have_no_rhythm_to_miss_and_sunday_is_none_of_a_working_days_job(tmp_path):
    for minutes in (0, 1, 7, 9, 55, 57):
        save(tmp_path / "hand", LAST + timedelta(minutes=minutes), delivered(9))
    assert "Healthy" in report_text(tmp_path / "hand", LAST + timedelta(days=9))
    friday = datetime(2026, 2, 27, 2, 15, tzinfo=UTC)
    for days in range(25):
        if (friday - timedelta(days=days)).weekday() < 5:
            save(tmp_path, friday - timedelta(days=days), delivered(9))
    assert "Healthy" in report_text(tmp_path, friday + timedelta(days=4))
    assert "Failing" in report_text(tmp_path, friday + timedelta(days=5))


def test_a_killed_run_is_told_although_it_left_no_results(tmp_path):
    with ResultsWriter(tmp_path, LAST):
        assert "No run has left a results file yet." in report_text(tmp_path)
    save(tmp_path, rows=delivered(100))
    unfinished(tmp_path, LAST + timedelta(hours=1))
    text = report_text(tmp_path)
    assert (
        "Failing Did it run? No: the run of Sun 1 Mar 2026, 03:15 UTC was killed before it could "
        "save its results. Some of its rows may have been delivered. The last run: Sun 1 Mar"
    ) in text
    assert "Find out from the system's log what killed the run. Run it again" in text
    save(tmp_path, LAST + timedelta(hours=2), delivered(100))
    assert "Healthy" in report_text(tmp_path)


def test_runs_that_are_dated_later_than_now_are_told_and_not_counted(tmp_path):
    """The clock was ahead when they began: they must not stand for the nights that follow."""
    future = save(tmp_path, LAST.replace(year=2041), delivered(9))
    assert "Failing Did it run? None of the results files can be used." in report_text(tmp_path)
    save(tmp_path, status=3, error="the server is gone")
    unfinished(tmp_path, LAST.replace(year=2042))
    text = report_text(tmp_path)
    assert "Failing Did it run? The last run: Sun 1 Mar 2026" in text
    assert f"Newer results files are not counted: {future.name}; see below." in text
    assert f"{future.name} is dated in the future: check this machine's clock, then delete" in text
    assert "1 run as a table" in text
    assert "2041-" not in text.replace(future.name, "")


def test_rows_that_are_refused_night_after_night_are_named_with_what_to_do(tmp_path):
    nights = [
        refused(3),  # three rows, of which the third is mended
        [*delivered(1), *refused(2)],
        [],  # a run that came to no row breaks nothing
        [*refused(2), *failing(BAD)],
    ]
    for days, rows in enumerate(reversed(nights)):
        status = 1 if rows else 3
        save(tmp_path, LAST - timedelta(days=days), rows, status, error=None if rows else "no")
    save(tmp_path, LAST - timedelta(hours=1), delivered(1), limit=1)
    text = report_text(tmp_path)
    assert "2 rows refused night after night, the first since Thu 26 Feb 2026, 02:15 UTC" in text
    assert "Fix the rows that are refused every time, or leave them out of Query 2" in text
    assert (
        "Refused night after night Customer 0 user@example.com since Thu 26 Feb 2026, 02:15 UTC, "
        "in 3 runs: no such field Customer 1 user@example.com since Thu 26 Feb 2026, 02:15 UTC, in"
    ) in text
    # A night in which a row was delivered ends its series.
    save(tmp_path, LAST + timedelta(days=1), [*delivered(1), *refused(2)[1:]], 1)
    save(tmp_path, LAST + timedelta(days=2), refused(2), 1)
    text = report_text(tmp_path, NOW + timedelta(days=2))
    assert "1 row refused night after night, the first since Thu 26 Feb" in text
    assert "Refused night after night Customer 1 user@example.com since Thu 26 Feb" in text


@pytest.mark.parametrize(
    ("trial", "answer"),
    [
        ({"dry_run": True}, "Not known: nothing was sent, it was a dry run of 5 rows."),
        ({"limit": 5}, "Not known: the last run had --limit 5. 5 of its 5 rows were delivered."),
    ],
)
def test_trials_are_shown_and_not_judged(tmp_path, trial, answer):
    save(tmp_path, rows=delivered(5), **trial)
    text = report_text(tmp_path)
    assert "Not in use yet" in text
    assert "So far there were only dry runs and runs with --limit." in text
    assert answer in text
    assert "Yes" not in text
    assert "When the trial runs look right, run python3 main.py." in text
    save(tmp_path, LAST - timedelta(days=1), delivered(6))
    text = report_text(tmp_path)
    assert "Healthy" in text
    assert "Yes, 6 of 6 rows." in text
    assert "2 runs as a table" in text


@pytest.mark.parametrize("status", ExitStatus)
def test_every_exit_status_is_explained(tmp_path, status):
    save(tmp_path, rows=delivered(2), status=status)
    text = report_text(tmp_path)
    meaning = f": {status.meaning}" if status else ""
    assert f"It ended after 0.0 s with exit status {int(status)}{meaning}." in text
    assert f"What do I do? {ADVICE.get(status, 'Nothing.')}" in text


@pytest.mark.parametrize(
    ("summary", "run", "sentence"),
    [
        ({"total": 0}, {}, "Query 2 returned no row to deliver."),
        ({"total": 1, "successful": 1}, {}, "Yes, 1 of 1 row."),
        (
            {"total": 9, "successful": 7, "forgotten": 2},
            {},
            "Yes, 7 of 9 rows. 2 rows can never be delivered: Iterable has forgotten the user",
        ),
        (
            {"total": 9, "unchanged": 7, "successful": 2},
            {},
            "Yes, 9 of 9 rows: 2 were sent, Iterable already held 7.",
        ),
        (
            {"total": 9, "successful": 6, "total_failures": 3},
            {"tolerated": 3, "max_refused_rows": 10},
            "Is every row delivered? All except 3 of 9 rows; MAX_REFUSED_ROWS allows 10.",
        ),
    ],
)
def test_what_leaves_a_job_healthy_is_told_in_a_sentence(tmp_path, summary, run, sentence):
    save(tmp_path, summary=summary, **run)
    text = report_text(tmp_path)
    assert sentence in text
    assert "Healthy" in text
