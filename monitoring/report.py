"""Writes ``report.html``: whether the job is healthy, if not why, and what to do.

The page is made from the results files alone: no network, no script. It holds customers' emails, so
only its owner can read it, as with the results files.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitoring.report_charts import MOST_DAYS, by_day, count, duration, round_up, short, when
from monitoring.report_health import LEVELS, judge
from monitoring.report_history import History, read_history
from records.exit_statuses import RunError
from records.files import write_atomically
from records.outcomes import CallOutcome, CallStatus, Fault, RowStatus
from records.run import RunRecord

OUTCOMES = (  # outcome, what it is called, CSS class
    (RowStatus.SUCCESSFUL, "successful", "good"),
    (RowStatus.UNCHANGED, "unchanged", "same"),
    (RowStatus.FORGOTTEN, "forgotten on request", "forgotten"),
    (RowStatus.PLANNED, "planned (dry run)", "idle"),
    (RowStatus.PARTIAL_FAILURE, "partial failures", "warn"),
    (RowStatus.TOTAL_FAILURE, "total failures", "bad"),
    (RowStatus.NOT_ATTEMPTED, "not attempted", "unattempted"),
)
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
# By the status or the fault of a call.
_WHAT_TO_DO = {
    CallStatus.UNKNOWN: "Run again: it may have arrived and is sent once more.",
    CallStatus.NOT_SENT: "Run again: the run ended before it was sent.",
    Fault.ROW: "Fix the row in the database: Iterable does not accept it as it is.",
    Fault.FIELD: "Fix the value or convert it in Query 2: the project does not accept it as it is.",
    Fault.ITERABLE: "Run again: Iterable was down, or needed more time.",
    Fault.NETWORK: "Run again. If it persists, see what answers in place of Iterable: a proxy?",
}


def write_report(folder: Path, now: datetime | None = None) -> Path:
    """Write ``report.html`` on the results files of *folder* beside them; return its path.

    *now* is in UTC, by default the time of the call. The page is replaced as a whole, and only its
    owner may read it. A results file that cannot be read is skipped; the page names it. Raises
    RunError if *folder* has no results file, or cannot be written.
    """
    target, now = folder / "report.html", now or datetime.now(UTC)
    history = read_history(folder, now)
    if not (history.runs or history.skipped or history.unfinished):
        raise RunError(
            f"{folder} has no results file that you can read. Run python3 main.py first; "
            "RESULTS_DIR must name the folder with its integration_results_*.json"
        )
    try:
        # A customer's email may hold half a character, which has no place in UTF-8.
        write_atomically(target, _render(history, now).encode(errors="replace"))
    except OSError as error:
        text = (
            f"{target} cannot be written: {error.strerror}. There is no new report; check the "
            "permissions of its folder and the free disk space"
        )
        raise RunError(text) from error
    return target


def _render(history: History, now: datetime) -> str:
    """Return the page as of *now*. Every value is escaped."""
    charted = [run for run in history.judged if now - run.started_at < timedelta(days=MOST_DAYS)]
    longest = max((run.duration_seconds for run in charted), default=0.0)
    functions = (when, count, duration, short, round_up, rows_of, what_to_do)
    return _PAGES.get_template("report_template.html").render(
        [(each.__name__, each) for each in functions],
        now=now,
        health=judge(history, now),
        levels=LEVELS,
        history=history,
        last=history.last,
        # One run makes no chart.
        days=by_day(charted, now) if len(charted) > 1 else [],
        most=max((run.outcomes.total() for run in charted), default=0),
        longest=longest,
        unit=next(each for each in _UNITS if longest >= 3 * each[1] or each[1] == 1),
        outcomes=[each for each in OUTCOMES if any(run.outcomes[each[0]] for run in history.runs)],
    )


def what_to_do(error: CallOutcome) -> str:
    """Return what to do about a failed call."""
    if error.http_status == 429:
        return "Run again: Iterable asked for fewer requests."
    known = (_WHAT_TO_DO[each] for each in (error.status, error.fault) if each in _WHAT_TO_DO)
    return next(known, "Fix what the message names, then run again.")


def rows_of(run: RunRecord) -> list[tuple[str, str, int]]:
    """Return what the bar of *run* is made of: name, CSS class and number of rows."""
    return [(name, css_class, run.outcomes[status]) for status, name, css_class in OUTCOMES]
