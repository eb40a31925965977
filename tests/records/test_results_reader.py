"""Results files are read back as they were written, whatever their size."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from records.outcomes import CallOutcome, CallStatus, RowStatus
from records.results_reader import ResultsFileError, read_failed_rows, read_run
from records.run import RunOptions
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
    superseded,
)

LAST_LINE = '"run": {'


def replaced(path, **fields):
    """Replace *fields* of the run, or of the summary, in a results file; None removes one."""
    head, mark, tail = path.read_text().partition('\n],\n"summary": ')
    document = json.loads('{"summary": ' + tail)
    for part in document.values():
        for name in fields.keys() & part.keys():
            if fields[name] is None:
                del part[name]
            else:
                part[name] = fields[name]
    texts = (json.dumps(document[name], indent=2) for name in ("summary", "run"))
    path.write_text(f"{head}{mark}{next(texts)},\n{LAST_LINE[:-1]}{next(texts)}\n}}\n")
    return path


def test_a_run_is_read_back_as_it_is(tmp_path):
    rows = [*delivered(3), *refused(2), *half_delivered(1), *forgotten(1), *filtered(1)]
    run = {"mode": "bulk", "limit": 9, "all": True, "error": "why", "query_sha256": "a" * 64}
    path = save(
        *(tmp_path, LAST, [*rows, *superseded(1)], 1),
        {"endpoints": ENDPOINTS, "requests": 6, "retries": 2, "rate_limited_seconds": 1.5},
        **(run | {"job": "orders.sqlite3", "max_refused_rows": 7, "duration_seconds": 12.5}),
    )
    document, read = json.loads(path.read_text()), read_run(path)
    assert (read.summary(), read.to_json()) == (document["summary"], document["run"])
    assert (read.file, read.started_at, read.is_trial) == (path, LAST, True)
    assert read.options == RunOptions(bulk=True, send_all=True, limit=9)


def test_refused_rows_within_the_limit_are_read_back(tmp_path):
    path = save(tmp_path, rows=[*delivered(2), *refused(1)], tolerated=1, max_refused_rows=5)
    run = read_run(path)
    assert (run.exit_status, run.tolerated, run.undelivered) == (0, 1, 1)


def test_a_failed_row_is_read_back_as_it_is(tmp_path):
    rows = [*failing(MISTYPED), *half_delivered(1), *refused(1, '"outcome": "successful"')]
    path = save(tmp_path, rows=[*delivered(2), *rows, *forgotten(1)], status=1)
    assert list(read_failed_rows(path)) == rows


def test_a_file_of_an_earlier_version_lacks_some_fields(tmp_path):
    path = save(tmp_path, rows=[*delivered(1), *refused(1)], status=1)
    line = path.read_text()
    path.write_text(line.replace(', "fault": "row"', ""))
    newer = ("forgotten", "filtered_fields", "job", "tolerated", "max_refused_rows", "all")
    run = read_run(replaced(path, **dict.fromkeys(newer)))
    assert (run.outcomes[RowStatus.FORGOTTEN], run.filtered_fields, run.job) == (0, {}, "")
    (row,) = read_failed_rows(path)
    assert row.users_update == CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1, "no such field")


def test_rows_that_did_not_fail_are_not_even_parsed(tmp_path):
    path = save(tmp_path, rows=[*delivered(1), *refused(1)], status=1)
    path.write_text(path.read_text().replace('{"customer_id": 0, "email": "user0', "damaged", 1))
    assert len(list(read_failed_rows(path))) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no whole results file"),
        (b'{\n"schema_version": 1,\n"results": [\n{"customer_id"', "is no whole results file"),
        (b"\x00\xff\xfe", "is no whole results file"),
        (b'{"schema_version": 1, "run": {}, "summary": {}}', "as the job writes it"),
        (b'{\n"schema_version": 2,\n"results": [\n],\n"summary": {}}', "has schema_version 2"),
        (b'{\n"schema_version": 1,\n"results": [\n],\n"summary": {}}', "has values that"),
        (b'{\n"schema_version": 1,\n"results": [\n],\n"summary": {"total"', "has values that"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, reason):
    path = tmp_path / "integration_results_20260302_000000.json"
    path.write_bytes(content)
    with pytest.raises(ResultsFileError, match=reason):
        read_run(path)


def test_a_file_that_is_gone_cannot_be_read(tmp_path):
    with pytest.raises(ResultsFileError, match="cannot be read: No such file"):
        read_run(tmp_path / "missing")
    with pytest.raises(ResultsFileError, match="cannot be read: No such file"):
        next(read_failed_rows(tmp_path / "missing"))


@pytest.mark.parametrize("status", [99, "0", {}])
def test_an_unknown_exit_status_is_not_taken_for_success(tmp_path, status):
    with pytest.raises(ResultsFileError, match="does not know"):
        read_run(save(tmp_path, exit_status=status))


def test_the_rows_before_a_damaged_one_are_read(tmp_path):
    path = save(tmp_path, rows=refused(3), status=1)
    damage_second_row(path)
    rows = read_failed_rows(path)
    assert next(rows).customer_id == 0
    with pytest.raises(ResultsFileError, match="has a damaged row"):
        next(rows)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["total", "endpoints", "limit", "started_at"]), JSON))
def test_whatever_stands_in_a_field_the_file_is_read_or_said_to_be_damaged(
    tmp_path_factory, fields
):
    path = replaced(save(tmp_path_factory.mktemp("odd")), **fields)
    with suppress(ResultsFileError):
        assert read_run(path).rows_read >= 0
