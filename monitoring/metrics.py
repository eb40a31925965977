"""Writes what Prometheus may know about a run: a textfile for node_exporter."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from logger_config import get_logger
from records.atomic_file import write_atomically
from records.exit_statuses import ExitStatus
from records.outcomes import RowStatus
from records.run import RunRecord

logger = get_logger(__name__)

_LAST_SUCCESS = re.compile(
    r"^iterable_sync_last_success_timestamp_seconds\{.*\} (\d+(?:\.\d+)?(?:e\+\d+)?)$", re.M
)


def write_metrics(path: Path, run: RunRecord, sync: str) -> None:
    """Replace *path* by the metrics of a finished run, readable by everyone; never half written.

    *sync* names the job. It is a label of every metric, because node_exporter drops a second file
    with the same metrics.

    The time of the last success is the run's own if its exit status is 0, else that of the file
    before, else 0. There are counts and durations in it, no customers. node_exporter reads only
    files that end in .prom. Raises OSError if *path* cannot be read or written.
    """
    finished_s = (run.finished_at or run.started_at).replace(microsecond=0).timestamp()
    succeeded = run.exit_status is ExitStatus.OK
    success_s = finished_s if succeeded else _last_success_s(path, finished_s)
    registry = CollectorRegistry()
    for name, text, labels, values in _metrics(run, finished_s, success_s):
        gauge = Gauge(f"iterable_sync_{name}", text, ["sync", *labels], registry=registry)
        for each, value in values.items():
            gauge.labels(sync, *each).set(value)
    # Not prometheus_client's write_to_textfile(): a job that keeps its files to itself runs under a
    # strict umask, and that would leave the file to its owner alone.
    write_atomically(path, generate_latest(registry), mode=0o644)


def _metrics(
    run: RunRecord, finished_s: float, success_s: float
) -> Iterator[tuple[str, str, tuple[str, ...], Mapping[Any, float]]]:
    """Yield each metric: its name, what it is, its labels, and its numbers by their values."""
    text = "When the last run ended, in unix time."
    yield "last_run_timestamp_seconds", text, (), {(): finished_s}
    text = "When the last run with status 0 ended, or 0."
    yield "last_success_timestamp_seconds", text, (), {(): success_s}
    text = "How long the last run took."
    yield "last_run_duration_seconds", text, (), {(): round(run.duration_seconds, 3)}
    text = "Exit status of the last run; 0: nothing failed."
    yield "last_run_exit_status", text, (), {(): run.exit_status}
    text = "How long answers 429 held the last run back."
    yield "last_run_throttled_seconds", text, (), {(): round(run.rate_limited_seconds, 3)}
    text = "Rows of the last run by what became of them."
    # A dry run writes no metrics.
    rows = {(s,): run.outcomes[s] for s in RowStatus if s is not RowStatus.PLANNED}
    yield "last_run_rows", text, ("outcome",), rows
    text = "Requests of the last run by endpoint and HTTP status, repeated ones too."
    endpoints = run.endpoints.items()
    requests = {(name, status): n for name, e in endpoints for status, n in e.answers.items()}
    yield "last_run_requests", text, ("endpoint", "status"), requests
    text = "How long Iterable took to answer in the last run: percentiles and the longest."
    # Not "quantile": that label belongs to summaries, which add up over runs.
    latency = {(name, part): s for name, e in endpoints for part, s in e.latency_seconds.items()}
    yield "last_run_request_latency_seconds", text, ("endpoint", "statistic"), latency


def _last_success_s(path: Path, now_s: float) -> float:
    """Return what the file of an earlier run says; 0 if there is none or it is damaged.

    A time later than now is that of a clock which was ahead: an alert would wait for it.
    """
    if not path.is_file():
        return 0.0  # a pipe would wait for somebody who writes into it
    found = _LAST_SUCCESS.search(path.read_text(encoding="utf-8", errors="replace"))
    success_s = float(found[1]) if found else 0.0
    if success_s <= now_s:
        return success_s
    logger.warning("METRICS_FILE: the last success in %s is later than now: not counted", path)
    return 0.0
