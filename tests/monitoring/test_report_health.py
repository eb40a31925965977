"""Whether the report calls a job healthy, and what it says against it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from records.exit_statuses import MEANINGS, ExitStatus
from records.results_writer import ResultsWriter
from tests.monitoring.report_page import NOW, report_text
from tests.results import (
    BAD,
    LAST,
    delivered,
    failing,
    filtered,
    forgotten,
    not_attempted,
    refused,
    save,
    save_daily,
    unfinished,
)


def test_a_healthy_job_is_said_to_be_so(tmp_path):
    save_daily(tmp_path, [0, 1, 0, 0, 0])
    assert (
        "Healthy Did it run? Yes. The last run: Sun 1 Mar 2026, 02:15 UTC, 3 h 45 min before this "
        "page. It finished (exit status 0) after 0.0 s. This page is out of date after "
        "Mon 2 Mar 2026, 02:15 UTC, when the next run is due. "
        "Is everyone delivered? Yes: all 100 rows. What do I do? Nothing. 5 runs, the newest"
    ) in report_text(tmp_path)


def test_a_failing_job_says_since_when_and_why_and_what_to_do(tmp_path):
    save_daily(tmp_path, [0, 0, 0, 0], count=3, duration_seconds=8)
    for days in (1, 2, 3):
        why = {"error": "the server is gone; check DB_HOST", "duration_seconds": 2}
        save(tmp_path, LAST + timedelta(days=days), status=3, **why)
    assert (
        "Failing Did it run? No: no run has come to its last row for 3 d 3 h. The last run: "
        "Wed 4 Mar 2026, 02:15 UTC, 3 h 45 min before this page. It failed at the "
        "database; nothing was sent (exit status 3) after 2.0 s. This page is out of date after "
        "Thu 5 Mar 2026, 02:15 UTC, when the next run is due. Is everyone delivered? No: nothing "
        "was sent. Everyone was last delivered on Sun 1 Mar 2026, 02:15 UTC. What is wrong? the "
        "server is gone; check DB_HOST What do I do? Fix what is named above until python3 main.py "
        "--check is content. Run it again; it sends only what is missing."
    ) in report_text(tmp_path, NOW + timedelta(days=3))


def test_rows_that_were_not_delivered_need_a_look_however_often(tmp_path):
    for days in range(9):
        save(tmp_path, LAST - timedelta(days=days), [*delivered(7), *refused(2)], 1)
    text = report_text(tmp_path)
    assert (
        "Is everyone delivered? No: 2 of 9 rows were not delivered. No run on this page has "
        "delivered everyone. What is wrong? 2 rows: BadParams What do I do? See below what to do"
    ) in text
    assert "Needs a look" in text


def test_of_many_reasons_three_are_named(tmp_path):
    calls = [replace(BAD, code=f"Code{number}") for number in range(5)]
    save(tmp_path, rows=failing(*calls), status=1)
    found = "1 row: Code0 1 row: Code1 1 row: Code2 2 more reasons, below. What do I do?"
    assert found in report_text(tmp_path)


def test_a_run_that_stopped_early_tells_how_far_it_came(tmp_path):
    rows = [*delivered(3), *refused(2), *not_attempted(4)]
    save(tmp_path, rows=rows, status=4, error="Iterable seems to be down")
    assert (
        "No: 6 of 9 rows were not delivered. The run ended before it came to 4 of them. No run "
        "on this page has delivered everyone. What is wrong? Iterable seems to be down What"
    ) in report_text(tmp_path)


def test_forgotten_people_do_not_make_a_job_unhealthy(tmp_path):
    save_daily(tmp_path, [0] * 4)
    save(tmp_path, LAST + timedelta(hours=1), [*delivered(98), *forgotten(2)])
    text = report_text(tmp_path)
    assert "Healthy" in text
    assert "Yes: 98 of 100 rows. 2 rows cannot be delivered, for good: the person has asked" in text
    assert "Why rows were not delivered" not in text


def test_forgotten_rows_are_not_among_those_that_were_not_delivered(tmp_path):
    save(tmp_path, rows=[*delivered(7), *forgotten(3), *refused(2)], status=1)
    text = report_text(tmp_path)
    assert "No: 2 of 12 rows were not delivered. 3 rows cannot be delivered, for good" in text


def test_fields_that_the_project_does_not_take_need_a_look(tmp_path):
    save_daily(tmp_path, [0] * 4)
    save(tmp_path, LAST + timedelta(hours=1), filtered(100))
    text = report_text(tmp_path)
    assert "Needs a look" in text
    assert (
        "Yes: all 100 rows. What is wrong? The project takes no new fields: Iterable left "
        "candidate, plan_type out of users/update. What do I do? Create candidate, "
        "plan_type in Iterable. Then the rows are sent once more."
    ) in text
    save(tmp_path, LAST + timedelta(hours=2), delivered(100))
    text = report_text(tmp_path)
    assert "Healthy" in text
    assert "out of users/update" not in text


def test_fields_of_both_calls_are_named_and_of_very_many_only_some(tmp_path):
    many = [f"field{n}" for n in range(30)]
    fields = {"users_update": many, "events_track": ["page"]}
    save(tmp_path, rows=delivered(3), summary={"filtered_fields": fields})
    text = report_text(tmp_path)
    assert "field18, field19 and 10 more out of users/update" in text
    assert "left page out of events/track" in text


def test_a_trial_run_names_the_fields_too(tmp_path):
    fields = {"users_update": ["plan_type"]}
    save(tmp_path, rows=delivered(3), summary={"filtered_fields": fields}, limit=3)
    text = report_text(tmp_path)
    assert "Not in use yet" in text
    assert "left plan_type out of users/update" in text


def test_forgotten_people_are_spoken_of_only_where_there_are_some(tmp_path):
    save(tmp_path, rows=delivered(3))
    assert "forget" not in report_text(tmp_path)


def test_a_job_that_no_longer_runs_is_not_healthy_and_delivers_nobody(tmp_path):
    save_daily(tmp_path, [0] * 5)
    assert "Healthy" in report_text(tmp_path, LAST + timedelta(hours=47))
    text = report_text(tmp_path, LAST + timedelta(hours=49))
    assert "Failing Did it run? No: none began for 2 d 1 h; usually one does every 1 d." in text
    assert "Is everyone delivered? Not since the last run, which delivered all 100 rows." in text
    assert "whether cron or the systemd timer still starts the job. Then run it by hand." in text


def test_a_job_that_is_interrupted_every_time_is_failing(tmp_path):
    save_daily(tmp_path, [0, 0, 0, 0, 143])
    assert "Needs a look" in report_text(tmp_path)
    for days in (1, 2):
        save(tmp_path, LAST + timedelta(days=days), status=143)
    text = report_text(tmp_path, NOW + timedelta(days=2))
    assert "Failing Did it run? No: no run has come to its last row for 3 d 3 h." in text


def test_a_killed_run_is_told_although_it_left_no_results(tmp_path):
    save_daily(tmp_path, [0] * 5)
    unfinished(tmp_path, LAST + timedelta(hours=1))
    text = report_text(tmp_path)
    assert (
        "Failing Did it run? No: the run of Sun 1 Mar 2026, 03:15 UTC was killed before it could "
        "save its results. Some of its rows may have been delivered. The last run: Sun 1 Mar"
    ) in text
    assert "what killed the run: a restart, or too little memory? Run it again" in text
    save(tmp_path, LAST + timedelta(hours=2), delivered(100))
    assert "Healthy" in report_text(tmp_path)


def test_a_run_under_way_is_no_reason_to_worry(tmp_path):
    save_daily(tmp_path, [0] * 5)
    with ResultsWriter(tmp_path, LAST + timedelta(days=2)):
        text = report_text(tmp_path, LAST + timedelta(hours=49))
    assert "Healthy" in text
    assert "A run has been under way since Tue 3 Mar 2026, 02:15 UTC: write this page again" in text


def test_the_first_run_of_all_can_be_under_way_or_killed(tmp_path):
    with ResultsWriter(tmp_path, LAST):
        assert "No run has left a results file yet." in report_text(tmp_path)
    unfinished(tmp_path, LAST)
    assert "Failing Did it run? No: the run of Sun 1 Mar 2026" in report_text(tmp_path)


@pytest.mark.parametrize(("queries", "two"), [("aabb", False), ("aba", False), ("abab", True)])
def test_two_jobs_in_one_folder_are_told_apart_from_an_edited_query(tmp_path, queries, two):
    for days, query in enumerate(queries):
        save(tmp_path, LAST + timedelta(days=days), query_sha256=query * 64)
    text = report_text(tmp_path, NOW + timedelta(days=3))
    assert ("Give each job a RESULTS_DIR of its own." in text) == two
    assert ("Needs a look" in text) == two


def test_runs_by_hand_have_no_rhythm_to_miss(tmp_path):
    for minutes in (0, 1, 7, 9, 55, 57):
        save(tmp_path, LAST + timedelta(minutes=minutes), delivered(9))
    text = report_text(tmp_path, LAST + timedelta(days=9))
    assert "Healthy" in text
    assert "out of date" not in text


def test_a_job_of_working_days_is_not_missed_on_sunday(tmp_path):
    friday = datetime(2026, 2, 27, 2, 15, tzinfo=UTC)
    for days in range(25):
        if (friday - timedelta(days=days)).weekday() < 5:
            save(tmp_path, friday - timedelta(days=days), delivered(9))
    assert "Healthy" in report_text(tmp_path, friday + timedelta(days=2.9))
    assert "Failing" in report_text(tmp_path, friday + timedelta(days=4))


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (99, "Query 2 returned 99 rows, less than half of the usual 200."),
        (100, ""),
        (400, ""),
        (401, "Query 2 returned 401 rows, more than double the usual 200."),
    ],
)
def test_an_unusual_number_of_rows_is_noticed(tmp_path, rows, note):
    for days in range(1, 4):
        save(tmp_path, LAST - timedelta(days=days), delivered(200))
    save(tmp_path, rows=delivered(rows))
    text = report_text(tmp_path)
    assert ("the tables behind Query 2" in text) == bool(note)
    assert ("Needs a look" in text) == bool(note)
    assert note in text


def test_a_slow_run_is_noticed(tmp_path):
    for days in range(1, 4):
        save(tmp_path, LAST - timedelta(days=days), delivered(9), duration_seconds=60)
    save(tmp_path, rows=delivered(9), duration_seconds=130)
    text = report_text(tmp_path)
    assert "It finished (exit status 0) after 2 min 10 s; 1 min is usual." in text
    assert "Needs a look" in text
    assert "The run took more than double the usual time. What do I do? See the requests of" in text


def test_few_runs_are_not_called_usual(tmp_path):
    save(tmp_path, LAST - timedelta(days=1), delivered(100))
    save(tmp_path, rows=delivered(1))
    text = report_text(tmp_path)
    assert "is usual" not in text
    assert "Healthy" in text


@pytest.mark.parametrize("trial", [{"dry_run": True}, {"limit": 1}])
def test_trials_are_shown_and_not_judged(tmp_path, trial):
    save(tmp_path, rows=delivered(5), status=1, **trial)
    text = report_text(tmp_path)
    assert "Not in use yet" in text
    assert "So far there were only dry runs and runs with --limit." in text
    assert "Yes." not in text
    assert "When they look right, run python3 main.py." in text
    save(tmp_path, LAST - timedelta(days=1), delivered(5))
    text = report_text(tmp_path)
    assert "Healthy" in text
    assert "Yes: all 5 rows." in text
    assert "2 runs as a table" in text


@pytest.mark.parametrize("status", ExitStatus)
def test_every_exit_status_is_explained(tmp_path, status):
    save(tmp_path, rows=delivered(2), status=status)
    text = report_text(tmp_path)
    meaning = MEANINGS[status]
    assert f"It {meaning.event} (exit status {int(status)}) after" in text
    assert f"What do I do? {meaning.advice or 'Nothing.'}" in text


@pytest.mark.parametrize("status", [99, None, "0"])
def test_an_unknown_exit_status_is_not_taken_for_success(tmp_path, status):
    save(tmp_path, exit_status=status)
    text = report_text(tmp_path)
    assert "Failing" in text
    assert "It ended in a way this report does not know" in text


@pytest.mark.parametrize(
    ("summary", "run", "sentence"),
    [
        ({"total": 0}, {}, "Query 2 returned no row to deliver."),
        ({"total": 0}, {"exit_status": 3}, "No: nothing was sent."),
        ({"total": 1, "successful": 1}, {}, "Yes: all 1 row."),
        ({"total": 9, "unchanged": 7, "successful": 2}, {}, "Yes: 2 of 9 rows were sent; Iterable"),
        ({"total": 9, "planned": 9}, {"dry_run": True}, "sent: it was a dry run of 9 rows."),
        ({"total": 9, "not_attempted": 4}, {"exit_status": 4}, "No: 4 of 9 rows were not deliver"),
    ],
)
def test_who_is_delivered_is_told_in_a_sentence(tmp_path, summary, run, sentence):
    save(tmp_path, summary=summary, **run)
    assert sentence in report_text(tmp_path)


def test_refused_rows_within_the_limit_leave_a_job_healthy(tmp_path):
    rows = [*delivered(7), *refused(3)]
    save(tmp_path, rows=rows, tolerated=3, max_refused_rows=10, job="orders.sqlite3")
    text = report_text(tmp_path)
    assert "Iterable sync: orders.sqlite3" in text
    assert "Healthy, 3 rows refused, 10 allowed" in text
    assert "Is everyone delivered? All but a few: 3 of 10 rows were not delivered." in text
    assert "3 rows: BadParams" in text
