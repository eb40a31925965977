"""The metrics file, read back with Prometheus's own parser."""

import os
import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from configuration.settings import HERE
from monitoring.metrics import write_metrics
from records.exit_statuses import ExitStatus
from records.outcomes import RowStatus
from records.run import RunOptions, RunRecord

FINISHED = datetime(2026, 1, 13, 14, 30, 45, 678900, tzinfo=UTC)
FINISHED_S = 1768314645.0
SYNC = "/srv/sync_state.sqlite3"
OUTCOMES = Counter(
    {
        RowStatus.SUCCESSFUL: 3,
        RowStatus.PARTIAL_FAILURE: 1,
        RowStatus.TOTAL_FAILURE: 2,
        RowStatus.FORGOTTEN: 4,
        RowStatus.NOT_ATTEMPTED: 1,
    }
)
ENDPOINTS = {
    "users/update": {
        "requests": 7,
        "answers": {"200": 4, "400": 2, "no answer": 1},
        "latency_seconds": {"p50": 0.1, "p90": 0.2, "p95": 0.3, "p99": 0.4, "max": 0.5},
    },
    "events/track": {"requests": 4, "answers": {"200": 4}, "latency_seconds": {}},
}


def make_run(status=ExitStatus.OK, outcomes=None, finished_at=FINISHED, **fields):
    """Return the record of a run that ended with *status*."""
    outcomes = outcomes or Counter()
    run = RunRecord(RunOptions(), "1.0.0", outcomes=outcomes, rows_read=outcomes.total(), **fields)
    if status > ExitStatus.NOT_ALL_DELIVERED:
        run.fail(status, "why")
    run.finish(None, "")
    run.finished_at, run.duration_seconds = finished_at, 12.50049
    assert run.exit_status is status
    return run


def make_mixed_run():
    """Return the record of a run whose rows ended in many ways."""
    return make_run(
        ExitStatus.NOT_ALL_DELIVERED, OUTCOMES, endpoints=ENDPOINTS, rate_limited_seconds=1.25049
    )


def values_of(labels):
    """Return the values of a metric's labels but the job's name, which each has."""
    assert labels["sync"] == SYNC
    return [value for name, value in labels.items() if name != "sync"]


def read(path):
    """Return {(name, label values...): value} of a textfile."""
    families = list(text_string_to_metric_families(path.read_text()))
    assert all(family.documentation and family.type == "gauge" for family in families)
    return {
        (sample.name.removeprefix("iterable_sync_"), *values_of(sample.labels)): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "iterable_sync.prom"


def test_every_number_of_a_run_is_there(path):
    write_metrics(path, make_mixed_run(), SYNC)
    assert read(path) == {
        ("last_run_timestamp_seconds",): FINISHED_S,
        ("last_success_timestamp_seconds",): 0,
        ("last_run_duration_seconds",): 12.5,
        ("last_run_exit_status",): 1,
        ("last_run_throttled_seconds",): 1.25,
        ("last_run_rows", "successful"): 3,
        ("last_run_rows", "partial_failure"): 1,
        ("last_run_rows", "total_failure"): 2,
        ("last_run_rows", "unchanged"): 0,
        ("last_run_rows", "forgotten"): 4,
        ("last_run_rows", "not_attempted"): 1,
        ("last_run_requests", "users/update", "200"): 4,
        ("last_run_requests", "users/update", "400"): 2,
        ("last_run_requests", "users/update", "no answer"): 1,
        ("last_run_requests", "events/track", "200"): 4,
        ("last_run_request_latency_seconds", "users/update", "p50"): 0.1,
        ("last_run_request_latency_seconds", "users/update", "p90"): 0.2,
        ("last_run_request_latency_seconds", "users/update", "p95"): 0.3,
        ("last_run_request_latency_seconds", "users/update", "p99"): 0.4,
        ("last_run_request_latency_seconds", "users/update", "max"): 0.5,
    }


def test_a_run_with_forgotten_people_is_a_success(path):
    write_metrics(path, make_run(outcomes=Counter({RowStatus.FORGOTTEN: 2})), SYNC)
    assert read(path)["last_success_timestamp_seconds",] == FINISHED_S


def test_the_time_of_the_last_success_outlives_failing_runs(path):
    write_metrics(path, make_run(), SYNC)
    later = FINISHED + timedelta(days=1)
    for _ in range(2):
        write_metrics(path, make_run(ExitStatus.STOPPED, finished_at=later), SYNC)
    after = read(path)
    assert after["last_success_timestamp_seconds",] == FINISHED_S
    assert after["last_run_timestamp_seconds",] == FINISHED_S + 86400
    write_metrics(path, make_run(finished_at=later), SYNC)
    assert read(path)["last_success_timestamp_seconds",] == FINISHED_S + 86400


@pytest.mark.parametrize("status", [ExitStatus.OK, ExitStatus.STOPPED])
def test_a_success_later_than_now_is_told_and_not_counted(path, status, caplog):
    """The clock was ahead: an alert on the last success could not fire until then."""
    write_metrics(path, make_run(finished_at=FINISHED.replace(year=2041)), SYNC)
    with caplog.at_level("WARNING"):
        write_metrics(path, make_run(status), SYNC)
    succeeded = status is ExitStatus.OK
    assert read(path)["last_success_timestamp_seconds",] == (FINISHED_S if succeeded else 0)
    told = (
        []
        if succeeded
        else [f"METRICS_FILE: the last success in {path} is later than now: not counted"]
    )
    assert [record.getMessage() for record in caplog.records] == told


def test_a_run_that_sent_nothing_has_no_endpoints(path):
    write_metrics(path, make_run(ExitStatus.DATABASE), SYNC)
    assert {name for name, *_ in read(path)} == {
        "last_run_timestamp_seconds",
        "last_success_timestamp_seconds",
        "last_run_duration_seconds",
        "last_run_exit_status",
        "last_run_throttled_seconds",
        "last_run_rows",
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe",
        b"iterable_sync_last_success_timestamp_seconds",
        b'iterable_sync_last_success_timestamp_seconds{sync="a"} one\n',
        b'iterable_sync_last_success_timestamp_seconds{sync="a"} nan\n',
    ],
)
def test_a_damaged_file_is_replaced(path, content):
    path.write_bytes(content)
    write_metrics(path, make_mixed_run(), SYNC)
    assert read(path)["last_success_timestamp_seconds",] == 0


def test_the_file_is_everyones_to_read_under_any_umask(path):
    before = os.umask(0o077)
    try:
        write_metrics(path, make_run(), SYNC)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_file_is_replaced_and_nothing_else_is_left(path):
    write_metrics(path, make_run(), SYNC)
    with path.open() as reader:
        before = path.read_text()
        write_metrics(path, make_mixed_run(), SYNC)
        assert reader.read() == before != path.read_text()
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_told_and_left_clean(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_metrics(tmp_path / "missing" / "iterable_sync.prom", make_run(), SYNC)
    (tmp_path / "folder.prom").mkdir()
    with pytest.raises(IsADirectoryError):
        write_metrics(tmp_path / "folder.prom", make_run(), SYNC)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.prom"]


def test_the_operators_guide_lists_every_metric(path):
    write_metrics(path, make_run(), SYNC)
    written = {family.name for family in text_string_to_metric_families(path.read_text())}
    guide = (HERE / "deploy" / "README.md").read_text(encoding="utf-8")
    assert written == set(re.findall(r"^- `(iterable_sync_\w+)", guide, flags=re.MULTILINE))
