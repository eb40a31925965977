"""What Prometheus may know about a run: a textfile for node_exporter, through prometheus_client."""

import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LAST_SUCCESS = "iterable_sync_last_success_timestamp_seconds"

# The row outcome that each number of the summary counts.
OUTCOMES = {
    "successful": "successful",
    "partial_failures": "partial_failure",
    "total_failures": "total_failure",
    "unchanged": "unchanged",
    "not_attempted": "not_attempted",
}


def write_metrics(path: Path, document: dict[str, Any], exit_status: int) -> None:
    """Replace *path* by the metrics of one run, readable by everyone; it is never half written.

    *document* is the results file without its rows: ``run`` and ``summary``. The time of the last
    success is the run's own if *exit_status* is 0, else that of the file before, else 0. There are
    counts and durations in it, no customers. node_exporter reads only files that end in .prom.

    Raises:
        OSError: *path* cannot be read or written.

    """
    finished_s = _unix_seconds(document["run"]["finished_at"])
    success_s = finished_s if exit_status == 0 else _last_success_s(path)
    registry = CollectorRegistry()
    registry.register(_RunMetrics(document, exit_status, finished_s, success_s))
    _replace(path, generate_latest(registry))


class _RunMetrics(Collector):
    def __init__(
        self, document: dict[str, Any], exit_status: int, finished_s: float, success_s: float
    ) -> None:
        self._run, self._summary = document["run"], document["summary"]
        self._exit_status = exit_status
        self._finished_s, self._success_s = finished_s, success_s

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the run, each with its help."""
        yield _gauge(
            "iterable_sync_last_run_timestamp_seconds",
            "When the last run ended, in unix time.",
            self._finished_s,
        )
        yield _gauge(
            LAST_SUCCESS,
            "When the last run with exit status 0 ended, in unix time; 0 if there was none.",
            self._success_s,
        )
        yield _gauge(
            "iterable_sync_last_run_duration_seconds",
            "How long the last run took.",
            self._run["duration_seconds"],
        )
        yield _gauge(
            "iterable_sync_last_run_exit_status",
            "Exit status of the last run; 0 means that every row was delivered.",
            self._exit_status,
        )
        yield _gauge(
            "iterable_sync_last_run_throttled_seconds",
            "How long Iterable's answers 429 held the last run back.",
            self._summary["rate_limited_seconds"],
        )
        yield self._rows()
        yield from self._endpoints()

    def _rows(self) -> Metric:
        rows = GaugeMetricFamily(
            "iterable_sync_last_run_rows",
            "Rows of the last run by what became of them.",
            labels=["outcome"],
        )
        for name, outcome in OUTCOMES.items():
            rows.add_metric([outcome], self._summary.get(name, 0))
        return rows

    def _endpoints(self) -> Iterator[Metric]:
        requests = GaugeMetricFamily(
            "iterable_sync_last_run_requests",
            "Requests of the last run by endpoint and HTTP status, repeated ones too.",
            labels=["endpoint", "status"],
        )
        # Not "quantile": that label belongs to summaries, which add up over runs.
        latency = GaugeMetricFamily(
            "iterable_sync_last_run_request_latency_seconds",
            "How long Iterable took to answer in the last run: percentiles and the longest.",
            labels=["endpoint", "statistic"],
        )
        for endpoint, numbers in self._summary.get("endpoints", {}).items():
            for status, count in numbers.get("answers", {}).items():
                requests.add_metric([endpoint, status], count)
            for statistic, seconds in numbers.get("latency_seconds", {}).items():
                if seconds is not None:
                    latency.add_metric([endpoint, statistic], seconds)
        yield from (requests, latency)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _unix_seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _last_success_s(path: Path) -> float:
    """Return what the file of an earlier run says; 0 if there is none or it is damaged."""
    try:
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            if family.name == LAST_SUCCESS:
                return float(family.samples[0].value)
    except (FileNotFoundError, ValueError, LookupError):
        pass
    return 0.0


def _replace(path: Path, content: bytes) -> None:
    # Not prometheus_client's write_to_textfile(): the mode must be right before the file takes its
    # name, because a job that keeps its files to itself runs under a strict umask.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
