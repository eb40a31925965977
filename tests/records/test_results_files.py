"""Results files are read back as they were written, whatever their size."""

import json
import os
from contextlib import ExitStack
from datetime import timedelta

import pytest

from records.results_files import (
    ResultsFileError,
    ResultsWriter,
    read_run,
    results_files,
    runs_in,
)
from records.run import RunOptions
from tests.results import (
    ENDPOINTS,
    LAST,
    delivered,
    filtered,
    forgotten,
    half_delivered,
    refused,
    save,
    superseded,
)
from tests.users import NOBODY, as_nobody, open_folder

STEM = "integration_results_2026010"
# From the oldest to the newest.
NAMES = [f"{STEM}1_235959.json", f"{STEM}2_000000.json", f"{STEM}3_000000.json"]
FOREIGN = [
    "integration_results_old.json",
    "integration_results_20260109.json",
    "my_integration_results_20260109_000000.json",
    f"{STEM}9_000000_x.json",
    f"{STEM}9_000000.json.bak",
    f".{STEM}9_000000.partial",
    "report.html",
]


def test_results_files_come_in_the_order_of_their_runs_and_nothing_else_is_one(tmp_path):
    for name in [*reversed(NAMES), *FOREIGN]:
        (tmp_path / name).touch()
    (tmp_path / f"{STEM}7_000000.json").mkdir()
    os.mkfifo(tmp_path / f"{STEM}9_000000.json")
    assert results_files(tmp_path) == [tmp_path / name for name in NAMES]
    assert results_files(tmp_path / "missing") == []


def test_a_file_that_cannot_be_read_stops_nothing():
    """As of a run by root, or of a restored backup."""
    with open_folder() as folder, ExitStack() as stack:
        for days, job in enumerate(("mine", "orders", "views")):
            save(folder, LAST + timedelta(days=days), delivered(1), job=job)
        files = results_files(folder)
        for path in files:
            path.chmod(0 if path == files[1] else 0o644)
        (partial := folder / f".{STEM}1_000000.partial").touch(0)
        if os.geteuid() == 0:  # root may read everything
            os.chown(folder, NOBODY, NOBODY)
            stack.enter_context(as_nobody())
        with ResultsWriter(folder, LAST), pytest.raises(PermissionError):
            files[1].read_bytes()
        assert partial.exists()
        assert [run.job for run in runs_in(folder)] == ["mine", "views"]
        folder.chmod(0o600)  # what is in it may not even be looked at
        assert results_files(folder) == []
        folder.chmod(0o700)


def test_the_latest_runs_of_a_folder_are_read(tmp_path):
    assert list(runs_in(tmp_path / "missing")) == []
    for days in range(3):
        save(tmp_path, LAST + timedelta(days=days), job=f"job {days}")
    assert [run.job for run in runs_in(tmp_path, latest=2)] == ["job 1", "job 2"]


def test_a_run_is_read_back_as_it_is(tmp_path):
    rows = [*delivered(3), *refused(2), *half_delivered(1), *forgotten(1), *filtered(1)]
    run = {"mode": "bulk", "limit": 9, "all": True, "error": "why", "query_sha256": "a" * 64}
    path = save(
        *(tmp_path, LAST, [*rows, *superseded(1)], 1),
        {"endpoints": ENDPOINTS, "requests": 6, "retries": 2, "rate_limited_seconds": 1.5},
        **(run | {"job": "orders.sqlite3", "max_refused_rows": 7, "duration_seconds": 12.5}),
    )
    document, read = json.loads(path.read_text()), read_run(path)
    assert read.to_json() == {"summary": document["summary"], "run": document["run"]}
    assert (read.file, read.started_at, read.is_trial) == (path, LAST, True)
    assert read.options == RunOptions(bulk=True, send_all=True, limit=9)


def test_refused_rows_within_the_limit_are_read_back(tmp_path):
    path = save(tmp_path, rows=[*delivered(2), *refused(1)], tolerated=1, max_refused_rows=5)
    run = read_run(path)
    assert (run.exit_status, run.tolerated, run.undelivered) == (0, 1, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no whole results file"),
        (b'{\n"schema_version": 1,\n"results": [\n{"customer_id"', "is no whole results file"),
        (b'{\n"schema_version": 2,\n"results": [\n],\n"summary": {}}', "with schema_version 1"),
        (b'{\n"schema_version": 1,\n"results": [\n],\n"summary": {}}', "has values that"),
        (b'{\n"schema_version": 1,\n"results": [\n],\n"summary": {"total"', "has values that"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, reason):
    (path := tmp_path / NAMES[0]).write_bytes(content)
    with pytest.raises(ResultsFileError, match=reason):
        read_run(path)
    path.unlink()
    with pytest.raises(ResultsFileError, match="cannot be read: No such file"):
        read_run(path)


@pytest.mark.parametrize(
    "run",
    [
        {"exit_status": 99},
        {"duration_seconds": -1},
        {"duration_seconds": float("inf")},
        {"started_at": "2026-01-01T00:00:00"},
    ],
)
def test_what_no_run_writes_is_damage_and_never_quoted(tmp_path, run):
    with pytest.raises(ResultsFileError, match="does not know") as caught:
        read_run(save(tmp_path, error="ann@example.com", **run))
    assert "ann@example.com" not in repr([caught.value, caught.value.__cause__])
