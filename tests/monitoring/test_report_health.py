"""Whether the report calls a job healthy, and what it says against it."""

from datetime import UTC, datetime, timedelta

import pytest

from records.exit_statuses import MEANINGS, ExitStatus
from records.outcomes import RowOutcome
from tests.monitoring.report_page import report_text
from tests.results import (
    FILTERED,
    LAST,
    OK,
    delivered,
    forgotten,
    refused,
    save,
    save_daily,
    superseded,
)


def test_a_healthy_job_is_said_to_be_so(tmp_path):
    save_daily(tmp_path, [0, 1, 0, 0, 0])
    text = report_text(tmp_path)
    assert "Healthy The last run delivered every row: 100 of 100 (exit status 0)." in text
    assert "Last run 3 h 45 min ago 2026-03-01 02:15 Last success 3 h 45 min ago" in text
    assert "Streak 3 runs succeeded Rhythm every 24 h" in text
    assert "Written 2026-03-01 06:00 UTC. All times are UTC." in text


def test_a_failing_job_says_since_when_and_why(tmp_path):
    save_daily(tmp_path, [0, 0, 0, 0, 3, 3], error="the server is gone; check DB_HOST")
    text = report_text(tmp_path)
    assert "Failing The last run failed at the database; nothing was sent (exit status 3)." in text
    assert "the server is gone; check DB_HOST No success for 2 d 3 h" in text
    assert "Last success 2 d 3 h ago 2026-02-27 02:15 Streak 2 runs did not succeed" in text


def test_rows_that_were_not_delivered_need_a_look(tmp_path):
    save(tmp_path, rows=[*delivered(7), *refused(2)], status=1)
    text = report_text(tmp_path)
    assert "Needs a look The last run finished; 2 of 9 rows were not delivered" in text


def test_forgotten_people_do_not_make_a_job_unhealthy(tmp_path):
    save_daily(tmp_path, [0] * 4)
    save(tmp_path, LAST + timedelta(hours=1), [*delivered(98), *forgotten(2)])
    text = report_text(tmp_path)
    assert (
        "Healthy The last run delivered every row that can be: 98 of 100 (exit status 0)." in text
    )
    assert "Rows not delivered 0" in text
    assert "Forgotten rows: 2. The person asked Iterable to forget them" in text
    assert "No row failed in any of these runs." in text


def test_forgotten_rows_are_not_among_those_that_were_not_delivered(tmp_path):
    save(tmp_path, rows=[*delivered(7), *forgotten(3), *refused(2)], status=1)
    text = report_text(tmp_path)
    assert "The last run finished; 2 of 12 rows were not delivered" in text
    assert "Forgotten rows: 3." in text


def test_fields_that_the_project_does_not_take_need_a_look(tmp_path):
    save_daily(tmp_path, [0] * 4)
    save(tmp_path, LAST + timedelta(hours=1), [RowOutcome(1, "a@example.com", FILTERED, OK)] * 100)
    text = report_text(tmp_path)
    assert "Needs a look The last run delivered every row: 100 of 100" in text
    assert (
        "The project takes no new fields and left out candidate, plan_type of users/update: create "
        "them in Iterable. Until then such rows are sent again at every run"
    ) in text
    save(tmp_path, LAST + timedelta(hours=2), delivered(100))
    text = report_text(tmp_path)
    assert "Healthy" in text
    assert "left out" not in text


def test_fields_of_both_calls_are_named_and_of_very_many_only_some(tmp_path):
    many = [f"field{n}" for n in range(30)]
    fields = {"users_update": many, "events_track": ["page"]}
    save(tmp_path, rows=delivered(3), summary={"filtered_fields": fields})
    text = report_text(tmp_path)
    assert "field18, field19 and 10 more of users/update" in text
    assert "left out page of events/track" in text


def test_a_trial_run_names_the_fields_too(tmp_path):
    fields = {"users_update": ["plan_type"]}
    save(tmp_path, rows=delivered(3), summary={"filtered_fields": fields}, limit=3)
    text = report_text(tmp_path)
    assert "Not in use yet" in text
    assert "left out plan_type of users/update" in text


def test_superseded_profiles_are_explained_and_are_no_reason_to_worry(tmp_path):
    save(tmp_path, rows=[*delivered(7), *superseded(2)])
    text = report_text(tmp_path)
    assert "Healthy The last run delivered every row: 9 of 9" in text
    assert "Superseded profiles: 2. A row before theirs in Query 2 has the same address" in text


def test_there_is_nothing_to_note_of_most_runs(tmp_path):
    save(tmp_path, rows=delivered(3))
    text = report_text(tmp_path).lower()
    assert "forgotten" not in text
    assert "superseded" not in text


def test_a_job_that_no_longer_runs_is_not_healthy(tmp_path):
    save_daily(tmp_path, [0] * 5)
    assert "Healthy" in report_text(tmp_path, LAST + timedelta(hours=47))
    text = report_text(tmp_path, LAST + timedelta(hours=49))
    assert "Failing" in text
    assert "No run for 2 d 1 h; it usually runs every 24 h" in text


def test_runs_by_hand_have_no_rhythm_to_miss(tmp_path):
    for minutes in (0, 1, 7, 9, 55, 57):
        save(tmp_path, LAST + timedelta(minutes=minutes), delivered(9))
    text = report_text(tmp_path, LAST + timedelta(days=9))
    assert "Healthy" in text
    assert "Rhythm" not in text


def test_a_job_of_working_days_is_not_missed_on_sunday(tmp_path):
    friday = datetime(2026, 2, 27, 2, 15, tzinfo=UTC)
    for days in range(25):
        if (friday - timedelta(days=days)).weekday() < 5:
            save(tmp_path, friday - timedelta(days=days), delivered(9))
    assert "Rhythm every 24 h" in report_text(tmp_path, friday + timedelta(days=2.9))
    assert "Healthy" in report_text(tmp_path, friday + timedelta(days=2.9))
    assert "Failing" in report_text(tmp_path, friday + timedelta(days=4))


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (99, "Rows: 99 is less than half of the usual 200"),
        (100, ""),
        (400, ""),
        (401, "Rows: 401 is more than double the usual 200"),
    ],
)
def test_an_unusual_number_of_rows_is_noticed(tmp_path, rows, note):
    for days in range(1, 4):
        save(tmp_path, LAST - timedelta(days=days), delivered(200))
    save(tmp_path, rows=delivered(rows))
    text = report_text(tmp_path)
    assert ("unusual" in text) == bool(note)
    assert ("Needs a look" in text) == bool(note)
    assert note in text


def test_a_slow_run_is_noticed(tmp_path):
    for days in range(1, 4):
        save(tmp_path, LAST - timedelta(days=days), delivered(9), duration_seconds=60)
    save(tmp_path, rows=delivered(9), duration_seconds=130)
    text = report_text(tmp_path)
    assert "Duration: 2 min 10 s is more than double the usual 1 min" in text
    assert "Rate: 0.069 rows/s is less than half of the usual 0.15 rows/s" in text


def test_few_runs_are_not_called_usual(tmp_path):
    save(tmp_path, LAST - timedelta(days=1), delivered(100))
    save(tmp_path, rows=delivered(1))
    text = report_text(tmp_path)
    assert "too few runs to say what is usual" in text
    assert "Healthy" in text


@pytest.mark.parametrize("trial", [{"dry_run": True}, {"limit": 1}])
def test_trials_are_shown_and_not_judged(tmp_path, trial):
    save(tmp_path, rows=delivered(5), status=1, **trial)
    assert "Not in use yet" in report_text(tmp_path)
    save(tmp_path, LAST - timedelta(days=1), delivered(5))
    text = report_text(tmp_path)
    assert "Healthy The last run delivered every row: 5 of 5" in text
    assert "2 runs as a table" in text


@pytest.mark.parametrize("status", ExitStatus)
def test_every_exit_status_is_explained(tmp_path, status):
    save(tmp_path, rows=delivered(2), status=status)
    text = report_text(tmp_path)
    meaning = MEANINGS[status]
    assert f"The last run {meaning.event}" in text
    assert f"(exit status {int(status)}). {meaning.advice}" in text


@pytest.mark.parametrize("status", [99, None, "0"])
def test_an_unknown_exit_status_is_not_taken_for_success(tmp_path, status):
    save(tmp_path, exit_status=status)
    assert "Failing The last run ended in a way this report does not know" in report_text(tmp_path)


@pytest.mark.parametrize(
    ("summary", "run", "sentence"),
    [
        ({"total": 0}, {}, "found nothing to deliver"),
        ({"total": 9, "unchanged": 7, "successful": 2}, {}, "had changed: 2 of 9 rows"),
        (
            {"total": 9, "planned": 9},
            {"dry_run": True},
            "was a dry run of 9 rows; nothing was sent",
        ),
        ({"total": 9, "not_attempted": 4}, {"exit_status": 4}, "early; 4 of 9 rows were not"),
    ],
)
def test_the_last_run_is_told_in_a_sentence(tmp_path, summary, run, sentence):
    save(tmp_path, summary=summary, **run)
    assert sentence in report_text(tmp_path)
