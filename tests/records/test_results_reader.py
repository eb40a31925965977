"""Results files are read back, whatever their size and layout."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from records.outcomes import RowStatus
from records.results_reader import (
    WHOLE_FILE_BYTES,
    ResultsFileError,
    read_failed_rows,
    read_run,
)
from tests.results import (
    ENDPOINTS,
    JSON,
    LAST,
    MISTYPED,
    damage_second_row,
    delivered,
    failing,
    filtered,
    forgotten,
    half_delivered,
    refused,
    save,
)


def test_a_run_is_read_as_it_was(tmp_path):
    rows = [*delivered(3), *refused(2), *half_delivered(1)]
    path = save(tmp_path, rows=rows, status=1, summary={"endpoints": ENDPOINTS}, limit=6)
    run = read_run(path)
    assert (run.path, run.started_at, run.exit_status, run.limit) == (path, LAST, 1, 6)
    assert {status: count for status, count in run.counts.items() if count} == {
        RowStatus.SUCCESSFUL: 3,
        RowStatus.TOTAL_FAILURE: 2,
        RowStatus.PARTIAL_FAILURE: 1,
    }
    assert (run.rows, run.failed, run.undelivered, run.counts_for_health) == (6, 3, 3, False)
    assert run.endpoints["users/update"].latency_seconds["p99"] == 0.5


def test_forgotten_rows_are_counted_and_are_no_failures(tmp_path):
    path = save(tmp_path, rows=[*delivered(3), *forgotten(2)])
    run = read_run(path)
    assert run.counts[RowStatus.FORGOTTEN] == 2
    assert (run.failed, run.undelivered) == (0, 0)
    assert list(read_failed_rows(path)) == []


def test_filtered_fields_and_the_query_are_read(tmp_path):
    run = read_run(save(tmp_path, rows=filtered(1), query_sha256="a" * 64))
    assert run.filtered_fields == {"users_update": ["candidate", "plan_type"]}
    assert run.query_sha256 == "a" * 64


def test_a_file_of_an_earlier_version_has_none_of_them(tmp_path):
    path = save(tmp_path, rows=[*delivered(1), *refused(1)], status=1)
    document = json.loads(path.read_text())
    del document["summary"]["forgotten"], document["summary"]["filtered_fields"]
    del document["results"][1]["users_update"]["fault"]
    path.write_text(json.dumps(document))
    run = read_run(path)
    assert (run.counts[RowStatus.FORGOTTEN], run.filtered_fields) == (0, {})
    (row,) = read_failed_rows(path)
    assert (row.fault, row.fields) == ("", ())


def test_a_failed_row_says_where_the_reason_lies(tmp_path):
    path = save(tmp_path, rows=failing(MISTYPED), status=1)
    (row,) = read_failed_rows(path)
    assert (row.fault, row.fields) == ("field", (("plan_type", "date"),))


def test_a_dry_run_of_an_older_file_has_planned_rows(tmp_path):
    path = save(tmp_path, summary={"total": 7}, dry_run=True)
    assert read_run(path).counts[RowStatus.PLANNED] == 7


def test_a_file_in_another_layout_says_the_same(tmp_path):
    rows = [*delivered(2), *refused(3), *half_delivered(1)]
    path = save(tmp_path, rows=rows, status=1, summary={"endpoints": ENDPOINTS})
    run, failed = read_run(path), list(read_failed_rows(path))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    assert read_run(path) == run
    assert list(read_failed_rows(path)) == failed
    assert [row.outcome for row in failed] == ["total_failure"] * 3 + ["partial_failure"]
    assert [row.call for row in failed] == ["users/update"] * 3 + ["events/track"]


def test_rows_that_did_not_fail_are_not_even_parsed(tmp_path):
    path = save(tmp_path, rows=[*delivered(1), *refused(1)], status=1)
    path.write_text(path.read_text().replace('{"customer_id": 0, "email": "user0', "damaged", 1))
    assert len(list(read_failed_rows(path))) == 1


def test_an_email_that_quotes_a_field_hides_no_failure(tmp_path):
    path = save(tmp_path, rows=refused(1, '"outcome": "successful"'), status=1)
    assert [row.email for row in read_failed_rows(path)] == ['"outcome": "successful"']


def test_texts_without_an_end_are_cut(tmp_path):
    path = save(tmp_path, rows=refused(1, "x" * 1000), status=1, error="y" * 1000)
    assert read_run(path).error == "y" * 300
    assert [row.email for row in read_failed_rows(path)] == ["x" * 300]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a whole results file"),
        (b'{\n"schema_version": 1,\n"results": [\n{"customer_id"', "was it cut off?"),
        (b"\x00\xff\xfe", "not a whole results file"),
        (b"[" * 100_000, "not a whole results file"),
        (b"[]", "is not a results file"),
        (b'{"schema_version": 1}', "it has no run"),
        (b'{"schema_version": 1, "run": {}, "summary": []}', "it has no summary"),
        (b'{"schema_version": 2, "run": {}, "summary": {}}', "has schema_version 2"),
        (b'{"run": {}, "summary": {}}', "has schema_version None"),
        (b'{"schema_version": 1, "run": {}, "summary": {}}', "not a whole results file"),
        (b'{"x": "' + b"x" * WHOLE_FILE_BYTES, "is large, and cut off or not laid out"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, reason):
    path = tmp_path / "integration_results_20260302_000000.json"
    path.write_bytes(content)
    with pytest.raises(ResultsFileError, match=reason.replace("?", r"\?")):
        read_run(path)


def test_a_file_that_is_gone_cannot_be_read(tmp_path):
    with pytest.raises(ResultsFileError, match="cannot be read: No such file"):
        read_run(tmp_path / "missing")
    with pytest.raises(ResultsFileError, match="cannot be read: No such file"):
        next(read_failed_rows(tmp_path / "missing"))


def test_the_rows_before_a_damaged_one_are_read(tmp_path):
    path = save(tmp_path, rows=refused(3), status=1)
    damage_second_row(path)
    rows = read_failed_rows(path)
    assert next(rows).customer_id == "0"
    with pytest.raises(ResultsFileError, match="has a damaged row"):
        next(rows)


ROW_FIELDS = dict.fromkeys(("customer_id", "email"), JSON)
CALL_FIELDS = dict.fromkeys(("http_status", "code", "attempts", "message", "fault", "fields"), JSON)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=ROW_FIELDS), st.fixed_dictionaries({}, optional=CALL_FIELDS)
)
def test_whatever_stands_in_a_failed_row_it_is_read(tmp_path_factory, fields, call):
    path = tmp_path_factory.mktemp("odd") / "file.json"
    row = {"outcome": "total_failure", "events_track": {"status": "not_sent"}, **fields}
    row["users_update"] = {"status": "refused", **call}
    path.write_text(json.dumps({"schema_version": 1, "results": [row]}))
    assert [row.status for row in read_failed_rows(path)] == ["refused"]
