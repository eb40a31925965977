"""Which runs and which of their failed rows the report shows."""

import os
from dataclasses import replace
from datetime import timedelta

from monitoring.report_history import RUNS_SHOWN, read_history
from records.outcomes import CallOutcome, CallStatus, Fault
from tests.monitoring.report_page import NOW, report_text
from tests.results import (
    BAD,
    LAST,
    MISTYPED,
    damage_second_row,
    delivered,
    failing,
    half_delivered,
    refused,
    save,
    save_daily,
)


def test_errors_of_the_last_run_are_counted_by_code_with_a_few_customers_each(tmp_path):
    two_days = LAST - timedelta(days=2)
    save(tmp_path, two_days, refused(10), 1)
    save(tmp_path, two_days + timedelta(hours=9), refused(10), 1, limit=10)
    save(tmp_path, LAST - timedelta(days=1), failing(MISTYPED), 1)
    rows = [*refused(12, "new@example.com"), *half_delivered(1)]
    path = save(tmp_path, rows=rows, status=1)
    text = report_text(tmp_path)
    assert (
        "Why rows were not delivered 12 rows: BadParams Fix the row in the database: Iterable will "
        "not take it as it is. users/update, HTTP 400, refused. In 2 runs since Fri 27 Feb 2026, "
        "02:15 UTC. no such field 0 new@example.com 1 new@example.com 2 new@example.com"
    ) in text
    assert f"9 new@example.com and 2 more, in {path.name} 1 row: HTTP 503 Run again" in text
    assert "events/track, unavailable. New in the last run" in text
    assert "RequestFieldsTypesMismatched" not in text


def test_errors_are_told_apart_by_where_the_reason_lies(tmp_path):
    project, network = (
        CallOutcome(CallStatus.UNAVAILABLE, 403, None, 1, f"by the {fault}", fault)
        for fault in (Fault.PROJECT, Fault.NETWORK)
    )
    save(tmp_path, rows=failing(project, network, network), status=1)
    errors = read_history(tmp_path).errors
    assert [(error.label, error.fault, error.rows, error.message) for error in errors] == [
        ("HTTP 403", "network", 2, "by the network"),
        ("HTTP 403", "project", 1, "by the project"),
    ]


def test_errors_are_told_apart_by_the_fields_that_they_are_about(tmp_path):
    other = replace(MISTYPED, fields=(("candidate", "boolean"),))
    save(tmp_path, rows=failing(MISTYPED, MISTYPED, other), status=1)
    errors = read_history(tmp_path).errors
    assert [(error.fields, error.rows) for error in errors] == [
        ((("plan_type", "date"),), 2),
        ((("candidate", "boolean"),), 1),
    ]


def test_a_message_that_quotes_one_row_stands_beside_that_row(tmp_path):
    calls = [replace(BAD, message=f"no such plan: {plan}") for plan in ("a", "b")]
    save(tmp_path, rows=[*failing(*calls), *failing(MISTYPED)], status=1)
    assert [error.message for error in read_history(tmp_path).errors] == ["", "not of that type"]
    text = report_text(tmp_path)
    assert "0 a@example.com no such plan: a 1 a@example.com no such plan: b" in text
    assert text.count("not of that type") == 1


def test_only_the_newest_runs_are_read_and_the_page_says_so(tmp_path):
    save_daily(tmp_path, [0] * (RUNS_SHOWN + 5), count=1)
    text = report_text(tmp_path)
    assert f"Shows the newest {RUNS_SHOWN} of {RUNS_SHOWN + 5} results files." in text
    assert f"{RUNS_SHOWN} runs as a table" in text


def test_runs_of_one_second_come_in_the_order_of_their_numbers(tmp_path):
    names = [save(tmp_path, rows=delivered(number)).name for number in range(1, 12)]
    assert names[-1] == "integration_results_20260301_021500_11.json"
    assert [run.path.name for run in read_history(tmp_path).runs] == names
    assert "Yes: all 11 rows." in report_text(tmp_path)


def test_other_files_are_neither_shown_nor_named(tmp_path):
    path = save(tmp_path)
    (tmp_path / "integration_results_old.json").write_text("{}")
    (tmp_path / "integration_results_20260302_000000.json").symlink_to(path)
    os.mkfifo(tmp_path / "integration_results_20260303_000000.json")
    history = read_history(tmp_path)
    assert ([run.path for run in history.runs], history.files, history.skipped) == ([path], 1, [])


def test_a_file_that_cannot_be_read_is_left_out_and_named(tmp_path):
    (tmp_path / "integration_results_20260302_000000.json").write_bytes(b"[]")
    text = report_text(tmp_path)
    assert "Failing Did it run? None of the results files can be read." in text
    save(tmp_path, rows=delivered(3))
    text = report_text(tmp_path)
    assert "Needs a look" in text
    assert "Runs after that one are not told of here: integration_results_20260302_000000" in text
    assert "left out integration_results_20260302_000000.json is not a results file" in text
    save(tmp_path, LAST + timedelta(days=1), delivered(3))
    text = report_text(tmp_path, NOW + timedelta(days=1))
    assert "Healthy" in text
    assert "left out integration_results_20260302_000000.json is not a results file" in text


def test_a_damaged_row_is_named_and_its_run_still_counts(tmp_path):
    path = save(tmp_path, rows=[*refused(2), *delivered(1)], status=1)
    damage_second_row(path)
    text = report_text(tmp_path)
    assert "2 of 3 rows were not delivered" in text
    assert f"{path.name} has a damaged row" in text
