"""The metrics file, read back with Prometheus's own parser."""

import os
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from configuration.settings import HERE
from monitoring.metrics import write_metrics

DOCUMENT = {
    "run": {"finished_at": "2026-01-13T14:30:45Z", "duration_seconds": 12.5, "id": "c0ffee"},
    "summary": {
        "total": 7,
        "successful": 3,
        "partial_failures": 1,
        "total_failures": 2,
        "unchanged": 0,
        "not_attempted": 1,
        "users_update": {"delivered": 4, "refused": 2, "not_sent": 1},
        "requests": 11,
        "rate_limited_seconds": 1.25,
        "endpoints": {
            "users/update": {
                "requests": 7,
                "answers": {"200": 4, "400": 2, "no answer": 1},
                "latency_seconds": {"p50": 0.1, "p90": 0.2, "p95": 0.3, "p99": 0.4, "max": 0.5},
            },
            "events/track": {"requests": 4, "answers": {"200": 4}, "latency_seconds": {}},
        },
    },
}
FINISHED_S = 1768314645.0


def read(path):
    """Return {(name, label values...): value} of a textfile."""
    families = list(text_string_to_metric_families(path.read_text()))
    assert all(family.documentation and family.type == "gauge" for family in families)
    return {
        (sample.name.removeprefix("iterable_sync_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "iterable_sync.prom"


def test_every_number_of_a_run_is_there(path):
    write_metrics(path, DOCUMENT, 1)
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


def test_the_time_of_the_last_success_outlives_failing_runs(path):
    write_metrics(path, DOCUMENT, 0)
    later = {**DOCUMENT, "run": {**DOCUMENT["run"], "finished_at": "2026-01-14T14:30:45Z"}}
    for _ in range(2):
        write_metrics(path, later, 4)
    after = read(path)
    assert after["last_success_timestamp_seconds",] == FINISHED_S
    assert after["last_run_timestamp_seconds",] == FINISHED_S + 86400
    write_metrics(path, later, 0)
    assert read(path)["last_success_timestamp_seconds",] == FINISHED_S + 86400


def test_a_run_that_sent_nothing_has_no_endpoints(path):
    summary = {name: n for name, n in DOCUMENT["summary"].items() if name != "endpoints"}
    write_metrics(path, {**DOCUMENT, "summary": summary}, 3)
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
        b"iterable_sync_last_success_timestamp_seconds{",
        b'iterable_sync_last_success_timestamp_seconds{a="} 1',
        b"iterable_sync_last_success_timestamp_seconds one\n",
        b"# TYPE iterable_sync_last_success_timestamp_seconds gauge\n",
        b"# TYPE iterable_sync_last_success_timestamp_seconds\n{{{}}}",
    ],
)
def test_a_damaged_file_is_replaced(path, content):
    path.write_bytes(content)
    write_metrics(path, DOCUMENT, 1)
    assert read(path)["last_success_timestamp_seconds",] == 0


def test_the_file_is_everyones_to_read_under_any_umask(path):
    before = os.umask(0o077)
    try:
        write_metrics(path, DOCUMENT, 0)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_file_is_replaced_and_nothing_else_is_left(path):
    write_metrics(path, DOCUMENT, 0)
    with path.open() as reader:
        before = path.read_text()
        write_metrics(path, DOCUMENT, 1)
        assert reader.read() == before != path.read_text()
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_told_and_left_clean(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_metrics(tmp_path / "missing" / "iterable_sync.prom", DOCUMENT, 0)
    (tmp_path / "folder.prom").mkdir()
    with pytest.raises(IsADirectoryError):
        write_metrics(tmp_path / "folder.prom", DOCUMENT, 0)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.prom"]


def test_the_operators_guide_lists_every_metric(path):
    write_metrics(path, DOCUMENT, 0)
    written = {family.name for family in text_string_to_metric_families(path.read_text())}
    guide = (HERE / "deploy" / "README.md").read_text(encoding="utf-8")
    assert written == set(re.findall(r"^\| `(iterable_sync_\w+)`", guide, flags=re.MULTILINE))
