"""The results file: whole or absent, private, and its sums."""

import errno
import json
import os
import stat
import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from records.outcomes import NOT_SENT, PLANNED, UNCHANGED, CallOutcome, CallStatus, RowOutcome
from records.results_writer import STALE_S, ResultsWriter, Run, remove_old
from tests.rows import make_task

STARTED = datetime(2026, 1, 13, 14, 30, 45, tzinfo=UTC)
OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1, "no such field")
DOWN = CallOutcome(CallStatus.UNAVAILABLE, 503, None, 5)

TASKS = [make_task(number) for number in range(5)]

OUTCOMES = [
    RowOutcome(1, "a@example.com", OK, OK, TASKS[1]),
    RowOutcome(2, "b@example.com", OK, DOWN, TASKS[2]),
    RowOutcome(3, "c@example.com", BAD, NOT_SENT, TASKS[3]),
    RowOutcome(4, "d@example.com", NOT_SENT, NOT_SENT, attempted=False),
]
ENDPOINTS = {"users/update": {"requests": 5}, "events/track": {"requests": 4}}


def write(folder, outcomes=(), **run):
    with ResultsWriter(folder, STARTED) as results:
        results.reserve(len(outcomes))
        for outcome in outcomes:
            results.add([outcome])
        record = Run(version="1.0.0", rows_read=len(outcomes), complete=True, **run)
        results.finish(record, 1)
    return json.loads(results.path.read_text())


def test_the_summary_adds_up_and_counts_what_was_sent(tmp_path):
    assert write(tmp_path, OUTCOMES, rate_limited_seconds=1.23456, endpoints=ENDPOINTS, retries=4)[
        "summary"
    ] == {
        "total": 4,
        "successful": 1,
        "partial_failures": 1,
        "total_failures": 1,
        "unchanged": 0,
        "not_attempted": 1,
        "planned": 0,
        "users_update": {"delivered": 2, "refused": 1, "not_sent": 1},
        "events_track": {"delivered": 1, "unavailable": 1, "not_sent": 2},
        "requests": 9,
        "retries": 4,
        "rate_limited_seconds": 1.235,
        "endpoints": ENDPOINTS,
    }


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
        "event_id": TASKS[2].event_id,
    }
    lines = next(tmp_path.glob("*.json")).read_text().splitlines()
    assert sum(line.startswith('{"customer_id"') for line in lines) == len(OUTCOMES)


def test_the_run_is_described(tmp_path):
    document = write(tmp_path, [], error="something")
    assert document["schema_version"] == 1
    run = document["run"]
    assert set(run) == {
        *("id", "started_at", "finished_at", "duration_seconds", "complete", "exit_status"),
        "sending_seconds",
        *("error", "mode", "dry_run", "changed_only", "limit", "version", "query_sha256"),
    }
    assert (run["exit_status"], run["complete"], run["error"]) == (1, True, "something")
    assert datetime.fromisoformat(run["started_at"]) <= datetime.fromisoformat(run["finished_at"])


def test_the_file_is_there_only_when_it_is_whole_and_only_for_its_owner(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results:
        results.add(OUTCOMES[:1])
        assert not results.path.exists()
        results.finish(Run(version="1", rows_read=1), 0)
    assert results.path.name == "integration_results_20260113_143045.json"
    assert stat.S_IMODE(results.path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [results.path]


def test_an_abandoned_run_leaves_nothing(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results:
        results.add(OUTCOMES[:1])
    assert list(tmp_path.iterdir()) == []


def test_runs_of_one_second_do_not_share_a_file(tmp_path):
    first = write(tmp_path)
    with ResultsWriter(tmp_path, STARTED) as running:
        third = write(tmp_path)
        running.finish(Run(version="1"), 0)
    names = sorted(path.name for path in tmp_path.iterdir())
    stem = "integration_results_20260113_143045"
    assert names == [f"{stem}.json", f"{stem}_2.json", f"{stem}_3.json"]
    assert first["run"]["id"] != third["run"]["id"]


def test_the_sum_is_checked_against_the_rows_read(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results:
        results.add(OUTCOMES[:1])
        assert results.adds_up_to(1)
        assert not results.adds_up_to(2)


def test_odd_keys_and_emails_do_not_stop_the_file(tmp_path):
    odd = RowOutcome(Decimal("1.5"), "\ud800👩\n", OK, OK)  # type: ignore[arg-type] # as a view may give
    (row,) = write(tmp_path, [odd])["results"]
    assert (row["customer_id"], row["email"]) == ("1.5", "\ud800👩\n")


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        ResultsWriter(tmp_path / "file", STARTED)


def test_a_dry_run_shows_the_bodies_of_the_calls_it_would_make(tmp_path):
    (row,) = write(tmp_path, [RowOutcome(1, "a@example.com", PLANNED, UNCHANGED, TASKS[1])])[
        "results"
    ]
    assert row["outcome"] == "planned"
    assert row["users_update"]["payload"] == json.loads(TASKS[1].user)
    assert row["events_track"]["status"] == "unchanged"


def test_the_partial_file_of_a_killed_run_is_removed_and_that_of_a_living_run_is_not(tmp_path):
    dead = tmp_path / ".integration_results_20260101_000000.partial"
    dead.touch()
    with ResultsWriter(tmp_path, STARTED) as living:
        alive = next(path for path in tmp_path.glob(".*.partial") if path != dead)
        long_ago = time.time() - 2 * STALE_S
        os.utime(dead, (long_ago, long_ago))
        os.utime(alive, (long_ago, long_ago))
        write(tmp_path)
        assert alive.exists()
        assert not dead.exists()
        living.finish(Run(version="1"), 0)


def test_a_disk_that_fills_up_costs_the_file_but_not_the_counts(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results:
        os.dup2(os.open("/dev/full", os.O_WRONLY), results._file.fileno())
        with pytest.raises(OSError, match="space"):
            results.add(OUTCOMES * 1000)
        results.add(OUTCOMES)
        assert results.counts.total() == 1001 * len(OUTCOMES)
        with pytest.raises(OSError, match="space"):
            results.finish(Run(version="1"), 0)
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_found_before_anything_is_sent(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results, pytest.raises(OSError, match=r"large|space"):
        results.reserve(10**15)


def test_the_oldest_results_files_go_and_nothing_else(tmp_path):
    stem = "integration_results_2026010"
    names = [f"{stem}{day}_000000.json" for day in (1, 2)]
    names += [f"{stem}3_000000{suffix}.json" for suffix in ("", "_2", "_9", "_10")]
    others = ["integration_results_old.json", "x.json", f"{stem}1_000000.json.bak", "report.html"]
    for name in [*names, *others]:
        (tmp_path / name).touch()
    (tmp_path / f"{stem}0_000000.json").symlink_to(tmp_path / "x.json")
    remove_old(tmp_path, 0)
    assert len(list(tmp_path.iterdir())) == len(names) + len(others) + 1
    remove_old(tmp_path, 2)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*names[-2:], *others, f"{stem}0_000000.json"}
    remove_old(tmp_path, 5)
    assert left == {path.name for path in tmp_path.iterdir()}


def test_a_file_system_that_cannot_reserve_is_no_reason_to_stop(tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    assert write(tmp_path, OUTCOMES)["summary"]["total"] == len(OUTCOMES)
