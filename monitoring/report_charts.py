"""Turns numbers into what the page shows: times, durations and the axes of its charts.

Spaces inside times and durations do not break, so that no line begins with a unit.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from records.run import RunRecord

LEAST_DAYS, MOST_DAYS = 14, 90
_MOST_LABELS = 4
# Unit, its seconds, the next smaller unit, its seconds.
_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


def when(moment: datetime) -> str:
    """Return a time to the minute."""
    return f"{moment:%a} {moment.day} {moment:%b %Y, %H:%M}\xa0UTC"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f}\xa0s"
    whole = round(seconds)
    for unit, size, smaller, part in _UNITS:
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size}\xa0{unit}" + (f" {rest}\xa0{smaller}" if rest else "")
    return f"{whole}\xa0s"


def count(number: int, noun: str) -> str:
    """Return *number* with its *noun*, which is given in the singular."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def short(value: float) -> str:
    """Return a value on the axis of a chart or beside a bar."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def round_up(highest: float) -> float:
    """Return a round value for the top of a chart."""
    power = 10.0 ** math.floor(math.log10(highest or 1))
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= highest)


def by_day(runs: Sequence[RunRecord], now: datetime) -> list[tuple[str, list[RunRecord]]]:
    """Return the runs of each day up to today, and for a few days their names, else ""."""
    today = now.date()
    number = max([LEAST_DAYS, *((today - run.started_at.date()).days + 1 for run in runs)])
    step, days = math.ceil(number / _MOST_LABELS), []
    for ago in reversed(range(number)):
        day = today - timedelta(days=ago)
        label = "" if ago % step else f"{day.day} {day:%b}"
        days.append((label, [run for run in runs if run.started_at.date() == day]))
    return days
