"""The models: what is published of them, and what they take when a file is read back."""

import json

import pytest
from jsonschema import Draft202012Validator

from records.exit_statuses import ExitStatus
from records.outcomes import COUNTERS, NOT_SENT, PLANNED, CallStatus, Fault, RowOutcome, RowStatus
from records.results_model import Endpoint, ResultRow, ResultsFile, Run, Summary, json_schema
from tests.results import (
    ENDPOINTS,
    FILTERED,
    MISTYPED,
    OK,
    delivered,
    forgotten,
    refused,
    save,
    superseded,
)
from tests.rows import make_prepared
from tools.documents import SAMPLE, SCHEMA

DEFINITIONS = json_schema()["$defs"]
# What a file need not have: a call only when there is something to say, a summary because earlier
# versions did not count it.
OPTIONAL = {
    "ResultRow": {"user_id"},
    "UsersUpdate": {"fault", "fields", "payload"},
    "EventsTrack": {"fault", "fields", "payload"},
    "Summary": {"forgotten", "filtered_fields"},
}


def test_the_published_schema_is_that_of_the_models():
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema(), "run: make docs"
    Draft202012Validator.check_schema(json_schema())


def test_the_words_of_the_schema_are_those_of_the_program():
    call = DEFINITIONS["UsersUpdate"]["properties"]
    assert call["status"]["enum"] == list(CallStatus)
    assert call["fault"]["enum"] == list(Fault)
    assert DEFINITIONS["ResultRow"]["properties"]["outcome"]["enum"] == list(RowStatus)
    # Without the status of a run that met another one: it writes no file.
    assert DEFINITIONS["Run"]["properties"]["exit_status"]["enum"] == [
        status for status in ExitStatus if status is not ExitStatus.BUSY
    ]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_field_is_described_and_nearly_all_must_be_there(name):
    fields = DEFINITIONS[name]["properties"]
    assert set(fields) - set(DEFINITIONS[name]["required"]) == OPTIONAL.get(name, set())
    described = [field for field in fields.values() if "description" in field or "$ref" in field]
    assert len(described) == len(fields)
    assert all("default" not in field for field in fields.values())


def test_the_summary_counts_every_outcome_and_says_how_many_there_are():
    summary = DEFINITIONS["Summary"]
    assert set(COUNTERS.values()) < set(summary["properties"])
    assert len(COUNTERS) == 7
    assert summary["description"] == "Counts. The seven outcomes add up to the total."


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema_version=2),
        lambda d: d["results"][0].update(outcome="lost"),
        lambda d: d["results"][0]["users_update"].update(http_status=99),
        lambda d: d["results"][0]["users_update"].update(payload=None),
        lambda d: d["results"][0]["users_update"].update(fault=None),
        lambda d: d["results"][0]["users_update"].update(fault="moon"),
        lambda d: d["results"][0]["users_update"].update(fields=None),
        lambda d: d["results"][0]["users_update"].update(fields={"plan_type": 1}),
        lambda d: d["results"][0]["events_track"].pop("event_id"),
        lambda d: d["results"][0]["events_track"].update(event_id="x"),
        lambda d: d["summary"].update(total=-1),
        lambda d: d["summary"].update(forgotten=-1),
        lambda d: d["summary"].update(filtered_fields={"users/update": ["plan_type"]}),
        lambda d: d["summary"].update(filtered_fields={"users_update": "plan_type"}),
        lambda d: d["summary"]["users_update"].update(lost=1),
        lambda d: d["summary"]["endpoints"]["users/update"]["answers"].update(none=1),
        lambda d: d["summary"]["endpoints"]["users/update"]["latency_seconds"].update(p75=1),
        lambda d: d["run"].update(exit_status=75),
        lambda d: d["run"].update(mode="slow"),
        lambda d: d["run"].update(limit=0),
        lambda d: d["run"].update(started_at="yesterday"),
        lambda d: d["run"].pop("sending_seconds"),
    ],
)
def test_the_schema_is_strict_where_reading_is_not(change):
    sample = json.loads(SAMPLE.read_text(encoding="utf-8"))
    schema = Draft202012Validator(json_schema())
    assert schema.is_valid(sample)
    change(sample)
    assert not schema.is_valid(sample)


def test_what_a_run_writes_is_read_back_as_it_is(tmp_path):
    planned = RowOutcome(1, "a@example.com", PLANNED, PLANNED, make_prepared(1))
    mistyped = RowOutcome(2, "b@example.com", MISTYPED, NOT_SENT)
    filtered = RowOutcome(3, "c@example.com", FILTERED, OK)
    others = [mistyped, filtered, *forgotten(1), *superseded(1)]
    path = save(tmp_path, rows=[*delivered(2), *refused(1), planned, *others], status=1)
    document = json.loads(path.read_text())
    document["summary"]["endpoints"] = ENDPOINTS
    assert ResultsFile.model_validate(document).model_dump(exclude_unset=True) == document


def test_an_older_file_lacks_fields_and_a_newer_one_has_more():
    run = Run.model_validate({"started_at": "2026-01-13T14:30:45Z", "new": 1})
    assert (run.exit_status, run.limit, run.mode, run.error) == (None, None, "per-user", None)
    assert Summary.model_validate({"new": 1}) == Summary()
    assert (Summary().forgotten, Summary().filtered_fields) == (0, {})


def test_a_file_of_an_earlier_version_keeps_to_the_schema():
    sample = json.loads(SAMPLE.read_text(encoding="utf-8"))
    for name in OPTIONAL["Summary"]:
        sample["summary"].pop(name, None)
    assert Draft202012Validator(json_schema()).is_valid(sample)


@pytest.mark.parametrize(
    "odd", [None, True, -1, 10**400, 1e12, float("inf"), float("nan"), "1", [], {}, "\ud800"]
)
def test_a_value_of_no_use_counts_as_missing(odd):
    assert Run.model_validate({"duration_seconds": odd, "limit": odd, "exit_status": odd}) == Run()
    assert Summary.model_validate({"total": odd, "rate_limited_seconds": odd}) == Summary()
    assert Endpoint.model_validate({"requests": odd, "answers": {"200": odd}}) == Endpoint()


def test_the_other_values_are_kept():
    run = Run.model_validate({"duration_seconds": "long", "limit": 3, "error": "the server"})
    assert (run.duration_seconds, run.limit, run.error) == (0.0, 3, "the server")


def test_words_of_a_later_version_are_taken_as_they_are():
    run = Run.model_validate({"mode": "slow", "exit_status": 99})
    assert (run.mode, run.exit_status) == ("slow", 99)
    call = {"status": "lost", "fault": "moon"}
    row = {"outcome": "lost", "users_update": call, "events_track": call}
    read = ResultRow.model_validate(row).users_update
    assert (read.status, read.fault) == ("lost", "moon")


@pytest.mark.parametrize("missing", ["outcome", "users_update", "events_track"])
def test_a_row_without_what_says_how_it_ended_is_damaged(missing):
    call = {"status": "refused"}
    row = {"outcome": "total_failure", "users_update": call, "events_track": call}
    ResultRow.model_validate(row)
    with pytest.raises(ValueError, match=missing):
        ResultRow.model_validate({name: row[name] for name in row if name != missing})
    with pytest.raises(ValueError, match=missing):
        ResultRow.model_validate({**row, missing: []})
