"""The metrics file, read back with Prometheus's own parser."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from configuration.settings import HERE
from monitoring.metrics import write_metrics
from records.exit_statuses import ExitStatus
from records.outcomes import RowStatus
from records.run import Endpoint, RunOptions, RunRecord

FINISHED = datetime(2026, 1, 13, 14, 30, 45, 678900, tzinfo=UTC)
FINISHED_S = 1768314645.0
SYNC = "/srv/sync_state.sqlite3"
LATENCY = {"p50": 0.1, "p90": 0.2, "p95": 0.3, "p99": 0.4, "max": 0.5}
SUCCESS = ("last_success_timestamp_seconds",)


def make_run(status=ExitStatus.OK, outcomes=None, finished_at=FINISHED, **fields):
    """Return the record of a run that ended with *status*."""
    outcomes = Counter(outcomes or {})
    run = RunRecord(RunOptions(), "1.0.0", outcomes=outcomes, rows_read=outcomes.total(), **fields)
    if status > ExitStatus.NOT_ALL_DELIVERED:
        run.fail(status, "why")
    run.finish(None, "")
    run.finished_at, run.duration_seconds = finished_at, 12.50049
    assert run.exit_status is status
    return run


def read(path):
    """Return {(name, the values of its labels without the job's name): value} of a textfile."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        assert family.type == "gauge"
        for sample in family.samples:
            assert sample.labels.pop("sync") == SYNC
            name = sample.name.removeprefix("iterable_sync_")
            found[name, *sample.labels.values()] = sample.value
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "iterable_sync.prom"


def test_every_number_of_a_run_is_there(path):
    rows = {"successful": 3, "partial_failure": 1, "total_failure": 2, "not_attempted": 1}
    endpoints = {
        "users/update": Endpoint(7, {"200": 4, "400": 2, "no answer": 1}, LATENCY),
        "events/track": Endpoint(4, {"200": 4}, {}),
    }
    of_rows = {RowStatus(name): number for name, number in rows.items()}
    run = make_run(
        ExitStatus.NOT_ALL_DELIVERED, of_rows, endpoints=endpoints, rate_limited_seconds=1.25049
    )
    write_metrics(path, run, SYNC)
    rows |= {"unchanged": 0, "forgotten": 0}
    latency = ("last_run_request_latency_seconds", "users/update")
    expected: dict[tuple[str, ...], float] = {
        ("last_run_timestamp_seconds",): FINISHED_S,
        SUCCESS: 0,
        ("last_run_duration_seconds",): 12.5,
        ("last_run_exit_status",): 1,
        ("last_run_throttled_seconds",): 1.25,
        **{("last_run_rows", name): number for name, number in rows.items()},
        ("last_run_requests", "users/update", "200"): 4,
        ("last_run_requests", "users/update", "400"): 2,
        ("last_run_requests", "users/update", "no answer"): 1,
        ("last_run_requests", "events/track", "200"): 4,
        **{(*latency, name): seconds for name, seconds in LATENCY.items()},
    }
    assert read(path) == expected


def test_the_time_of_the_last_success_outlives_failing_runs(path):
    write_metrics(path, make_run(outcomes={RowStatus.FORGOTTEN: 2}), SYNC)
    later = FINISHED + timedelta(days=1)
    for finished_at in (FINISHED, later):
        write_metrics(path, make_run(ExitStatus.STOPPED, finished_at=finished_at), SYNC)
    after = read(path)
    assert after[SUCCESS] == FINISHED_S
    assert after["last_run_timestamp_seconds",] == FINISHED_S + 86400
    write_metrics(path, make_run(finished_at=later), SYNC)
    assert read(path)[SUCCESS] == FINISHED_S + 86400


def test_a_success_later_than_now_is_told_and_not_counted(path, warned):
    """The clock was ahead: an alert on the last success could not fire until then."""
    write_metrics(path, make_run(finished_at=FINISHED.replace(year=2041)), SYNC)
    write_metrics(path, make_run(ExitStatus.STOPPED), SYNC)
    assert read(path)[SUCCESS] == 0
    assert warned == [f"METRICS_FILE: the last success in {path} is later than now: not counted"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff\xfe",
        b'iterable_sync_last_success_timestamp_seconds{sync="a"} one\n',
        b'iterable_sync_last_success_timestamp_seconds{sync="a"} nan\n',
    ],
)
def test_a_damaged_file_is_replaced_and_everyones_to_read(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    write_metrics(path, make_run(ExitStatus.DATABASE), SYNC)
    assert read(path)[SUCCESS] == 0
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_operators_guide_lists_every_metric(path):
    write_metrics(path, make_run(), SYNC)
    written = {family.name for family in text_string_to_metric_families(path.read_text())}
    guide = (HERE / "deploy" / "README.md").read_text(encoding="utf-8")
    assert written == set(re.findall(r"^- `(iterable_sync_\w+)", guide, flags=re.MULTILINE))
