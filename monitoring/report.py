"""Writes ``report.html``: whether the job is healthy, and what its runs were like.

The page is made from the results files alone and needs nothing else: no network, no script. It
holds customers' emails, so it is readable by its owner alone, like the results files.
"""

import functools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitoring.report_charts import Chart, RunAxis, lines, stacked_bars
from monitoring.report_health import how_it_ended, judge, meaning_of
from monitoring.report_history import RUNS_SHOWN, ErrorGroup, History, read_history
from monitoring.report_text import duration, field_types, when
from records.atomic_file import write_atomically
from records.exit_statuses import RunError
from records.outcomes import GOOD_OUTCOMES, CallStatus, Fault, RowStatus
from records.results_reader import PastRun

ERRORS_SHOWN = 30
_ENDPOINTS_SHOWN = 8  # there are four; a foreign file may have more

OUTCOMES = (  # outcome, what it is called, CSS class
    (RowStatus.SUCCESSFUL, "successful", "good"),
    (RowStatus.UNCHANGED, "unchanged", "same"),
    (RowStatus.FORGOTTEN, "forgotten on request", "forgotten"),
    (RowStatus.PLANNED, "planned (dry run)", "idle"),
    (RowStatus.PARTIAL_FAILURE, "partial failures", "warn"),
    (RowStatus.TOTAL_FAILURE, "total failures", "bad"),
    (RowStatus.NOT_ATTEMPTED, "not attempted", "unattempted"),
)
_MEND_WHAT_IS_NAMED = "mend what the message names, then run again"
_OF_A_REFUSAL: dict[str, str] = {  # by where its reason lies
    Fault.ROW: "mend the row: Iterable will not take it as it is",
    Fault.FIELD: "mend the value: the project does not take it in this field",
}
_RUN_AGAIN: dict[str, str] = {
    CallStatus.UNAVAILABLE: "run again: Iterable or the way to it was down",
    CallStatus.UNKNOWN: "run again: it may have landed, nothing is doubled",
    CallStatus.NOT_SENT: "run again: the run ended before it was sent",
}


class ReportError(RunError):
    """There is nothing to report on, or no place for it. The message says what to do."""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` on the results files of *folder* beside them; return its path.

    It is replaced as a whole, and only its owner may read it. A results file that cannot be read
    is skipped; the page names it.

    Raises:
        ReportError: *folder* has no results file, or cannot be read or written.

    """
    target = folder / "report.html"
    page = render(_history_of(folder), utc_now())
    try:
        # A customer's email may hold half a character, which has no place in UTF-8.
        write_atomically(target, page.encode(errors="replace"))
    except OSError as error:
        raise ReportError(f"{target} cannot be written: {error.strerror}") from error
    return target


def _history_of(folder: Path) -> History:
    try:
        history = read_history(folder)
    except FileNotFoundError:
        history = History([], 0, [])
    except OSError as error:
        raise ReportError(f"{folder} cannot be read: {error.strerror}") from error
    if not history.files:
        raise ReportError(
            f"{folder} has no results file to report on. Run python3 main.py first; "
            "if it has run, RESULTS_DIR must name the folder with its integration_results_*.json"
        )
    return history


def utc_now() -> datetime:
    """Return the time that the page is written at."""
    return datetime.now(UTC)


def render(history: History, now: datetime) -> str:
    """Return the page as of *now*."""
    last = history.last
    errors = history.errors
    template = _environment().get_template("report_template.html")
    return template.render(
        now=now,
        health=judge(history, now),
        history=history,
        last=last,
        strip=strip(history.runs),
        charts=charts(history.runs),
        outcomes=[each for each in OUTCOMES if any(run.counts[each[0]] for run in history.runs)],
        errors=errors[:ERRORS_SHOWN],
        more_errors=len(errors) - ERRORS_SHOWN,
        more_failed_rows=sum(group.rows_in_last for group in errors) - len(history.failed_rows),
        runs_shown=RUNS_SHOWN,
        endpoints_shown=_ENDPOINTS_SHOWN,
    )


@functools.cache
def _environment() -> Environment:
    """Return what fills the template in. Every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        when=when,
        duration=duration,
        field_types=field_types,
        what_to_do=what_to_do,
        meaning_of=meaning_of,
    )
    return environment


def what_to_do(group: ErrorGroup) -> str:
    """Return what mends calls that failed so; empty for what only a later version knows.

    To mend the row is the advice only where the reason can lie in the row.
    """
    if group.http_status == 429:
        return "run again: Iterable asked for fewer requests"
    if group.fault in {Fault.KEY, Fault.PROJECT}:
        return _MEND_WHAT_IS_NAMED
    if group.fault == Fault.NETWORK and group.http_status:
        return "see what answers in Iterable's place, then run again"
    if group.status == CallStatus.REFUSED:
        # Earlier versions also called so what cannot lie in a row, and did not say which is which.
        return _OF_A_REFUSAL.get(group.fault, _MEND_WHAT_IS_NAMED)
    return _RUN_AGAIN.get(group.status, "")


def strip(runs: Sequence[PastRun]) -> list[tuple[str, str]]:
    """Return the level of each run and what to say about it."""
    return [
        (
            meaning_of(run).level if run.counts_for_health else "idle",
            f"{when(run.started_at)}: {_kind(run)}{how_it_ended(run)}",
        )
        for run in runs
    ]


def charts(runs: Sequence[PastRun]) -> list[Chart]:
    """Return the plots over all *runs*, those without any value left out."""
    if not runs:
        return []
    axis = RunAxis([run.started_at for run in runs])
    return [
        chart
        for chart in (*_rows(axis, runs), *_speed(axis, runs), *_latencies(axis, runs))
        if chart
    ]


def _rows(axis: RunAxis, runs: Sequence[PastRun]) -> Iterator[Chart]:
    groups = {
        status: (name, css_class, [run.counts[status] for run in runs])
        for status, name, css_class in OUTCOMES
    }
    failed = [i for i, run in enumerate(runs) if meaning_of(run).level == "bad"]
    yield stacked_bars(axis, "outcomes", "Rows by outcome", [*groups.values()], failed)
    if any(run.undelivered for run in runs):
        undelivered = [group for status, group in groups.items() if status not in GOOD_OUTCOMES]
        yield stacked_bars(axis, "undelivered", "Rows not delivered", undelivered)


def _speed(axis: RunAxis, runs: Sequence[PastRun]) -> Iterator[Chart | None]:
    unit, seconds = _time_unit([run.duration_s for run in runs])
    durations = [("duration", "line1", [run.duration_s / seconds for run in runs])]
    yield lines(axis, "duration", "Duration", unit, durations)
    rates = [("rate", "line1", [run.rows_per_second for run in runs])]
    yield lines(axis, "rate", "Rate while sending", "rows/s", rates)


def _latencies(axis: RunAxis, runs: Sequence[PastRun]) -> Iterator[Chart | None]:
    endpoints = dict.fromkeys(name for run in runs for name in run.endpoints)
    for number, name in enumerate(list(endpoints)[:_ENDPOINTS_SHOWN], 2):
        percentiles = [
            (p, f"line{i}", [_latency_ms(run, name, p) for run in runs])
            for i, p in enumerate(("p50", "p95", "p99"), 1)
        ]
        yield lines(axis, f"latency-{number}", f"Latency of {name}", "ms", percentiles)


def _latency_ms(run: PastRun, endpoint: str, percentile: str) -> float | None:
    found = run.endpoints.get(endpoint)
    seconds = found.latency_seconds.get(percentile) if found else None
    return None if seconds is None else seconds * 1000


def _time_unit(durations: Sequence[float]) -> tuple[str, int]:
    longest = max(durations)
    if longest > 3 * 3600:
        return "hours", 3600
    return ("minutes", 60) if longest > 180 else ("seconds", 1)


def _kind(run: PastRun) -> str:
    if run.dry_run:
        return "dry run, "
    return "" if run.limit is None else f"--limit {run.limit}, "
