"""Writes what Prometheus may know about a run: a textfile for node_exporter."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from records.atomic_file import write_atomically
from records.exit_statuses import ExitStatus
from records.outcomes import COUNTERS, RowStatus
from records.run import RunRecord

LAST_SUCCESS = "iterable_sync_last_success_timestamp_seconds"


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
    success_s = _finished_s(run) if run.exit_status is ExitStatus.OK else _last_success_s(path)
    registry = CollectorRegistry()
    registry.register(_RunMetrics(run, success_s, sync))
    # Not prometheus_client's write_to_textfile(): a job that keeps its files to itself runs under a
    # strict umask, and that would leave the file to its owner alone.
    write_atomically(path, generate_latest(registry), mode=0o644)


class _RunMetrics(Collector):
    def __init__(self, run: RunRecord, success_s: float, sync: str) -> None:
        self._run, self._success_s, self._sync = run, success_s, sync

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the run, each with its help."""
        run = self._run
        yield self._gauge(
            "iterable_sync_last_run_timestamp_seconds",
            "When the last run ended, in unix time.",
            _finished_s(run),
        )
        yield self._gauge(
            LAST_SUCCESS,
            "When the last run with exit status 0 ended, in unix time; 0 if there was none.",
            self._success_s,
        )
        yield self._gauge(
            "iterable_sync_last_run_duration_seconds",
            "How long the last run took.",
            round(run.duration_seconds, 3),
        )
        yield self._gauge(
            "iterable_sync_last_run_exit_status",
            "Exit status of the last run; 0 means that nothing failed.",
            run.exit_status,
        )
        yield self._gauge(
            "iterable_sync_last_run_throttled_seconds",
            "How long Iterable's answers 429 held the last run back.",
            round(run.rate_limited_seconds, 3),
        )
        yield self._rows()
        yield from self._endpoints()

    def _gauge(self, name: str, documentation: str, value: float) -> Metric:
        metric = GaugeMetricFamily(name, documentation, labels=["sync"])
        metric.add_metric([self._sync], value)
        return metric

    def _rows(self) -> Metric:
        rows = GaugeMetricFamily(
            "iterable_sync_last_run_rows",
            "Rows of the last run by what became of them.",
            labels=["sync", "outcome"],
        )
        for status in COUNTERS:
            if status is not RowStatus.PLANNED:  # a dry run writes no metrics
                rows.add_metric([self._sync, status], self._run.outcomes[status])
        return rows

    def _endpoints(self) -> Iterator[Metric]:
        requests = GaugeMetricFamily(
            "iterable_sync_last_run_requests",
            "Requests of the last run by endpoint and HTTP status, repeated ones too.",
            labels=["sync", "endpoint", "status"],
        )
        # Not "quantile": that label belongs to summaries, which add up over runs.
        latency = GaugeMetricFamily(
            "iterable_sync_last_run_request_latency_seconds",
            "How long Iterable took to answer in the last run: percentiles and the longest.",
            labels=["sync", "endpoint", "statistic"],
        )
        for endpoint, numbers in self._run.endpoints.items():
            for status, count in numbers["answers"].items():
                requests.add_metric([self._sync, endpoint, status], count)
            for statistic, seconds in numbers["latency_seconds"].items():
                latency.add_metric([self._sync, endpoint, statistic], seconds)
        yield from (requests, latency)


def _finished_s(run: RunRecord) -> float:
    """Return when the run ended, to the second, as its results file says it."""
    return (run.finished_at or run.started_at).replace(microsecond=0).timestamp()


def _last_success_s(path: Path) -> float:
    """Return what the file of an earlier run says; 0 if there is none or it is damaged."""
    if not path.is_file():
        return 0.0  # a pipe would wait for somebody who writes into it
    try:
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            if family.name == LAST_SUCCESS:
                return float(family.samples[0].value)
    except (FileNotFoundError, ValueError, LookupError):
        pass
    return 0.0
