"""Turns numbers into what the page shows: times, durations and charts.

Spaces inside times and durations do not break, so that no line begins with a unit.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

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


class Bar(NamedTuple):
    """One run: the CSS class and the height of each part, in percent of the chart; its tooltip."""

    parts: list[tuple[str, float]]
    text: str
    failed: bool


class Chart(NamedTuple):
    """What the page draws as one chart.

    *legend* has names and CSS classes. *days* has a label, often empty, and the runs of each day up
    to today. *y_ticks* are heights in percent and their labels.
    """

    title: str
    unit: str
    legend: list[tuple[str, str]]
    days: list[tuple[str, list[Bar]]]
    y_ticks: list[tuple[float, str]]


def stacked_bars(
    title: str,
    unit: str,
    runs: Sequence[tuple[datetime, bool]],
    groups: Sequence[tuple[str, str, Sequence[float]]],
    now: datetime,
) -> Chart:
    """Return one bar for each run, made of *groups* of (name, CSS class, values).

    *runs* says when each run began, oldest first, and whether it failed. A failed run gets a mark,
    as most of them have no rows and thus no bar.
    """
    groups = [group for group in groups if any(group[2])]
    highest = max(map(sum, zip(*(values for _, _, values in groups), strict=True)), default=0)
    top, y_ticks = _y_axis(highest)
    bars = defaultdict(list)
    for i, (time, failed) in enumerate(runs):
        values = [(name, css_class, each[i]) for name, css_class, each in groups if each[i]]
        told = ", ".join(f"{_number(value)} {name}" for name, _, value in values) or "none"
        parts = [(css_class, 100 * value / top) for _, css_class, value in values]
        bars[time.date()].append(Bar(parts, f"{when(time)}: {told}", failed))
    legend = [(name, css_class) for name, css_class, _ in groups]
    axis = _x_axis(runs[0][0].date(), now.date())
    return Chart(title, unit, legend, [(text, bars[day]) for day, text in axis], y_ticks)


def _x_axis(first: date, today: date) -> list[tuple[date, str]]:
    """Return every day from *first* to *today*, and for a few of them their names."""
    days = max(LEAST_DAYS, (today - first).days + 1)
    step = math.ceil(days / _MOST_LABELS)
    axis = [(ago, today - timedelta(days=ago)) for ago in reversed(range(days))]
    return [(day, "" if ago % step else f"{day.day} {day:%b}") for ago, day in axis]


def _y_axis(highest: float) -> tuple[float, list[tuple[float, str]]]:
    """Return a round value for the top of a chart, and the labels of the axis."""
    power = 10 ** math.floor(math.log10(highest or 1))
    top = next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= highest)
    return top, [(0, "0"), (50, _number(top / 2)), (100, _number(top))]


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
