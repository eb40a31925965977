"""The published JSON Schema of the results file."""

import json

import pytest
from jsonschema import Draft202012Validator

from records.exit_statuses import ExitStatus
from records.outcomes import COUNTERS, CallStatus, Fault, RowStatus
from records.results_files import read_run
from tests import schema
from tools.documents import SAMPLE

DEFINITIONS = schema.PUBLISHED["$defs"]


def test_the_words_of_the_schema_are_those_of_the_program():
    Draft202012Validator.check_schema(schema.PUBLISHED)
    assert DEFINITIONS["status"]["enum"] == list(CallStatus)
    assert DEFINITIONS["fault"]["enum"] == list(Fault)
    assert DEFINITIONS["row"]["properties"]["outcome"]["enum"] == list(RowStatus)
    assert list(COUNTERS) == list(RowStatus)
    assert set(COUNTERS.values()) < set(DEFINITIONS["summary"]["properties"])
    assert DEFINITIONS["run"]["properties"]["exit_status"]["enum"] == [
        int(status) for status in ExitStatus if status is not ExitStatus.BUSY
    ]


def described(field):
    """Whether *field*, or the definition that it refers to, has a description."""
    return "description" in field or described(DEFINITIONS[field["$ref"].rpartition("/")[2]])


def test_every_field_is_described():
    parts = [schema.PUBLISHED, *DEFINITIONS.values()]
    fields = [field for part in parts for field in part.get("properties", {}).values()]
    assert len(fields) > 50
    assert all(map(described, fields))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema_version=2),
        lambda d: d["results"][0]["users_update"].update(http_status=99),
        lambda d: d["results"][0]["events_track"].pop("event_id"),
        lambda d: d["summary"].update(filtered_fields={"users/update": ["plan_type"]}),
        lambda d: d["summary"]["users_update"].update(lost=1),
        lambda d: d["summary"]["endpoints"]["users/update"]["answers"].update(none=1),
        lambda d: d["run"].update(started_at="yesterday"),
    ],
)
def test_the_schema_is_strict(change):
    sample = json.loads(SAMPLE.read_text(encoding="utf-8"))
    validator = Draft202012Validator(schema.PUBLISHED)
    assert validator.is_valid(sample)
    change(sample)
    assert not validator.is_valid(sample)


def test_the_sample_is_read_back():
    assert read_run(SAMPLE).outcomes[RowStatus.SUCCESSFUL] == 3
