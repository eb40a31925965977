"""Writes what Prometheus may know about a run: a textfile for node_exporter."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from logger_config import get_logger
from records.atomic_file import write_atomically
from records.exit_statuses import ExitStatus
from records.outcomes import COUNTERS, RowStatus
from records.run import RunRecord

logger = get_logger(__name__)

_LAST_SUCCESS = re.compile(r"^iterable_sync_last_success_timestamp_seconds\{.*\} (\S+)$", re.M)


def write_metrics(path: Path, run: RunRecord, sync: str) -> None:
    """Replace *path* by the metrics of a finished run, readable by everyone; never half written.

    *sync* names the job. It is a label of every metric, because node_exporter drops a second file
    with the same metrics.

    The time of the last success is the run's own if its exit status is 0, else that of the file
    before, else 0. There are counts and durations in it, no customers. node_exporter reads only
    files that end in .prom.

    Raises:
        OSError: *path* cannot be read or written.

    """
    registry = CollectorRegistry()
    finished_s = (run.finished_at or run.started_at).replace(microsecond=0).timestamp()
    succeeded = run.exit_status is ExitStatus.OK
    success_s = finished_s if succeeded else _last_success_s(path, finished_s)
    _add_run(registry, sync, run, finished_s, success_s)
    _add_endpoints(registry, sync, run)
    # Not prometheus_client's write_to_textfile(): a job that keeps its files to itself runs under a
    # strict umask, and that would leave the file to its owner alone.
    write_atomically(path, generate_latest(registry), mode=0o644)


def _gauge(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"iterable_sync_{name}", text, ["sync", *labels], registry=registry)


def _add_run(
    registry: CollectorRegistry, sync: str, run: RunRecord, finished_s: float, success_s: float
) -> None:
    duration_s, throttled_s = round(run.duration_seconds, 3), round(run.rate_limited_seconds, 3)
    for name, text, value in (
        ("last_run_timestamp_seconds", "When the last run ended, in unix time.", finished_s),
        (
            "last_success_timestamp_seconds",
            "When the last run with status 0 ended, or 0.",
            success_s,
        ),
        ("last_run_duration_seconds", "How long the last run took.", duration_s),
        (
            "last_run_exit_status",
            "Exit status of the last run; 0: nothing failed.",
            run.exit_status,
        ),
        ("last_run_throttled_seconds", "How long answers 429 held the last run back.", throttled_s),
    ):
        _gauge(registry, name, text).labels(sync).set(value)
    text = "Rows of the last run by what became of them."
    rows = _gauge(registry, "last_run_rows", text, "outcome")
    for status in COUNTERS:
        if status is not RowStatus.PLANNED:  # a dry run writes no metrics
            rows.labels(sync, status).set(run.outcomes[status])


def _add_endpoints(registry: CollectorRegistry, sync: str, run: RunRecord) -> None:
    text = "Requests of the last run by endpoint and HTTP status, repeated ones too."
    requests = _gauge(registry, "last_run_requests", text, "endpoint", "status")
    text = "How long Iterable took to answer in the last run: percentiles and the longest."
    # Not "quantile": that label belongs to summaries, which add up over runs.
    latency = _gauge(registry, "last_run_request_latency_seconds", text, "endpoint", "statistic")
    for endpoint, numbers in run.endpoints.items():
        for status, count in numbers["answers"].items():
            requests.labels(sync, endpoint, status).set(count)
        for statistic, seconds in numbers["latency_seconds"].items():
            latency.labels(sync, endpoint, statistic).set(seconds)


def _last_success_s(path: Path, now_s: float) -> float:
    """Return what the file of an earlier run says; 0 if there is none or it is damaged.

    A time later than now is that of a clock which was ahead: an alert would wait for it.
    """
    if not path.is_file():
        return 0.0  # a pipe would wait for somebody who writes into it
    found = _LAST_SUCCESS.search(path.read_text(encoding="utf-8", errors="replace"))
    try:
        success_s = float(found[1]) if found else 0.0
    except ValueError:
        return 0.0
    if success_s <= now_s:
        return success_s
    logger.warning("METRICS_FILE: the last success in %s is later than now: not counted", path)
    return 0.0
