"""Judges the job by its runs: whether it is healthy, and what speaks against it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise, takewhile
from statistics import median, quantiles

from monitoring.report_history import History
from monitoring.report_text import about, duration, names, short
from records.exit_statuses import MEANINGS, ExitStatus, Meaning
from records.outcomes import RowStatus
from records.results_reader import PastRun

# What is usual is told from this many runs before the last one, if there are enough.
_USUAL_RUNS, _USUAL_AT_LEAST = 30, 3
# Below this the last run took too little time for its length to say anything.
_LONG_ENOUGH_S = 5.0

_UNKNOWN = Meaning("", "bad", "ended in a way this report does not know", "See the log file.")

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
    """The answer to: is the job healthy? ``level`` is good, warn, bad or idle.

    *notes* are worth knowing of the last run, and nothing is to be done about them.
    """

    level: str
    headline: str
    sentence: str
    error: str = ""
    advice: str = ""
    warnings: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judge(history: History, now: datetime) -> Health:
    """Say whether the job is healthy at the time *now*, and what speaks against it."""
    last, judged = history.last, history.judged
    if last is None:
        return Health("bad", "Unreadable", "None of the results files can be read.")
    measures = _measures(last, [run for run in judged if run is not last])
    sentence = f"The last run {how_it_ended(last)}."
    meaning, warnings = meaning_of(last), _filtered(last)
    if judged:
        overdue = _overdue(judged, now)
        warnings = [*overdue, *warnings, *(measure.note for measure in measures if measure.note)]
        level = "bad" if overdue else meaning.level
        if level == "good" and warnings:
            level = "warn"
        headline = {"good": "Healthy", "warn": "Needs a look", "bad": "Failing"}[level]
    else:
        level, headline = "idle", "Not in use yet"
        sentence += " No run of the whole job yet: only dry runs or runs with --limit."
    return Health(
        level,
        headline,
        sentence,
        last.error,
        advice=meaning.advice if judged else "",
        warnings=warnings,
        facts=_facts(last, judged, now),
        measures=measures,
        notes=_notes(last),
    )


def meaning_of(run: PastRun) -> Meaning:
    """Return what the run's exit status says."""
    found = (meaning for status, meaning in MEANINGS.items() if status == run.exit_status)
    return next(found, _UNKNOWN)


def how_it_ended(run: PastRun) -> str:
    """Return what goes behind "The last run"."""
    status = "unknown" if run.exit_status is None else run.exit_status
    if run.exit_status == ExitStatus.OK:
        return f"{_how_it_succeeded(run)} (exit status {status})"
    lost = f"; {run.undelivered:,} of {run.rows:,} rows were not delivered"
    return f"{meaning_of(run).event}{lost if run.undelivered else ''} (exit status {status})"


def _how_it_succeeded(run: PastRun) -> str:
    if not run.rows:
        return "found nothing to deliver"
    if run.dry_run:
        return f"was a dry run of {run.rows:,} rows; nothing was sent"
    if run.counts[RowStatus.UNCHANGED]:
        changed = run.counts[RowStatus.SUCCESSFUL]
        return f"delivered what had changed: {changed:,} of {run.rows:,} rows"
    if forgotten := run.counts[RowStatus.FORGOTTEN]:
        return f"delivered every row that can be: {run.rows - forgotten:,} of {run.rows:,}"
    return f"{meaning_of(run).event}: {run.rows:,} of {run.rows:,}"


def _notes(run: PastRun) -> list[str]:
    """Return what is worth knowing of *run*, and needs nothing."""
    notes = []
    if forgotten := run.counts[RowStatus.FORGOTTEN]:
        notes.append(
            f"Forgotten rows: {forgotten:,}. The person asked Iterable to forget them: such a row "
            "can never be delivered, and nothing is to be done."
        )
    if run.superseded:
        notes.append(
            f"Superseded profiles: {run.superseded:,}. A row before theirs in Query 2 has the same "
            "address, and its profile is the one that is sent. Each row's event is sent."
        )
    return notes


def _filtered(run: PastRun) -> list[str]:
    """Say which fields the project does not take."""
    return [
        f"The project takes no new fields and left out {names(fields)} of {call.replace('_', '/')}"
        ": create them in Iterable. Until then such rows are sent again at every run"
        for call, fields in run.filtered_fields.items()
        if fields
    ]


def _facts(last: PastRun, judged: Sequence[PastRun], now: datetime) -> list[Fact]:
    facts = [("Last run", *_how_long_ago(last.started_at, now))]
    if not judged:
        return facts
    good = [run for run in judged if run.exit_status == ExitStatus.OK]
    success = (
        _how_long_ago(good[-1].started_at, now) if good else ("none", f"in {_runs(len(judged))}")
    )
    facts.append(("Last success", *success))
    ended_well = last.exit_status == ExitStatus.OK
    streak = list(
        takewhile(lambda r: (r.exit_status == ExitStatus.OK) == ended_well, reversed(judged))
    )
    facts.append(("Streak", _runs(len(streak)), "succeeded" if ended_well else "did not succeed"))
    if interval := _usual_interval_s(judged):
        facts.append(("Rhythm", f"every {about(interval)}", "the median of the runs so far"))
    return facts


def _overdue(judged: Sequence[PastRun], now: datetime) -> list[str]:
    """Say so if there was no success for more than twice the usual time between two runs."""
    interval = _usual_interval_s(judged)
    if interval is None:
        return []
    # A job of working days has a long gap every week.
    limit = max(2 * interval, 1.25 * quantiles(_gaps_s(judged), n=10, method="inclusive")[-1])
    if (silence := (now - judged[-1].started_at).total_seconds()) > limit:
        return [
            f"No run for {duration(silence)}; it usually runs every {about(interval)}. "
            "Is cron, or what else starts it, at work?"
        ]
    successes = [run.started_at for run in judged if run.exit_status == ExitStatus.OK]
    since = (now - (successes or [judged[0].started_at])[-1]).total_seconds()
    return [f"No success for {duration(since)}"] if since > limit else []


def _usual_interval_s(runs: Sequence[PastRun]) -> float | None:
    """Return the median time between the starts of two runs, in seconds.

    None without a rhythm: after a few runs, or when somebody starts them by hand now and then.
    """
    gaps = _gaps_s(runs)
    if len(gaps) < _USUAL_AT_LEAST:
        return None
    usual = median(gaps)
    regular = sum(usual / 2 < gap < usual * 1.5 for gap in gaps)
    return usual if regular > len(gaps) * 0.6 else None


def _gaps_s(runs: Sequence[PastRun]) -> list[float]:
    recent = runs[-_USUAL_RUNS - 1 :]
    return [
        (after.started_at - before.started_at).total_seconds() for before, after in pairwise(recent)
    ]


def _measures(last: PastRun, others: Sequence[PastRun]) -> list[Measure]:
    """Compare the last run with the median of those before it."""
    before = others[-_USUAL_RUNS:]
    long_enough = last.duration_s >= _LONG_ENOUGH_S
    finished = meaning_of(last).level == "good" or last.exit_status == ExitStatus.NOT_ALL_DELIVERED
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

    def __init__(self, last: PastRun, before: Sequence[PastRun]) -> None:
        self._last, self._before = last, before

    def of(
        self,
        name: str,
        value_of: Callable[[PastRun], float | None],
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


def _how_long_ago(moment: datetime, now: datetime) -> tuple[str, str]:
    return f"{duration(max(0.0, (now - moment).total_seconds()))} ago", f"{moment:%Y-%m-%d %H:%M}"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
