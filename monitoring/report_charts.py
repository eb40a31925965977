"""Turns numbers into what the page shows: times and durations, and the shapes of a chart.

All lengths are in percent of the chart's width or height. The horizontal axis has a column for each
day up to today, so that a day without a run is a gap; the runs of one day share its column.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

LEAST_DAYS, MOST_DAYS = 14, 90
_MOST_LABELS = 4
# One failed row among a million must still be seen.
_LEAST_HEIGHT = 1.5
# Unit, its seconds, the next smaller unit, its seconds.
_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


# Spaces inside these do not break: no line begins with a unit.


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
    """Return a number of things, which *noun* names in the singular."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


class Column(NamedTuple):
    """One run: its place, the CSS class, bottom and height of each part, and what it says."""

    x: float
    width: float
    parts: list[tuple[str, float, float]]
    text: str
    failed: bool


class Chart(NamedTuple):
    """All there is to draw of one chart; *legend* has names and CSS classes, ticks their labels."""

    title: str
    unit: str
    legend: list[tuple[str, str]]
    columns: list[Column]
    y_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, str]]


def stacked_bars(
    title: str,
    unit: str,
    runs: Sequence[tuple[datetime, bool]],
    groups: Sequence[tuple[str, str, Sequence[float]]],
    now: datetime,
) -> Chart:
    """Return one bar for each run, made of *groups* of (name, CSS class, values).

    *runs* says when each run began, oldest first, and whether it failed. Such a run gets a mark:
    most of them have no rows, so no bar.
    """
    groups = [group for group in groups if any(group[2])]
    highest = max(map(sum, zip(*(values for _, _, values in groups), strict=True)), default=0)
    top, y_ticks = _y_axis(highest)
    times = [time for time, _ in runs]
    days = max(LEAST_DAYS, (now.date() - times[0].date()).days + 1)
    columns = []
    for i, (x, width) in enumerate(_places(times, now.date(), days)):
        values = [(name, css_class, each[i]) for name, css_class, each in groups if each[i]]
        told = ", ".join(f"{_number(value)} {name}" for name, _, value in values) or "none"
        parts = _stacked([(css_class, 100 * value / top) for _, css_class, value in values])
        columns.append(Column(x, width, parts, f"{when(times[i])}: {told}", runs[i][1]))
    legend = [(name, css_class) for name, css_class, _ in groups]
    return Chart(title, unit, legend, columns, y_ticks, _x_axis(now.date(), days))


def _places(times: Sequence[datetime], today: date, days: int) -> Iterator[tuple[float, float]]:
    """Yield the left side and the width of each run's column."""
    runs_of_day = Counter(time.date() for time in times)
    seen: Counter[date] = Counter()
    for day in (time.date() for time in times):
        width = 100 / days / runs_of_day[day]
        yield 100 * (days - 1 - (today - day).days) / days + width * seen[day], width
        seen[day] += 1


def _stacked(heights: Sequence[tuple[str, float]]) -> list[tuple[str, float, float]]:
    parts, bottom = [], 0.0
    for css_class, height in heights:
        parts.append((css_class, bottom, max(height, _LEAST_HEIGHT)))
        bottom += max(height, _LEAST_HEIGHT)
    return parts


def _x_axis(today: date, days: int) -> list[tuple[float, str]]:
    """Return the dates of a few days, the last of them today."""
    step = math.ceil(days / _MOST_LABELS)
    dates = [(ago, today - timedelta(days=ago)) for ago in range(0, days, step)]
    return [(100 * (days - ago - 0.5) / days, f"{day.day} {day:%b}") for ago, day in dates][::-1]


def _y_axis(highest: float) -> tuple[float, list[tuple[float, str]]]:
    """Return a round value for the top of a chart, and the labels of the axis."""
    power = 10 ** math.floor(math.log10(highest or 1))
    top = next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= highest)
    return top, [(0, "0"), (50, _number(top / 2)), (100, _number(top))]


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
