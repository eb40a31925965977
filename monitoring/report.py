"""Writes ``report.html``: whether the job is healthy, if not why, and what to do.

The page is made from the results files alone and needs nothing else: no network, no script. It
holds customers' emails, so it is readable by its owner alone, like the results files.
"""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitoring.report_charts import Chart, RunAxis, stacked_bars
from monitoring.report_health import how_it_ended, judge, meaning_of
from monitoring.report_history import ErrorGroup, History, read_history
from monitoring.report_text import count, duration, when
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
_ANOTHER_TYPE = (
    "Iterable cannot change the type of a field: send it under another name "
    "(iterable_api/payloads.py), or ask Iterable."
)
_FIX_WHAT_IS_NAMED = "Fix what the message names, then run again."
_FIX_ROW = "Fix the row in the database: Iterable will not take it as it is."
_FIX_VALUE = "Fix the value in the database: the project does not take it in this field."
_FIND_OUT = "Find out what answers in Iterable's place (a proxy, a firewall?), then run again."


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
        text = (
            f"{target} cannot be written: {error.strerror}. There is no new report; check the "
            "rights of its folder and the room on the disk"
        )
        raise ReportError(text) from error
    return target


def _history_of(folder: Path) -> History:
    try:
        history = read_history(folder)
    except FileNotFoundError:
        history = History([], [], 0, [])
    except OSError as error:
        text = f"{folder} cannot be read: {error.strerror}. Check RESULTS_DIR and its rights"
        raise ReportError(text) from error
    if not history.files and not history.unfinished:
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
    template = _environment().get_template("report_template.html")
    return template.render(
        now=now,
        health=judge(history, now),
        history=history,
        last=history.last,
        strip=strip(history.runs),
        charts=charts(history.runs),
        outcomes=[each for each in OUTCOMES if any(run.counts[each[0]] for run in history.runs)],
        errors=history.errors[:ERRORS_SHOWN],
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
        count=count,
        duration=duration,
        what_to_do=what_to_do,
        meaning_of=meaning_of,
    )
    return environment


def what_to_do(group: ErrorGroup) -> str:
    """Return what to do about calls that failed so; empty for what only a later version knows.

    To fix the row is the advice only where the reason can lie in the row.
    """
    fault, status, http_status = group.fault, group.status, group.http_status
    refused = status == CallStatus.REFUSED
    table = (
        (http_status == 429, "Run again: Iterable asked for fewer requests."),
        (fault in {Fault.KEY, Fault.PROJECT}, _FIX_WHAT_IS_NAMED),
        (fault == Fault.NETWORK and http_status, _FIND_OUT),
        (
            fault == Fault.ITERABLE and (http_status or 500) < 500,
            "Run again: Iterable needed more time.",
        ),
        (fault == Fault.FIELD and group.fields, _ANOTHER_TYPE),
        (refused and fault == Fault.ROW, _FIX_ROW),
        (refused and fault == Fault.FIELD, _FIX_VALUE),
        # Earlier versions also called so what cannot lie in a row, and did not say which is which.
        (refused, _FIX_WHAT_IS_NAMED),
        (status == CallStatus.UNAVAILABLE, "Run again: Iterable, or the way to it, was down."),
        (status == CallStatus.UNKNOWN, "Run again: it may have arrived, and is sent once more."),
        (status == CallStatus.NOT_SENT, "Run again: the run ended before it was sent."),
    )
    return next((advice for fits, advice in table if fits), "")


def strip(runs: Sequence[PastRun]) -> list[tuple[str, str]]:
    """Return the level of each run and what to say about it."""
    marks = []
    for run in runs:
        level = meaning_of(run).level if run.counts_for_health else "idle"
        trial = "" if run.counts_for_health else "a trial, "
        marks.append((level, f"{when(run.started_at)}: {trial}{how_it_ended(run)}"))
    return marks


def charts(runs: Sequence[PastRun]) -> list[Chart]:
    """Return the plots over all *runs*; none over a single one, which says nothing more."""
    if len(runs) < 2:
        return []
    axis = RunAxis([run.started_at for run in runs])
    groups = {
        status: (name, css_class, [run.counts[status] for run in runs])
        for status, name, css_class in OUTCOMES
    }
    failed = [i for i, run in enumerate(runs) if meaning_of(run).level == "bad"]
    found = [stacked_bars(axis, "Rows by outcome", "rows", [*groups.values()], failed)]
    if any(run.undelivered for run in runs):
        undelivered = [group for status, group in groups.items() if status not in GOOD_OUTCOMES]
        found.append(stacked_bars(axis, "Rows not delivered", "rows", undelivered))
    unit, seconds = _time_unit([run.duration_s for run in runs])
    durations = [(unit, "time", [run.duration_s / seconds for run in runs])]
    return [*found, stacked_bars(axis, "Duration", unit, durations)]


def _time_unit(durations: Sequence[float]) -> tuple[str, int]:
    longest = max(durations)
    if longest > 3 * 3600:
        return "hours", 3600
    return ("minutes", 60) if longest > 180 else ("seconds", 1)
