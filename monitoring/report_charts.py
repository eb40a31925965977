"""Turns numbers into the shapes of a plot: where bars, grid and labels go.

A plot is ``WIDTH`` by ``HEIGHT`` units and is stretched to the space it is given, so only bars are
drawn in it. Labels are placed beside it, in percent: they stay readable on a phone.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from monitoring.report_text import when

WIDTH, HEIGHT = 1000, 100
# With fewer runs than this, bars stay as narrow as if there were so many.
_MIN_SLOTS, _MAX_BAR = 5, 50
_MAX_X_LABELS = 5
# One failed row among a million must still be seen.
_LEAST_SHARE = 0.015


class Tick(NamedTuple):
    """A label of an axis, at a percentage of its length."""

    at: float
    label: str


class Series(NamedTuple):
    """One colour of the bars; *path* is SVG path data, of points if *is_mark*."""

    name: str
    css_class: str
    path: str
    is_mark: bool = False


class Slot(NamedTuple):
    """The column of one run; *text* is shown where the pointer rests."""

    x: float
    width: float
    text: str


class Chart(NamedTuple):
    """All there is to draw of one plot."""

    title: str
    unit: str
    description: str
    series: list[Series]
    y_ticks: list[Tick]
    x_ticks: list[Tick]
    slots: list[Slot]


class RunAxis:
    """The horizontal axis: one column for each run, evenly spaced, the oldest to the left."""

    def __init__(self, times: Sequence[datetime]) -> None:
        self.times = times
        self.width = WIDTH / max(len(times), _MIN_SLOTS)
        self._days = (times[-1] - times[0]).days
        self._with_time = self._days < 2

    def middle(self, index: int) -> float:
        """Return the middle of a run's column."""
        return WIDTH / 2 + (index - (len(self.times) - 1) / 2) * self.width

    def ticks(self) -> list[Tick]:
        """Return a few dates, with times if all runs are of two days; none twice."""
        count, label_width = len(self.times), 30 if self._with_time else 18
        covered = (count - 1) * self.width / WIDTH * 100
        shown = min(_MAX_X_LABELS, 1 + int(covered / label_width))
        indexes = [round(i * (count - 1) / max(1, shown - 1)) for i in range(shown)]
        ticks: dict[str, Tick] = {}
        for index in indexes:
            label = self._label(self.times[index])
            ticks.setdefault(label, Tick(self.middle(index) / WIDTH * 100, label))
        return list(ticks.values())

    def _label(self, moment: datetime) -> str:
        if self._with_time:
            return f"{moment.day} {moment:%b %H:%M}"
        return f"{moment:%b %Y}" if self._days > 300 else f"{moment.day} {moment:%b}"


def stacked_bars(
    axis: RunAxis,
    title: str,
    unit: str,
    groups: Sequence[tuple[str, str, Sequence[float]]],
    failed: Sequence[int] = (),
) -> Chart:
    """Return one bar for each run, made of *groups* of (name, CSS class, values).

    The runs with an index in *failed* get a mark: most of them have no rows, so no bar.
    """
    groups = [group for group in groups if any(group[2])]
    columns = zip(*(values for _, _, values in groups), strict=True)
    top, y_ticks = _y_axis(max(map(sum, columns), default=0), whole=unit == "rows")
    series = _stacks(axis, groups, top)
    if failed:
        marks = "".join(f"M{axis.middle(i):.2f} {HEIGHT}h0" for i in failed)
        series.append(Series("run failed", "bad", marks, is_mark=True))
    slots = [
        Slot(axis.middle(i) - axis.width / 2, axis.width, f"{when(moment)}: {_text(groups, i)}")
        for i, moment in enumerate(axis.times)
    ]
    description = f"{len(slots)} runs, the first of {slots[0].text}; the last of {slots[-1].text}."
    return Chart(title, unit, description, series, y_ticks, axis.ticks(), slots)


def _text(groups: Sequence[tuple[str, str, Sequence[float]]], index: int) -> str:
    values = [(name, values[index]) for name, _, values in groups if values[index]]
    return ", ".join(f"{_number(value)} {name}" for name, value in values) or "none"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _stacks(
    axis: RunAxis, groups: Sequence[tuple[str, str, Sequence[float]]], top: float
) -> list[Series]:
    """Return the bars of each of *groups*, those of a run on top of each other."""
    below = [0.0] * len(axis.times)
    series = []
    for label, css_class, values in groups:
        path = []
        for i, value in enumerate(values):
            if value:
                share = max(value / top, _LEAST_SHARE)
                path.append(_bar(axis, i, below[i], share))
                below[i] += share
        series.append(Series(label, css_class, "".join(path)))
    return series


def _bar(axis: RunAxis, index: int, below: float, share: float) -> str:
    width, height = min(axis.width * 0.7, _MAX_BAR), share * HEIGHT
    left, bottom = axis.middle(index) - width / 2, HEIGHT * (1 - below)
    return f"M{left:.2f} {bottom:.3f}h{width:.2f}v{-height:.3f}h{-width:.2f}z"


def _y_axis(highest: float, *, whole: bool) -> tuple[float, list[Tick]]:
    """Return the value at the top of a plot, and round labels from 0 up to it."""
    if highest <= 0:
        return 1.0, [Tick(0, "0")]
    rough = highest / 4
    power = 10 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (1, 2, 2.5, 5, 10)]
    step = next(s for s in steps if s >= rough and not (whole and s % 1))
    count = math.ceil(highest / step - 1e-9)
    return step * count, [Tick(100 * i / count, _number(step * i)) for i in range(count + 1)]
