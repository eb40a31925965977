"""The results file is whole or absent, private, and one line of JSON for each row."""

import errno
import fcntl
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from records.outcomes import NOT_SENT, PLANNED, UNCHANGED, CallOutcome, CallStatus, Fault
from records.results_files import LINE_BYTES, ResultsWriter, unfinished_runs
from tests import schema
from tests.results import (
    BAD,
    DOWN,
    FILTERED,
    MISTYPED,
    OK,
    ended,
    finished_run,
    forgotten,
    superseded,
    unfinished,
)
from tests.rows import EVENT_FIELDS, PROFILE_FIELDS, make_prepared, settled

STARTED = datetime(2026, 1, 13, 14, 30, 45, tzinfo=UTC)
STEM = "integration_results_20260113_1430"
PREPARED = [make_prepared(number) for number in range(5)]
OUTCOMES = [
    settled(PREPARED[1], OK, OK),
    settled(PREPARED[2], OK, DOWN),
    settled(PREPARED[3], BAD, NOT_SENT),
    ended(4, "d@example.com", NOT_SENT),
]


def write(folder, outcomes=(), run=None):
    """Write a results file, its rows in two parts, and return what is in it."""
    with ResultsWriter(folder, STARTED) as results:
        for part in (outcomes[:3], outcomes[3:3], outcomes[3:]):
            results.add(part)
        results.finish(run or finished_run(outcomes))
    document = json.loads(results.path.read_text())
    schema.validate(document)
    return document


def test_a_file_has_its_rows_then_the_summary_and_the_description_of_its_run(tmp_path):
    run = finished_run(OUTCOMES)
    document = write(tmp_path, OUTCOMES, run)
    outcomes = ["successful", "partial_failure", "total_failure", "not_attempted"]
    assert [row["outcome"] for row in document.pop("results")] == outcomes
    assert document == {"schema_version": 1, **run.to_json()}
    assert list(document) == ["schema_version", "summary", "run"]


def test_each_row_is_one_line_and_says_no_more_than_is_known(tmp_path):
    write(tmp_path, OUTCOMES)
    lines = next(tmp_path.glob("*.json")).read_text().splitlines()[3:7]
    _, second, _, last = (json.loads(line.rstrip(",")) for line in lines)
    call = {"status": "delivered", "http_status": 200, "code": "Success", "attempts": 1}
    down = {"status": "unavailable", "http_status": 503, "code": None, "attempts": 5}
    track = {"message": "", "fault": "iterable", "event_id": PREPARED[2].event_id}
    assert second == {
        "customer_id": 2,
        "email": "user2@example.com",
        "outcome": "partial_failure",
        "users_update": call | {"message": ""},
        "events_track": down | track,
    }
    assert last["events_track"]["event_id"] is None


def test_a_call_says_where_the_reason_lies_and_which_fields_it_is_about(tmp_path):
    rows = [
        settled(PREPARED[1], MISTYPED, NOT_SENT),
        settled(PREPARED[2], FILTERED, DOWN),
        *forgotten(1),
        *superseded(1),
    ]
    document = write(tmp_path, rows)
    mistyped, filtered, gone, second = (row["users_update"] for row in document["results"])
    assert (mistyped["fault"], mistyped["fields"]) == ("field", {"plan_type": "date"})
    assert filtered["fields"] == {"plan_type": "filtered out", "candidate": "filtered out"}
    assert "fault" not in filtered
    assert document["summary"]["filtered_fields"] == {"users_update": ["candidate", "plan_type"]}
    assert (gone["status"], second["status"]) == ("forgotten", "superseded")
    outcomes = [row["outcome"] for row in document["results"]]
    assert outcomes == ["total_failure", "partial_failure", "forgotten", "successful"]


LONG = "a" * 52 + "@example.com"
LONGEST = CallOutcome(
    *(CallStatus.REFUSED, 400, "RequestFieldsTypesMismatched", 10, "x" * 200, Fault.FIELD),
    (("recent_page_view", "boolean"), ("plan_type", "date")),
)


def filtered(*fields):
    pairs = tuple((field, "filtered out") for field in fields)
    return CallOutcome(CallStatus.DELIVERED, 200, "Success", 10, "", Fault.PROJECT, pairs)


@pytest.mark.parametrize(
    ("update", "track"),
    [(LONGEST, NOT_SENT), (OK, LONGEST), (filtered(*PROFILE_FIELDS), filtered(*EVENT_FIELDS))],
)
def test_a_row_takes_no_more_space_than_is_asked_for_it(tmp_path, update, track):
    write(tmp_path, [settled(make_prepared(10**12, email=LONG), update, track)])
    line = next(tmp_path.glob("*.json")).read_text().splitlines()[3]
    assert 500 < len(f"{line},\n") <= LINE_BYTES


def test_the_file_is_there_only_when_it_is_whole_and_only_for_its_owner(tmp_path):
    with ResultsWriter(tmp_path / "made", STARTED) as results:
        results.add(OUTCOMES[:1])
        assert not results.path.exists()
        (partial,) = (tmp_path / "made").iterdir()
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
        results.finish(finished_run(OUTCOMES[:1]))
    assert results.path.name == f"{STEM}45.json"
    assert stat.S_IMODE(results.path.stat().st_mode) == 0o600
    assert list((tmp_path / "made").iterdir()) == [results.path]
    with ResultsWriter(tmp_path / "other", STARTED) as abandoned:
        abandoned.add(OUTCOMES[:1])
    assert list((tmp_path / "other").iterdir()) == []


def test_runs_that_start_at_once_take_nothing_for_a_killed_runs_file(tmp_path):
    def begin(_):
        with ResultsWriter(tmp_path, STARTED) as results:
            results.finish(finished_run())
        return results.path

    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(begin, range(200)))
    assert sorted(tmp_path.iterdir()) == sorted(set(paths))
    assert len(set(paths)) == 200


def test_the_partial_file_of_a_killed_run_is_removed_and_that_of_a_living_run_is_not(tmp_path):
    odd = [tmp_path / ".integration_results_odd.partial", tmp_path / f".{STEM}99.partial"]
    for path in odd:
        path.touch()
    with ResultsWriter(tmp_path, STARTED) as alive:
        unfinished(tmp_path, STARTED.replace(day=1))
        found = [(run.started_at.day, run.alive) for run in unfinished_runs(tmp_path)]
        assert found == [(1, False), (13, True)]
        write(tmp_path)
        alive.finish(finished_run())
    assert sorted(tmp_path.glob(".*")) == sorted(odd)


def test_where_nothing_can_be_locked_a_run_is_taken_for_a_living_one(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    unfinished(tmp_path, STARTED)
    write(tmp_path)
    assert [run.alive for run in unfinished_runs(tmp_path)] == [True]


def test_odd_keys_and_emails_do_not_stop_the_file(tmp_path):
    odd = ended(Decimal("1.5"), "\ud800👩\n", OK, OK)  # as a view may give
    (row,) = write(tmp_path, [odd])["results"]
    assert (row["customer_id"], row["email"]) == ("1.5", "\ud800👩\n")


def test_a_dry_run_shows_the_bodies_of_the_calls_it_would_make(tmp_path):
    row = settled(PREPARED[1], PLANNED, UNCHANGED)
    (shown,) = write(tmp_path, [row])["results"]
    assert shown["outcome"] == "planned"
    assert shown["users_update"]["payload"] == json.loads(row.profile.body)
    assert "payload" not in shown["events_track"]


def test_a_disk_that_fills_up_is_told_at_once_then_no_more_and_at_the_end(tmp_path):
    with ResultsWriter(tmp_path, STARTED) as results:
        file = results._file.fileno()
        kept = os.dup(file)
        os.dup2(os.open("/dev/full", os.O_WRONLY), file)
        with pytest.raises(OSError, match="space"):
            results.add(OUTCOMES * 1000)
        results.add(OUTCOMES * 1000)
        os.dup2(kept, file)  # also if there is room again: some rows are lost
        with pytest.raises(OSError, match="space"):
            results.finish(finished_run(OUTCOMES))
    assert list(tmp_path.iterdir()) == []
