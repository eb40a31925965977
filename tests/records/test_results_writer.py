"""The results file is whole or absent, private, and one line of JSON for each row."""

import errno
import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from records.outcomes import NOT_SENT, PLANNED, UNCHANGED, RowOutcome
from records.results_writer import ResultsWriter
from tests.results import BAD, DOWN, OK, finished_run
from tests.rows import make_prepared

STARTED = datetime(2026, 1, 13, 14, 30, 45, tzinfo=UTC)
PREPARED = [make_prepared(number) for number in range(5)]
OUTCOMES = [
    RowOutcome(1, "a@example.com", OK, OK, PREPARED[1]),
    RowOutcome(2, "b@example.com", OK, DOWN, PREPARED[2]),
    RowOutcome(3, "c@example.com", BAD, NOT_SENT, PREPARED[3]),
    RowOutcome(4, "d@example.com", NOT_SENT, NOT_SENT, attempted=False),
]


def write(folder, outcomes=(), run=None):
    with ResultsWriter(folder, STARTED) as results:
        results.reserve(len(outcomes))
        for outcome in outcomes:
            results.add([outcome])
        results.finish(run or finished_run(outcomes))
    return json.loads(results.path.read_text())


def test_a_file_has_the_summary_and_the_description_of_its_run(tmp_path):
    run = finished_run(OUTCOMES)
    document = write(tmp_path, OUTCOMES, run)
    assert list(document) == ["schema_version", "results", "summary", "run"]
    assert document["schema_version"] == 1
    assert document["summary"] == run.summary()
    assert document["run"] == run.to_json()


def test_each_row_is_one_line_with_its_two_calls(tmp_path):
    document = write(tmp_path, OUTCOMES)
    assert [row["outcome"] for row in document["results"]] == [
        "successful",
        "partial_failure",
        "total_failure",
        "not_attempted",
    ]
    assert document["results"][1]["events_track"] == {
        "status": "unavailable",
        "http_status": 503,
        "code": None,
        "attempts": 5,
        "message": "",
        "event_id": PREPARED[2].event_id,
    }
    lines = next(tmp_path.glob("*.json")).read_text().splitlines()
    assert sum(line.startswith('{"customer_id"') for line in lines) == len(OUTCOMES)


def test_rows_that_come_together_are_written_as_if_they_came_one_by_one(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results:
        results.add([])
        results.add(OUTCOMES[:3])
        results.add([])
        results.add(OUTCOMES[3:])
        results.finish(finished_run(OUTCOMES))
    assert json.loads(results.path.read_text())["results"] == write(tmp_path, OUTCOMES)["results"]


def test_the_file_is_there_only_when_it_is_whole_and_only_for_its_owner(tmp_path):
    with ResultsWriter(tmp_path / "made", STARTED) as results:
        results.add(OUTCOMES[:1])
        assert not results.path.exists()
        results.finish(finished_run(OUTCOMES[:1]))
    assert results.path.name == "integration_results_20260113_143045.json"
    assert stat.S_IMODE(results.path.stat().st_mode) == 0o600
    assert list((tmp_path / "made").iterdir()) == [results.path]


def test_an_abandoned_run_leaves_nothing(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results:
        results.add(OUTCOMES[:1])
    assert list(tmp_path.iterdir()) == []


def test_runs_of_one_second_do_not_share_a_file(tmp_path):
    first = write(tmp_path)
    with ResultsWriter(tmp_path, STARTED) as running:
        third = write(tmp_path)
        running.finish(finished_run())
    names = sorted(path.name for path in tmp_path.iterdir())
    stem = "integration_results_20260113_143045"
    assert names == [f"{stem}.json", f"{stem}_2.json", f"{stem}_3.json"]
    assert first["run"]["id"] != third["run"]["id"]


def test_odd_keys_and_emails_do_not_stop_the_file(tmp_path):
    odd = RowOutcome(Decimal("1.5"), "\ud800👩\n", OK, OK)  # type: ignore[arg-type] # as a view may give
    (row,) = write(tmp_path, [odd])["results"]
    assert (row["customer_id"], row["email"]) == ("1.5", "\ud800👩\n")


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        ResultsWriter(tmp_path / "file", STARTED)


def test_a_dry_run_shows_the_bodies_of_the_calls_it_would_make(tmp_path):
    (row,) = write(tmp_path, [RowOutcome(1, "a@example.com", PLANNED, UNCHANGED, PREPARED[1])])[
        "results"
    ]
    assert row["outcome"] == "planned"
    assert row["users_update"]["payload"] == json.loads(PREPARED[1].user)
    assert row["events_track"]["status"] == "unchanged"


def test_a_disk_that_fills_up_is_told_at_once_and_at_the_end(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results:
        os.dup2(os.open("/dev/full", os.O_WRONLY), results._file.fileno())
        with pytest.raises(OSError, match="space"):
            results.add(OUTCOMES * 1000)
        results.add(OUTCOMES)
        with pytest.raises(OSError, match="space"):
            results.finish(finished_run(OUTCOMES))
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_found_before_anything_is_sent(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results, pytest.raises(OSError, match=r"large|space"):
        results.reserve(10**15)


def test_a_file_system_that_cannot_reserve_is_no_reason_to_stop(tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    assert write(tmp_path, OUTCOMES)["summary"]["total"] == len(OUTCOMES)


@pytest.mark.program
def test_a_run_does_not_load_what_only_the_report_needs():
    code = "import records.results_writer, sys; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
