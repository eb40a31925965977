"""Turns numbers into the shapes of a plot: where lines, bars, grid and labels go.

A plot is ``WIDTH`` by ``HEIGHT`` units and is stretched to the space it is given, so only lines and
bars are drawn in it. Labels are placed beside it, in percent: they stay readable on a phone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from monitoring.report_text import short, when

WIDTH, HEIGHT = 1000, 100
# With fewer runs than this, bars stay as narrow as if there were so many.
_MIN_SLOTS = 12
_MAX_X_LABELS = 5
# Points are marked one by one up to this many.
_MAX_DOTS = 31
# One failed row among a million must still be seen.
_LEAST_SHARE = 0.015

Value = float | int | None


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis, at a percentage of its length."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Series:
    """One line or one colour of the bars; *path* is SVG path data."""

    name: str
    css_class: str
    path: str
    dots: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """The column of one run; *text* is shown where the pointer rests."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All there is to draw of one plot."""

    name: str
    title: str
    unit: str
    kind: str
    description: str
    series: list[Series]
    y_ticks: list[Tick]
    x_ticks: list[Tick]
    slots: list[Slot]
    wide: bool = False


class RunAxis:
    """The horizontal axis: one column for each run, evenly spaced, the oldest to the left."""

    def __init__(self, times: Sequence[datetime]) -> None:
        self.times = times
        self.width = WIDTH / max(len(times), _MIN_SLOTS)
        self._days = (times[-1] - times[0]).days
        self._with_time = self._days < 2
        self._left = (WIDTH - self.width * len(times)) / 2

    def left(self, index: int) -> float:
        """Return where the column of a run begins."""
        return self._left + index * self.width

    def middle(self, index: int) -> float:
        """Return the middle of a run's column."""
        return self.left(index) + self.width / 2

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

    def slots(self, texts: Sequence[str]) -> list[Slot]:
        """Return each run's column with what to say about it."""
        return [
            Slot(round(self.left(i), 2), round(self.width, 2), f"{when(moment)}: {text}")
            for i, (moment, text) in enumerate(zip(self.times, texts, strict=True))
        ]


def stacked_bars(
    axis: RunAxis,
    name: str,
    title: str,
    groups: Sequence[tuple[str, str, Sequence[int]]],
    failed: Sequence[int] = (),
) -> Chart:
    """Return one bar of rows for each run, made of *groups* of (name, CSS class, values).

    The runs with an index in *failed* get a mark: most of them have no rows, so no bar.
    """
    groups = [group for group in groups if any(group[2])]
    columns = list(zip(*(values for _, _, values in groups), strict=True))
    totals = [sum(column) for column in columns] or [0] * len(axis.times)
    top, y_ticks = _y_axis(max(totals, default=0), whole=True)
    series = _stacks(axis, groups, top)
    if failed:
        marks = "".join(f"M{axis.middle(i):.2f} {HEIGHT}h0" for i in failed)
        series.append(Series("run failed", "bad", "", marks))
    texts = [
        ", ".join(f"{values[i]:,} {label}" for label, _, values in groups if values[i]) or "no rows"
        for i in range(len(totals))
    ]
    sums = ", ".join(f"{sum(values):,} {label}" for label, _, values in groups) or "no rows"
    description = (
        f"{_span(axis)} Rows in all: {sums}. At most {max(totals, default=0):,} in one run."
    )
    return Chart(
        *(name, title, "rows", "bars", description, series, y_ticks, axis.ticks()),
        axis.slots(texts),
        wide=True,
    )


def lines(
    axis: RunAxis,
    name: str,
    title: str,
    unit: str,
    groups: Sequence[tuple[str, str, Sequence[Value]]],
) -> Chart | None:
    """Return a line for each of *groups* of (name, CSS class, values).

    A line is broken where a value is None. Without any value at all there is no plot.
    """
    known = [value for _, _, values in groups for value in values if value is not None]
    if not known:
        return None
    top, y_ticks = _y_axis(max(known))
    series = [
        Series(label, css_class, *_line(axis, [None if v is None else v / top for v in values]))
        for label, css_class, values in groups
    ]
    texts = [_values_text(groups, i, unit) for i in range(len(axis.times))]
    description = f"{_span(axis)} " + " ".join(
        f"{label}: {short(min(found))} to {short(max(found))} {unit}, last {short(found[-1])}."
        for label, _, values in groups
        if (found := [value for value in values if value is not None])
    )
    return Chart(
        *(name, title, unit, "lines", description, series, y_ticks, axis.ticks()), axis.slots(texts)
    )


def _stacks(
    axis: RunAxis, groups: Sequence[tuple[str, str, Sequence[int]]], top: float
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
    gap = axis.width * 0.15
    width, height = axis.width - 2 * gap, share * HEIGHT
    bottom = HEIGHT * (1 - below)
    return f"M{axis.left(index) + gap:.2f} {bottom:.3f}h{width:.2f}v{-height:.3f}h{-width:.2f}z"


def _line(axis: RunAxis, shares: Sequence[float | None]) -> tuple[str, str]:
    """Return the path of a line and of its dots. A point without neighbours always has a dot."""
    path, dots = [], []
    for i, share in enumerate(shares):
        if share is None:
            continue
        point = f"{axis.middle(i):.2f} {HEIGHT * (1 - share):.3f}"
        joined = i > 0 and shares[i - 1] is not None
        path.append(f"{'L' if joined else 'M'}{point}")
        alone = not joined and (i + 1 == len(shares) or shares[i + 1] is None)
        if alone or len(shares) <= _MAX_DOTS:
            dots.append(f"M{point}h0")
    return "".join(path), "".join(dots)


def _y_axis(highest: float, *, whole: bool = False) -> tuple[float, list[Tick]]:
    """Return the value at the top of a plot, and round labels from 0 up to it."""
    if highest <= 0:
        return 1.0, [Tick(0, "0")]
    rough = highest / 4
    power = 10 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (1, 2, 2.5, 5, 10)]
    step = next(s for s in steps if s >= rough and not (whole and s % 1))
    count = math.ceil(highest / step - 1e-9)
    return step * count, [Tick(100 * i / count, _tick_label(step * i)) for i in range(count + 1)]


def _tick_label(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value:,.0f}" if value >= 1000 else f"{round(value, 6):g}"


def _values_text(groups: Sequence[tuple[str, str, Sequence[Value]]], index: int, unit: str) -> str:
    texts = [
        f"{label} {short(v)} {unit}" for label, _, vs in groups if (v := vs[index]) is not None
    ]
    return ", ".join(texts) or "not measured"


def _span(axis: RunAxis) -> str:
    if len(axis.times) == 1:
        return f"One run, {when(axis.times[0])}."
    return f"{len(axis.times)} runs from {when(axis.times[0])} to {when(axis.times[-1])}."
