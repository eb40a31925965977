"""Writes the metrics of a run for Prometheus: a textfile for node_exporter."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from logger_config import get_logger
from records.exit_statuses import ExitStatus
from records.files import write_atomically
from records.outcomes import RowStatus
from records.run import RunRecord

logger = get_logger(__name__)

_LAST_SUCCESS = re.compile(
    r"^iterable_sync_last_success_timestamp_seconds\{.*\} (\d+(?:\.\d+)?(?:e\+\d+)?)$", re.M
)


def write_metrics(path: Path, run: RunRecord, sync: str) -> None:
    """Replace *path*, which must end in .prom, by the metrics of a finished run, for all to read.

    *sync* names the job. It is a label of every metric, because node_exporter drops a second file
    with the same metrics. The time of the last success is the run's own if its exit status is 0,
    else that of the file before, else 0. Raises OSError if *path* cannot be read or written.
    """
    finished_s = (run.finished_at or run.started_at).replace(microsecond=0).timestamp()
    succeeded = run.exit_status is ExitStatus.OK
    success_s = finished_s if succeeded else _last_success_s(path, finished_s)
    # Not prometheus_client's write_to_textfile(): a job that keeps its files to itself runs under a
    # strict umask, and that would leave the file to its owner alone.
    write_atomically(path, generate_latest(_metrics(run, sync, finished_s, success_s)), mode=0o644)


def _metrics(run: RunRecord, sync: str, finished_s: float, success_s: float) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"iterable_sync_{name}", text, ["sync", *labels], registry=registry)

    duration_s, throttled_s = round(run.duration_seconds, 3), round(run.rate_limited_seconds, 3)
    for name, value, text in (
        ("last_run_timestamp_seconds", finished_s, "When the last run ended, in unix time."),
        ("last_success_timestamp_seconds", success_s, "When the last run with status 0 ended."),
        ("last_run_duration_seconds", duration_s, "Duration of the last run."),
        ("last_run_exit_status", run.exit_status, "Exit status of the last run."),
        ("last_run_throttled_seconds", throttled_s, "Time that answers 429 cost the last run."),
    ):
        gauge(name, text).labels(sync).set(value)
    rows = gauge("last_run_rows", "Rows of the last run by outcome.", "outcome")
    for status in RowStatus:
        if status is not RowStatus.PLANNED:  # a dry run writes no metrics
            rows.labels(sync, status).set(run.outcomes[status])
    text = "Requests of the last run by endpoint and HTTP status, retries included."
    requests = gauge("last_run_requests", text, "endpoint", "status")
    text = "Response times of the last run: percentiles and the longest."
    # Not "quantile": that label belongs to summaries, which add up over runs.
    latency = gauge("last_run_request_latency_seconds", text, "endpoint", "statistic")
    for name, endpoint in run.endpoints.items():
        for answer, number in endpoint.answers.items():
            requests.labels(sync, name, answer).set(number)
        for part, seconds in endpoint.latency_seconds.items():
            latency.labels(sync, name, part).set(seconds)
    return registry


def _last_success_s(path: Path, now_s: float) -> float:
    """Return the time in an earlier run's file; 0 if there is none or it is damaged.

    A time later than now is not counted: the clock was ahead, and an alert would wait for it.
    """
    if not path.is_file():
        return 0.0  # reading a pipe would block
    found = _LAST_SUCCESS.search(path.read_text(encoding="utf-8", errors="replace"))
    success_s = float(found[1]) if found else 0.0
    if success_s <= now_s:
        return success_s
    logger.warning("METRICS_FILE: the last success in %s is later than now: not counted", path)
    return 0.0
