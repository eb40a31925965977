"""Writes ``report.html``: whether the job is healthy, and what its runs were like.

The page is made from the results files alone and needs nothing else: no network, no script. It
holds customers' emails, so it is readable by its owner alone, like the results files.
"""

import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitoring.report_charts import Chart, RunAxis, lines, short, stacked_bars, when
from records.results_reader import (
    FailedRow,
    ResultsFileError,
    RunRecord,
    read_failed_rows,
    read_run,
)

RUNS_SHOWN = 90
FAILED_ROWS_SHOWN = 200
EXAMPLES_SHOWN = 3
ERRORS_SHOWN = 30
_ENDPOINTS_SHOWN = 8  # there are four; a foreign file may have more
# Kinds of errors kept in memory; a server that invents a code for every row must not fill it.
_ERRORS_KEPT = 1000
# What is usual is told from this many runs before the last one, if there are enough.
_USUAL_RUNS, _USUAL_AT_LEAST = 30, 3
# Below this the last run took too little time for its length to say anything.
_LONG_ENOUGH_S = 5.0

# Unit, its seconds, the next smaller unit, its seconds.
_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))

OUTCOMES = (  # outcome, what it is called, CSS class
    ("successful", "successful", "good"),
    ("unchanged", "unchanged", "same"),
    ("planned", "planned (dry run)", "idle"),
    ("partial_failure", "partial failures", "warn"),
    ("total_failure", "total failures", "bad"),
    ("not_attempted", "not attempted", "left"),
)
UNDELIVERED = ("partial_failure", "total_failure", "not_attempted")
WHAT_TO_DO = {  # for each status of a call
    "refused": "mend the row: Iterable will not take it as it is",
    "unavailable": "run again: Iterable or the way to it was down",
    "unknown": "run again: it may have landed, nothing is doubled",
    "not_sent": "see the row's other call",
}


@dataclass(frozen=True)
class Ending:
    """What an exit status says: how bad it is, what happened, and what to do."""

    level: str
    what: str
    advice: str = ""


ENDINGS: dict[int | None, Ending] = {
    0: Ending("good", "delivered every row"),
    1: Ending("warn", "finished", "The reasons are below."),
    2: Ending("bad", "stopped before it could send anything", "Run python3 main.py --check."),
    3: Ending("bad", "failed at the database; nothing was sent", "Run python3 main.py --check."),
    4: Ending("bad", "stopped early", "The end of the log file says why; mend it and run again."),
    70: Ending("bad", "met a bug in the program", "The log file has the traceback."),
    75: Ending("warn", "did not start: another run held the lock"),
    130: Ending("warn", "was interrupted (Ctrl-C)", "Run it again: nothing is doubled."),
    143: Ending("warn", "was terminated", "Run it again: nothing is doubled."),
}
_UNKNOWN_ENDING = Ending("bad", "ended in a way this report does not know", "See the log file.")


class ReportError(Exception):
    """There is nothing to report on, or no place for it. The message says what to do."""


@dataclass
class ErrorGroup:
    """Failed rows with the same error. ``examples`` are of the newest runs that have any."""

    label: str
    call: str
    status: str
    http_status: int | None
    rows: int = 0
    rows_in_last: int = 0
    runs: int = 0
    last_seen: datetime | None = None
    examples: list[FailedRow] = field(default_factory=list)
    _run: RunRecord | None = None

    def add(self, row: FailedRow, run: RunRecord, *, is_last: bool) -> None:
        """Count a row of *run*. All rows of a run come together, those of the newest run first."""
        if run is not self._run:
            self._run = run
            self.runs += 1
            self.last_seen = self.last_seen or run.started_at
        self.rows += 1
        self.rows_in_last += is_last
        if len(self.examples) < EXAMPLES_SHOWN and all(
            row.customer_id != example.customer_id for example in self.examples
        ):
            self.examples.append(row)


@dataclass
class History:
    """The runs, oldest first, with what is worth knowing of their failed rows."""

    runs: list[RunRecord]
    files: int
    skipped: list[tuple[str, str]]
    failed_rows: list[FailedRow] = field(default_factory=list)
    errors: list[ErrorGroup] = field(default_factory=list)

    @property
    def judged(self) -> list[RunRecord]:
        """The runs that were the whole job."""
        return [run for run in self.runs if run.counts_for_health]

    @property
    def last(self) -> RunRecord | None:
        """The last run of the whole job; without any, the last run of all."""
        runs = self.judged or self.runs
        return runs[-1] if runs else None


Fact = tuple[str, str, str]  # name, value, detail


@dataclass(frozen=True)
class Measure:
    """One property of the last run beside what is usual, if that is known.

    *note* says what is unusual about it, if anything.
    """

    name: str
    last: str
    usual: str
    note: str = ""


@dataclass(frozen=True)
class Health:
    """The answer to: is the job healthy? ``level`` is good, warn, bad or idle."""

    level: str
    headline: str
    sentence: str
    error: str = ""
    advice: str = ""
    warnings: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)


def write_report(folder: Path, target: Path | None = None, *, now: datetime | None = None) -> Path:
    """Write the report on the results files of *folder* to *target*; return its path.

    *target* is ``report.html`` in *folder* unless given. It is replaced as a whole, and only its
    owner may read it. A results file that cannot be read is skipped; the page names it. *now* is
    the time that the page was written at, in UTC.

    Raises:
        ReportError: *folder* has no results file, or *target* cannot be written.

    """
    target = target or folder / "report.html"
    history = read_history(folder)
    page = render(history, now or datetime.now(UTC))
    try:
        _replace(target, page)
    except OSError as error:
        raise ReportError(f"{target} cannot be written: {error.strerror}") from error
    return target


def read_history(folder: Path) -> History:
    """Read the newest results files of *folder*.

    Raises:
        ReportError: there is none.

    """
    # Names sort by time. What is read here is small: rows are streamed later.
    paths = sorted(
        (p for p in folder.glob("integration_results_*.json") if p.is_file()), reverse=True
    )
    if not paths:
        raise ReportError(
            f"{folder} has no results file to report on. Run python3 main.py first; "
            "if it has run, RESULTS_DIR must name the folder with its integration_results_*.json"
        )
    history = History([], len(paths), [])
    for path in paths:
        try:
            history.runs.append(read_run(path))
        except ResultsFileError as error:
            history.skipped.append((path.name, str(error)))
        if len(history.runs) == RUNS_SHOWN:
            break
    history.runs.sort(key=lambda run: (run.started_at, run.path.name))
    _read_errors(history)
    return history


def _read_errors(history: History) -> None:
    """Group the failed rows of all runs by error, and keep those of the last run."""
    groups: dict[tuple[Any, ...], ErrorGroup] = {}
    last = history.last
    for run in reversed(history.runs):
        try:
            for row in _failed_rows(run):
                _group_of(row, groups).add(row, run, is_last=run is last)
                if run is last and len(history.failed_rows) < FAILED_ROWS_SHOWN:
                    history.failed_rows.append(row)
        except ResultsFileError as error:
            history.skipped.append((run.path.name, str(error)))
    history.errors = sorted(groups.values(), key=lambda g: (-g.rows_in_last, -g.rows, g.label))


def _failed_rows(run: RunRecord) -> Iterable[FailedRow]:
    failed = run.counts["partial_failure"] + run.counts["total_failure"]
    return read_failed_rows(run.path) if failed else ()


def _group_of(row: FailedRow, groups: dict[tuple[Any, ...], ErrorGroup]) -> ErrorGroup:
    # Without an answer of Iterable's, the message is this program's own and says the kind.
    label = row.code or (f"HTTP {row.http_status}" if row.http_status else row.message[:80])
    key = (label, row.call, row.status, row.http_status)
    if key not in groups and len(groups) >= _ERRORS_KEPT:
        key = ("(other errors)", row.call, row.status, None)
    return groups.setdefault(key, ErrorGroup(*key))


def judge(history: History, now: datetime) -> Health:
    """Say whether the job is healthy at the time *now*, and what speaks against it."""
    last, judged = history.last, history.judged
    if last is None:
        return Health("bad", "Unreadable", "None of the results files can be read.")
    measures = _measures(last, [run for run in judged if run is not last])
    facts = _facts(last, judged, now)
    sentence = f"The last run {_ending_words(last)}."
    if not judged:
        sentence += " No run of the whole job yet: only dry runs or runs with --limit."
        return Health("idle", "Not in use yet", sentence, last.error, "", [], facts, measures)
    ending = _ending(last)
    warnings = [*_overdue(judged, now), *(measure.note for measure in measures if measure.note)]
    level = "bad" if _overdue(judged, now) else ending.level
    if level == "good" and warnings:
        level = "warn"
    headline = {"good": "Healthy", "warn": "Needs a look", "bad": "Failing"}[level]
    return Health(level, headline, sentence, last.error, ending.advice, warnings, facts, measures)


def _ending(run: RunRecord) -> Ending:
    return ENDINGS.get(run.exit_status, _UNKNOWN_ENDING)


def _ending_words(run: RunRecord) -> str:
    status = "unknown" if run.exit_status is None else run.exit_status
    what = _ending(run).what
    if run.exit_status == 0 and not run.rows:
        what = "found nothing to deliver"
    elif run.exit_status == 0 and run.dry_run:
        what = f"was a dry run of {run.rows:,} rows; nothing was sent"
    elif run.exit_status == 0 and run.counts["unchanged"]:
        changed = run.counts["successful"]
        what = f"delivered what had changed: {changed:,} of {run.rows:,} rows"
    elif run.exit_status == 0:
        what = f"delivered every row: {run.rows:,} of {run.rows:,}"
    elif run.undelivered:
        what += f"; {run.undelivered:,} of {run.rows:,} rows were not delivered"
    return f"{what} (exit status {status})"


def _facts(last: RunRecord, judged: Sequence[RunRecord], now: datetime) -> list[Fact]:
    facts = [("Last run", *_how_long_ago(last.started_at, now))]
    if not judged:
        return facts
    good = [run for run in judged if run.exit_status == 0]
    success = (
        _how_long_ago(good[-1].started_at, now) if good else ("none", f"in {_runs(len(judged))}")
    )
    facts.append(("Last success", *success))
    ended_well = last.exit_status == 0
    streak = list(takewhile(lambda r: (r.exit_status == 0) == ended_well, reversed(judged)))
    facts.append(("Streak", _runs(len(streak)), "succeeded" if ended_well else "did not succeed"))
    if interval := usual_interval_s(judged):
        facts.append(("Rhythm", f"every {about(interval)}", "the median of the runs so far"))
    return facts


def _overdue(judged: Sequence[RunRecord], now: datetime) -> list[str]:
    """Say so if there was no success for more than twice the usual time between two runs."""
    interval = usual_interval_s(judged)
    if interval is None:
        return []
    # A job of working days has a long gap every week.
    limit = max(2 * interval, 1.25 * quantiles(_gaps_s(judged), n=10, method="inclusive")[-1])
    if (silence := (now - judged[-1].started_at).total_seconds()) > limit:
        return [
            f"No run for {duration(silence)}; it usually runs every {about(interval)}. "
            "Is cron, or what else starts it, at work?"
        ]
    successes = [run.started_at for run in judged if run.exit_status == 0]
    since = (now - (successes or [judged[0].started_at])[-1]).total_seconds()
    return [f"No success for {duration(since)}"] if since > limit else []


def usual_interval_s(runs: Sequence[RunRecord]) -> float | None:
    """Return the median time between the starts of two runs, in seconds.

    None without a rhythm: after a few runs, or when somebody starts them by hand now and then.
    """
    gaps = _gaps_s(runs)
    if len(gaps) < _USUAL_AT_LEAST:
        return None
    usual = median(gaps)
    regular = sum(usual / 2 < gap < usual * 1.5 for gap in gaps)
    return usual if regular > len(gaps) * 0.6 else None


def _gaps_s(runs: Sequence[RunRecord]) -> list[float]:
    recent = runs[-_USUAL_RUNS - 1 :]
    return [
        (after.started_at - before.started_at).total_seconds() for before, after in pairwise(recent)
    ]


def _measures(last: RunRecord, others: Sequence[RunRecord]) -> list[Measure]:
    """Compare the last run with the median of those before it."""
    before = others[-_USUAL_RUNS:]
    long_enough = last.duration_s >= _LONG_ENOUGH_S
    finished = _ending(last).level == "good" or last.exit_status == 1
    measure = _Comparison(last, before)
    return [
        measure.of("Rows", lambda r: r.rows, "{:,.0f}".format, low=finished, high=True),
        measure.of("Duration", lambda r: r.duration_s, duration, high=long_enough),
        measure.of(
            "Rate",
            lambda r: r.rows_per_second,
            lambda rate: f"{short(rate)} rows/s",
            low=long_enough and finished,
        ),
        measure.of("Rows not delivered", lambda r: r.undelivered, "{:,.0f}".format, high=True),
    ]


class _Comparison:
    """The last run beside the runs before it."""

    def __init__(self, last: RunRecord, before: Sequence[RunRecord]) -> None:
        self._last, self._before = last, before

    def of(
        self,
        name: str,
        value_of: Callable[[RunRecord], float | None],
        text_of: Callable[[float], str],
        *,
        low: bool = False,
        high: bool = False,
    ) -> Measure:
        """Compare one property. *low* and *high* tell which way is worth a warning."""
        last = value_of(self._last)
        text = "–" if last is None else text_of(last)
        values = [value for run in self._before if (value := value_of(run)) is not None]
        if len(values) < _USUAL_AT_LEAST:
            return Measure(name, text, "")
        usual = median(values)
        note = ""
        if last and high and not usual:
            note = f"{name}: {text}, usually none"
        elif last is not None and low and last < usual / 2:
            note = f"{name}: {text} is less than half of the usual {text_of(usual)}"
        elif last is not None and high and last > usual * 2:
            note = f"{name}: {text} is more than double the usual {text_of(usual)}"
        return Measure(name, text, text_of(usual), note)


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
    environment.globals.update(when=when, duration=duration, what_to_do=WHAT_TO_DO, ending=_ending)
    return environment


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
    )


def strip(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Return the level of each run and what to say about it."""
    return [
        (
            _ending(run).level if run.counts_for_health else "idle",
            f"{when(run.started_at)}: {_kind(run)}{_ending_words(run)}",
        )
        for run in runs
    ]


def charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return the plots over all *runs*, those without any value left out."""
    if not runs:
        return []
    axis = RunAxis([run.started_at for run in runs])
    groups = [(name, css, [r.counts[key] for r in runs]) for key, name, css in OUTCOMES]
    bad = [
        (name, css, [r.counts[k] for r in runs]) for k, name, css in OUTCOMES if k in UNDELIVERED
    ]
    failed = [i for i, run in enumerate(runs) if _ending(run).level == "bad"]
    every = [stacked_bars(axis, "outcomes", "Rows by outcome", groups, failed)]
    if any(run.undelivered for run in runs):
        every.append(stacked_bars(axis, "undelivered", "Rows not delivered", bad))
    unit, seconds = _time_unit([run.duration_s for run in runs])
    durations = [("duration", "line1", [run.duration_s / seconds for run in runs])]
    rates = [("rate", "line1", [run.rows_per_second for run in runs])]
    possible = [
        lines(axis, "duration", "Duration", unit, durations),
        lines(axis, "rate", "Rate while sending", "rows/s", rates),
    ]
    endpoints = dict.fromkeys(name for run in runs for name in run.endpoints)
    for name in list(endpoints)[:_ENDPOINTS_SHOWN]:
        percentiles = [
            (p, f"line{i}", [_latency_ms(run, name, p) for run in runs])
            for i, p in enumerate(("p50", "p95", "p99"), 1)
        ]
        title = f"Latency of {name}"
        possible.append(lines(axis, f"latency-{len(possible)}", title, "ms", percentiles))
    return every + [chart for chart in possible if chart]


def _latency_ms(run: RunRecord, endpoint: str, percentile: str) -> float | None:
    facts = run.endpoints.get(endpoint)
    seconds = facts.latency_s.get(percentile) if facts else None
    return None if seconds is None else seconds * 1000


def _time_unit(durations: Sequence[float]) -> tuple[str, int]:
    longest = max(durations)
    if longest > 3 * 3600:
        return "hours", 3600
    return ("minutes", 60) if longest > 180 else ("seconds", 1)


def _kind(run: RunRecord) -> str:
    if run.dry_run:
        return "dry run, "
    return "" if run.limit is None else f"--limit {run.limit}, "


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in _UNITS:
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def about(seconds: float) -> str:
    """Return a duration in one unit: runs do not start on the second."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.9 * size:
            return f"{round(seconds / size, 1):g} {unit}"
    return f"{seconds:.0f} s"


def _how_long_ago(moment: datetime, now: datetime) -> tuple[str, str]:
    return f"{duration(max(0.0, (now - moment).total_seconds()))} ago", f"{moment:%Y-%m-%d %H:%M}"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _replace(target: Path, page: str) -> None:
    """Write *page* beside *target* and give it its name when it is whole. Its mode is 0600."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".report.", suffix=".partial")
    partial = Path(name)
    try:
        # A customer's email may hold half a character, which has no place in UTF-8.
        with open(descriptor, "w", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            file.write(page)
            file.flush()
            os.fsync(descriptor)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
