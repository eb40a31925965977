"""Which runs and which of their failed rows the report shows."""

import os
from dataclasses import replace
from datetime import timedelta

from monitoring.report_history import FAILED_ROWS_SHOWN, RUNS_SHOWN, read_history
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, Fault, RowOutcome
from tests.monitoring.report_page import report_text
from tests.results import DOWN, LAST, MISTYPED, OK, delivered, refused, save, save_daily


def test_errors_are_counted_by_code_with_a_few_customers_each(tmp_path):
    save(tmp_path, LAST - timedelta(days=1), refused(10, "old@example.com"), 1)
    partial = [RowOutcome(50, "half@example.com", OK, DOWN)]
    save(tmp_path, rows=[*refused(2, "new@example.com"), *partial], status=1)
    text = report_text(tmp_path)
    assert (
        "BadParams users/update, HTTP 400, refused: mend the row: Iterable will not take it as it "
        "is 2 12 2 2026-03-01 0 new@example.com 1 new@example.com 2 old@example.com HTTP 503"
    ) in text
    assert "HTTP 503 events/track, unavailable: run again" in text
    assert "50 half@example.com partial failure events/track unavailable 503" in text


def failing(*calls):
    return [RowOutcome(i, "a@example.com", call, NOT_SENT) for i, call in enumerate(calls)]


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


def test_a_message_that_may_quote_one_row_does_not_stand_for_all_of_them(tmp_path):
    save(tmp_path, rows=[*refused(2), *failing(MISTYPED)], status=1)
    assert [error.message for error in read_history(tmp_path).errors] == ["", ""]


def test_of_many_failed_rows_the_first_are_shown_and_the_rest_counted(tmp_path):
    path = save(tmp_path, rows=refused(FAILED_ROWS_SHOWN + 50), status=1)
    text = report_text(tmp_path)
    assert text.count("total failure users/update") == FAILED_ROWS_SHOWN
    assert f"And 50 more: all of them are in {path.name}" in text


def test_only_the_newest_runs_are_read_and_the_page_says_so(tmp_path):
    save_daily(tmp_path, [0] * (RUNS_SHOWN + 5), count=1)
    text = report_text(tmp_path)
    assert f"Shows the newest {RUNS_SHOWN} of {RUNS_SHOWN + 5} results files." in text
    assert f"{RUNS_SHOWN} runs as a table" in text


def test_runs_of_one_second_come_in_the_order_of_their_numbers(tmp_path):
    names = [save(tmp_path, rows=delivered(number)).name for number in range(1, 12)]
    assert names[-1] == "integration_results_20260301_021500_11.json"
    assert [run.path.name for run in read_history(tmp_path).runs] == names
    assert "delivered every row: 11 of 11" in report_text(tmp_path)


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
    assert "Unreadable None of the results files can be read" in text
    save(tmp_path, rows=delivered(3))
    text = report_text(tmp_path)
    assert "Healthy" in text
    assert "left out integration_results_20260302_000000.json is not a results file" in text


def test_a_damaged_row_is_named_and_its_run_still_counts(tmp_path):
    path = save(tmp_path, rows=[*refused(2), *delivered(1)], status=1)
    lines_ = path.read_text().splitlines(keepends=True)
    lines_[4] = lines_[4][:90] + "\n"
    path.write_text("".join(lines_))
    text = report_text(tmp_path)
    assert "2 of 3 rows were not delivered" in text
    assert f"{path.name} has a damaged row" in text
