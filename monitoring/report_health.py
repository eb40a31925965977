"""Judges the job by its runs: how bad it is, and what to do. The page says it in words."""

from datetime import datetime
from itertools import pairwise
from statistics import median, quantiles
from typing import NamedTuple

from monitoring.report_history import History
from records.exit_statuses import RUN_AGAIN
from records.run import RunRecord

HEADLINES = {"good": "Healthy", "warn": "Needs a look", "bad": "Failing"}
_LEVELS = tuple(HEADLINES)  # from good to bad
# Number of runs that show how often one starts: at most, at least.
_RUNS, _AT_LEAST = 30, 3

_FIND_KILLER = (
    "Find out from the system's log what killed the run: a restart, or too little memory? "
    f"{RUN_AGAIN}"
)
_START_IT = (
    "See whether the machine was up, and whether cron or the systemd timer still starts the job. "
    "Then run it by hand."
)
_LOOK_AT_FILES = (
    "See below what is wrong with the files. Then run the job and write this page again."
)
_SET_CLOCK = "Check this machine's clock, then delete the files that are dated in the future."
_FIX_ROWS = (
    "Fix the rows that are refused every time, or leave them out of Query 2. Until then, every run "
    "has them refused again."
)
_TRY_ON = "When the trial runs look right, run python3 main.py."


class Health(NamedTuple):
    """The verdict: *level* is good, warn, bad or idle. *advice* says what to do, the worst first.

    *unreadable* are results files newer than the last run. *silence_s* is the time without a run if
    that is too long, *usual_s* the usual time between two runs.
    """

    level: str
    headline: str
    advice: list[str]
    unreadable: list[str]
    silence_s: float | None
    usual_s: float


def judge(history: History, now: datetime) -> Health:
    """Judge the job as of *now* by its last run and the time since then."""
    last = history.last
    newest = last.file.name if last and last.file else ""
    unreadable = [name for name in history.skipped if name > newest]
    usual_s, silence_s = _silence(history, now)
    found = {
        _FIND_KILLER: "bad" if history.killed else "",
        _START_IT: "bad" if silence_s else "",
        _LOOK_AT_FILES: ("warn" if last else "bad") if unreadable else "",
        _SET_CLOCK: "warn" if history.later else "",
        **(_of_run(last) if last else {}),
        _FIX_ROWS: "good" if history.repeated else "",
    }
    told = {advice: level for advice, level in found.items() if level}
    level = max(told.values(), key=_LEVELS.index, default="good")
    headline = HEADLINES[level]
    if last and not history.judged:
        level, headline, told = "idle", "Not in use yet", {**told, _TRY_ON: "good"}
    worst_first = sorted(told, key=lambda advice: -_LEVELS.index(told[advice]))
    advice = [each for each in worst_first if each] or ["Nothing."]
    return Health(level, headline, advice, unreadable, silence_s, usual_s)


def _of_run(run: RunRecord) -> dict[str, str]:
    """Return what to do after *run*, each with its level."""
    create = "Create %s in Iterable. The next run then sends the rows again."
    missing = [", ".join(sorted(fields)) for fields in run.filtered_fields.values()]
    status = run.exit_status
    return {status.advice: status.level, **{create % fields: "warn" for fields in missing}}


def _silence(history: History, now: datetime) -> tuple[float, float | None]:
    """Return how often a run starts, and the time without one if that is too long; in seconds.

    Only a job that most often starts at about the same interval can miss a run.
    """
    starts = [run.started_at for run in history.judged[-_RUNS - 1 :]]
    gaps = [(after - before).total_seconds() for before, after in pairwise(starts)]
    usual = median(gaps) if len(gaps) >= _AT_LEAST else 0.0
    if sum(usual / 2 < gap < usual * 1.5 for gap in gaps) <= len(gaps) * 0.6:
        return usual, None
    # A job that runs on working days has a long gap every week.
    most = max(2 * usual, 1.25 * quantiles(gaps, n=10, method="inclusive")[-1])
    began = max([starts[-1], *(run.started_at for run in history.unfinished)])
    silence = (now - began).total_seconds()
    return usual, silence if silence > most else None
