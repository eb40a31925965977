"""Judges the job by its runs: did it run, is everyone delivered, what is wrong, what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from monitoring.report_history import ErrorGroup, History
from monitoring.report_rhythm import interval_s, longest_silence_s, usual_of
from monitoring.report_text import count, duration, names, when
from records.exit_statuses import MEANINGS, RUN_AGAIN, ExitStatus, Meaning
from records.outcomes import RowStatus
from records.results_reader import PastRun

# Below this the last run took too little time for its length to say anything.
_LONG_ENOUGH_S = 5.0
_ERRORS_NAMED = 3

RAN, DELIVERED, WRONG, TO_DO = QUESTIONS = (
    "Did it run?",
    "Is everyone delivered?",
    "What is wrong?",
    "What do I do?",
)
HEADLINES = {"good": "Healthy", "warn": "Needs a look", "bad": "Failing"}
_LEVELS = tuple(HEADLINES)  # from good to bad

_UNKNOWN = Meaning(
    "", "bad", "ended in a way this report does not know", "See the end of the log file."
)
_LOOK_AT_FILES = (
    "See below what is wrong with the files. Then run the job, and write this page again."
)
_FINISHED = {ExitStatus.OK, ExitStatus.NOT_ALL_DELIVERED}


class Finding(NamedTuple):
    """A line of the answer to *question*, how bad it is, and what to do about it."""

    question: str
    text: str
    level: str = "good"
    advice: str = ""


@dataclass(frozen=True)
class Health:
    """The verdict: ``level`` is good, warn, bad or idle; ``answers`` has the lines by question."""

    level: str
    headline: str
    answers: dict[str, list[str]]


def judge(history: History, now: datetime) -> Health:
    """Judge the job as of *now*, by its last run and by when that was."""
    last, judged = history.last, history.judged
    findings = trouble = [*_killed(history), *_overdue(history, now)]
    if last is None:
        findings = [*trouble, _nothing_readable(history)]
    else:
        before = [run for run in judged if run is not last]
        findings = [
            *trouble,
            *_ran(last, before, now, on_time=bool(judged) and not trouble),
            *_next(history, now),
            *_delivered(last, judged, on_time=not trouble),
            *_wrong(last, history.errors, before),
            *_unreadable(last, history.skipped),
            *_two_jobs(judged),
        ]
    level = max((finding.level for finding in findings), key=_LEVELS.index)
    headline = HEADLINES[level]
    if last and last.tolerated:
        headline += f", {_tolerated(last)}"
    if last and not judged:
        level, headline = "idle", "Not in use yet"
        text = "So far there were only dry runs and runs with --limit."
        findings.append(Finding(RAN, text, advice="When they look right, run python3 main.py."))
    findings += [Finding(TO_DO, text) for text in _advice(findings)]
    answers = {
        question: [finding.text for finding in findings if finding.question == question]
        for question in QUESTIONS
    }
    return Health(level, headline, {q: lines for q, lines in answers.items() if lines})


def meaning_of(run: PastRun) -> Meaning:
    """Return what the run's exit status says."""
    found = (meaning for status, meaning in MEANINGS.items() if status == run.exit_status)
    return next(found, _UNKNOWN)


def how_it_ended(run: PastRun) -> str:
    """Return what became of the run, in a few words."""
    status = "unknown" if run.exit_status is None else run.exit_status
    return f"{meaning_of(run).event} (exit status {status})"


def _advice(findings: Sequence[Finding]) -> list[str]:
    """Return what to do, the worst first, nothing twice."""
    worst_first = sorted(findings, key=lambda finding: -_LEVELS.index(finding.level))
    return [*dict.fromkeys(f.advice for f in worst_first if f.advice)] or ["Nothing."]


def _nothing_readable(history: History) -> Finding:
    if not history.files:
        return Finding(RAN, "No run has left a results file yet.")
    return Finding(RAN, "None of the results files can be read.", "bad", _LOOK_AT_FILES)


def _ran(
    last: PastRun, before: Sequence[PastRun], now: datetime, *, on_time: bool
) -> list[Finding]:
    meaning, usual = meaning_of(last), usual_of(before, lambda run: run.duration_s)
    finished = last.exit_status in _FINISHED
    text = (
        f"{'Yes. ' if finished and on_time else ''}The last run: {when(last.started_at)}, "
        f"{duration(max(0.0, (now - last.started_at).total_seconds()))} before this page. "
        f"It {how_it_ended(last)} after {duration(last.duration_s)}"
        f"{f'; {duration(usual)} is usual' if finished and usual else ''}."
    )
    findings = [Finding(RAN, text, meaning.level, meaning.advice)]
    if finished and usual and last.duration_s > max(2 * usual, _LONG_ENOUGH_S):
        text = "The run took more than double the usual time."
        advice = "See the requests of the last run, below: slow answers, repeats or rate limits?"
        findings.append(Finding(WRONG, text, "warn", advice))
    return findings


def _killed(history: History) -> list[Finding]:
    """Tell of a run since the last one that has left no results file."""
    last = history.last
    return [
        Finding(
            RAN,
            f"No: the run of {when(run.started_at)} was killed before it could save its results. "
            "Some of its rows may have been delivered.",
            "bad",
            "Find out from the system's log what killed the run: a restart, or too little memory? "
            f"{RUN_AGAIN}",
        )
        for run in history.unfinished
        if not run.alive and (last is None or run.started_at > last.started_at)
    ]


def _delivered(last: PastRun, judged: Sequence[PastRun], *, on_time: bool) -> list[Finding]:
    findings = [Finding(DELIVERED, _how_many(last, on_time=on_time))]
    if missed := last.counts[RowStatus.NOT_ATTEMPTED]:
        text = f"The run ended before it came to {missed:,} of them."
        findings.append(Finding(DELIVERED, text))
    if forgotten := last.counts[RowStatus.FORGOTTEN]:
        text = (
            f"{count(forgotten, 'row')} cannot be delivered, for good: the person has asked "
            "Iterable to forget them. That needs nothing."
        )
        findings.append(Finding(DELIVERED, text))
    if judged and last.exit_status != ExitStatus.OK:
        good = [run for run in judged if run.exit_status == ExitStatus.OK]
        text = "No run on this page has delivered everyone."
        if good:
            text = f"Everyone was last delivered on {when(good[-1].started_at)}."
        findings.append(Finding(DELIVERED, text))
    return findings


def _tolerated(run: PastRun) -> str:
    return f"{count(run.tolerated, 'row')} refused, {run.max_refused_rows:,} allowed"


def _how_many(run: PastRun, *, on_time: bool) -> str:
    rows, sent = count(run.rows, "row"), run.counts[RowStatus.SUCCESSFUL]
    if run.dry_run:
        return f"Nothing was sent: it was a dry run of {rows}."
    if run.undelivered:
        text = f"No: {run.undelivered:,} of {rows} were not delivered."
        return text.replace("No:", "All but a few:") if run.tolerated else text
    if run.exit_status != ExitStatus.OK and not run.rows:
        return "No: nothing was sent."
    yes = "Yes:" if on_time else "Not since the last run, which delivered"
    if run.counts[RowStatus.UNCHANGED]:
        return f"{yes} {sent:,} of {rows} were sent; Iterable already held the others."
    many = f"{sent:,} of" if run.counts[RowStatus.FORGOTTEN] else "all"
    return f"{yes} {many} {rows}." if run.rows else "Query 2 returned no row to deliver."


def _wrong(last: PastRun, errors: Sequence[ErrorGroup], before: Sequence[PastRun]) -> list[Finding]:
    return [*_reasons(last, errors), *_filtered(last), *_unusual_rows(last, before)]


def _reasons(last: PastRun, errors: Sequence[ErrorGroup]) -> list[Finding]:
    """Name what ended the run, else the most frequent reasons why its rows failed."""
    texts = [last.error]
    if not last.error:
        texts = [f"{count(error.rows, 'row')}: {error.label}" for error in errors[:_ERRORS_NAMED]]
        if (more := len(errors) - _ERRORS_NAMED) > 0:
            texts.append(f"{count(more, 'more reason')}, below.")
    return [Finding(WRONG, text) for text in texts]


def _filtered(run: PastRun) -> list[Finding]:
    """Say which fields the project does not take."""
    return [
        Finding(
            WRONG,
            f"The project takes no new fields: Iterable left {names(fields)} out of "
            f"{call.replace('_', '/')}.",
            "warn",
            f"Create {names(fields)} in Iterable. Then the rows are sent once more.",
        )
        for call, fields in run.filtered_fields.items()
        if fields
    ]


def _unusual_rows(last: PastRun, before: Sequence[PastRun]) -> list[Finding]:
    usual = usual_of(before, lambda run: run.rows)
    if usual is None or last.exit_status not in _FINISHED:
        return []
    found = f"Query 2 returned {count(last.rows, 'row')},"
    if last.rows < usual / 2:
        text, setting = f"{found} less than half of the usual {usual:,.0f}.", "MIN_ROWS"
    elif last.rows > usual * 2:
        text, setting = f"{found} more than double the usual {usual:,.0f}.", "MAX_ROWS"
    else:
        return []
    advice = (
        "See whether the tables behind Query 2 hold what they should. "
        f"{setting} can stop such a run before it sends."
    )
    return [Finding(WRONG, text, "warn", advice)]


def _unreadable(last: PastRun, skipped: Sequence[tuple[str, str]]) -> list[Finding]:
    """Say so if there is a newer file than that of the last run, but it cannot be read."""
    if newer := [name for name, _ in skipped if name > last.path.name]:
        text = f"Runs after that one are not told of here: {names(newer)} cannot be read."
        return [Finding(WRONG, text, "warn", _LOOK_AT_FILES)]
    return []


def _two_jobs(judged: Sequence[PastRun]) -> list[Finding]:
    """Say so if two queries take turns. A query that somebody edits does not come back."""
    turns = [query for query, _ in groupby(run.query_sha256 for run in judged if run.query_sha256)]
    if len(turns) < len(set(turns)) + 2:
        return []
    text = (
        "Two jobs with different queries save their results in this folder. Only the newest run is "
        "judged here, so one job's failure can hide behind the other's success."
    )
    return [Finding(WRONG, text, "warn", "Give each job a RESULTS_DIR of its own.")]


def _overdue(history: History, now: datetime) -> list[Finding]:
    """Say so if nothing began, or nothing finished, for more than twice the usual time."""
    judged = history.judged
    interval = interval_s(judged)
    if interval is None:
        return []
    began = max([judged[-1].started_at, *(run.started_at for run in history.unfinished)])
    limit = longest_silence_s(judged)
    if (silence := (now - began).total_seconds()) > limit:
        text = (
            f"No: none began for {duration(silence)}; usually one does every {duration(interval)}."
        )
        advice = (
            "See whether the machine was up, and whether cron or the systemd timer still starts "
            "the job. Then run it by hand."
        )
        return [Finding(RAN, text, "bad", advice)]
    finished = [run for run in judged if run.exit_status in _FINISHED]
    since = (now - (finished or judged[:1])[-1].started_at).total_seconds()
    if judged[-1] in finished or since <= limit:
        return []
    return [Finding(RAN, f"No: no run has come to its last row for {duration(since)}.", "bad")]


def _next(history: History, now: datetime) -> list[Finding]:
    """Say until when this page holds: it is often read later than it is written."""
    if running := [run.started_at for run in history.unfinished if run.alive]:
        text = f"A run has been under way since {when(running[-1])}: write this page again later."
        return [Finding(RAN, text)]
    interval = interval_s(history.judged)
    if interval is None:
        return []
    due = history.judged[-1].started_at + timedelta(seconds=interval)
    text = f"This page is out of date after {when(due)}, when the next run is due."
    return [Finding(RAN, text)] if due > now else []
