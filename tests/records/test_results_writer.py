"""The results file is whole or absent, private, and one line of JSON for each row."""

import errno
import json
import os
import stat
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from records.outcomes import (
    NOT_SENT,
    PLANNED,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    Fault,
    RowOutcome,
)
from records.results_writer import BYTES_PER_ROW, ResultsWriter
from tests import schema
from tests.results import (
    BAD,
    DOWN,
    FILTERED,
    MISTYPED,
    OK,
    finished_run,
    forgotten,
    superseded,
)
from tests.rows import EVENT_FIELDS, PROFILE_FIELDS, make_prepared

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
        "fault": "iterable",
        "event_id": PREPARED[2].event_id,
    }
    lines = next(tmp_path.glob("*.json")).read_text().splitlines()
    assert sum(line.startswith('{"customer_id"') for line in lines) == len(OUTCOMES)


def test_a_call_with_which_nothing_is_wrong_says_no_more_than_before(tmp_path):
    write(tmp_path, OUTCOMES[:1])
    line = next(tmp_path.glob("*.json")).read_text().splitlines()[3]
    call = (
        '"status": "delivered", "http_status": 200, "code": "Success", "attempts": 1, "message": ""'
    )
    assert line == (
        '{"customer_id": 1, "email": "a@example.com", "outcome": "successful", '
        f'"users_update": {{{call}}}, '
        f'"events_track": {{{call}, "event_id": "{PREPARED[1].event_id}"}}}}'
    )


def test_a_call_says_where_the_reason_lies_and_which_fields_it_is_about(tmp_path):
    rows = [
        RowOutcome(1, "a@example.com", MISTYPED, NOT_SENT, PREPARED[1]),
        RowOutcome(2, "b@example.com", FILTERED, DOWN, PREPARED[2]),
    ]
    document = write(tmp_path, rows)
    mistyped, filtered = (row["users_update"] for row in document["results"])
    assert (mistyped["fault"], mistyped["fields"]) == ("field", {"plan_type": "date"})
    assert filtered["fields"] == {"plan_type": "filtered out", "candidate": "filtered out"}
    assert "fault" not in filtered
    assert document["results"][1]["events_track"]["fault"] == "iterable"
    assert document["summary"]["filtered_fields"] == {"users_update": ["candidate", "plan_type"]}
    schema.validate(document)


def test_forgotten_and_superseded_rows_are_written_as_what_they_are(tmp_path):
    document = write(tmp_path, [*forgotten(1), *superseded(1)])
    gone, second = document["results"]
    assert (gone["outcome"], gone["users_update"]["status"]) == ("forgotten", "forgotten")
    assert (second["outcome"], second["users_update"]["status"]) == ("successful", "superseded")
    assert document["summary"]["forgotten"] == 1
    schema.validate(document)


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
def test_a_row_takes_no_more_space_than_was_reserved_for_it(tmp_path, update, track):
    write(tmp_path, [RowOutcome(10**12, LONG, update, track, PREPARED[1])])
    line = next(tmp_path.glob("*.json")).read_text().splitlines()[3]
    assert 500 < len(f"{line},\n") <= BYTES_PER_ROW


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
    no_event = PREPARED[1]._replace(event=PREPARED[1].event._replace(body=b""))
    rows = [
        RowOutcome(1, "a@example.com", PLANNED, UNCHANGED, no_event),
        RowOutcome(2, "b@example.com", PLANNED, PLANNED, PREPARED[2]),
    ]
    first, second = write(tmp_path, rows)["results"]
    assert first["outcome"] == second["outcome"] == "planned"
    assert first["users_update"]["payload"] == json.loads(PREPARED[1].profile.body)
    assert first["events_track"]["status"] == "unchanged"
    assert "payload" not in first["events_track"]
    assert second["users_update"]["payload"] == json.loads(PREPARED[2].profile.body)
    assert second["events_track"]["payload"] == json.loads(PREPARED[2].event.body)


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
