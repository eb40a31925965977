"""Judges the job by its runs: how bad it is, and what to do. The page says it in words."""

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from statistics import median, quantiles
from typing import NamedTuple

from monitoring.report_history import History
from records.exit_statuses import ExitStatus

HEADLINES = {"good": "Healthy", "warn": "Needs a look", "bad": "Failing"}  # from good to bad
LEVELS = dict.fromkeys(ExitStatus, "bad") | {
    ExitStatus.OK: "good",
    ExitStatus.NOT_ALL_DELIVERED: "warn",
    ExitStatus.BUSY: "warn",
    ExitStatus.SIGINT: "warn",
    ExitStatus.SIGTERM: "warn",
}
RUN_AGAIN = "Run it again; it sends only what is missing."
_CHECK = f"Fix what is named above until python3 main.py --check reports no problem. {RUN_AGAIN}"
ADVICE = {
    ExitStatus.NOT_ALL_DELIVERED: "See below what to do about each reason.",
    ExitStatus.USAGE: _CHECK,
    ExitStatus.DATABASE: _CHECK,
    ExitStatus.STOPPED: f"Fix what is named above; the end of the log file has more. {RUN_AGAIN}",
    ExitStatus.BUG: f"Report the traceback at the end of the log file. {RUN_AGAIN}",
    ExitStatus.SIGINT: RUN_AGAIN,
    ExitStatus.SIGTERM: RUN_AGAIN,
}
# Number of runs that show how often one starts: at most, at least.
_RUNS, _AT_LEAST = 30, 3


class Health(NamedTuple):
    """The verdict: *level* is good, warn, bad or idle. *advice* says what to do, the worst first.

    *silence_s* is the time without a run if that is too long, else None; *usual_s* is the usual
    time between two runs.
    """

    level: str
    headline: str
    advice: list[str]
    silence_s: float | None
    usual_s: float


def judge(history: History, now: datetime) -> Health:
    """Judge the job as of *now* by its last run and the time since then."""
    usual_s, silence_s = _silence(history, now)
    found = list(_problems(history, silent=silence_s is not None))
    # Equally bad ones keep their order.
    found.sort(key=lambda each: list(HEADLINES).index(each[0]), reverse=True)
    level = found[0][0] if found else "good"
    headline = HEADLINES[level]
    if history.runs and not history.judged:
        level, headline = "idle", "Not in use yet"
        found.append((level, "When the trial runs look right, run python3 main.py."))
    advice = list(dict.fromkeys(text for _, text in found if text))
    return Health(level, headline, advice or ["Nothing."], silence_s, usual_s)


def _problems(history: History, *, silent: bool) -> Iterator[tuple[str, str]]:
    """Yield the level of each problem and what to do about it."""
    last = history.last
    if history.killed:
        yield "bad", f"Find out from the system's log what killed the run. {RUN_AGAIN}"
    if silent:
        yield "bad", "Check that the machine is up, and that cron or systemd starts the job."
    if history.skipped_since:
        text = "See below which files are left out and why. Then run the job, and --report again."
        yield "warn" if last else "bad", text
    if last:
        yield LEVELS[last.exit_status], ADVICE.get(last.exit_status, "")
        for fields in last.filtered_fields.values():
            names = ", ".join(sorted(fields))
            yield "warn", f"Create {names} in Iterable. The next run then sends the rows again."
    if history.repeated:
        yield "good", "Fix the rows that are refused every time, or leave them out of Query 2."


def _silence(history: History, now: datetime) -> tuple[float, float | None]:
    """Return how often a run starts, and the time without one if that is too long; in seconds."""
    starts = [run.started_at for run in history.judged[-_RUNS - 1 :]]
    gaps = [(after - before).total_seconds() for before, after in pairwise(starts)]
    if len(gaps) < _AT_LEAST:
        return 0.0, None
    # A job that runs on working days has a long gap every week. Runs by hand have no rhythm.
    usual, longest = median(gaps), quantiles(gaps, n=10, method="inclusive")[-1]
    began = max([starts[-1], *(run.started_at for run in history.unfinished)])
    silence = (now - began).total_seconds()
    return usual, silence if longest < 4 * usual and silence > 1.5 * longest else None
