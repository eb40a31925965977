"""The shapes of the charts, and durations in words."""

from datetime import timedelta
from itertools import pairwise

import pytest

from monitoring.report_charts import LEAST_DAYS, count, duration, stacked_bars
from tests.results import LAST

DAYS = [LAST + timedelta(days=n) for n in range(4)]


def chart_of(groups, times=DAYS, unit="rows", now=None):
    """Return the chart of runs of which those without anything in *groups* failed."""
    failed = [not any(values[i] for _, _, values in groups) for i in range(len(times))]
    runs = list(zip(times, failed, strict=True))
    return stacked_bars("Rows", unit, runs, groups, now or times[-1] + timedelta(hours=4))


def test_bars_stand_on_each_other_and_reach_the_top_of_a_round_scale():
    groups = [("good", "g", [10, 0, 20, 40]), ("lost", "b", [10, 0, 0, 0]), ("never", "n", [0] * 4)]
    chart = chart_of(groups)
    assert [label for _, label in chart.y_ticks] == ["0", "20", "40"]
    assert chart.legend == [("good", "g"), ("lost", "b")]
    bars = [run for _, runs in chart.days for run in runs]
    assert [bar.parts for bar in bars] == [
        [("g", 25), ("b", 25)],
        [],
        [("g", 50)],
        [("g", 100)],
    ]
    assert bars[0].text.replace("\xa0", " ") == "Sun 1 Mar 2026, 02:15 UTC: 10 good, 10 lost"
    assert bars[1].text.endswith(": none")
    assert [bar.failed for bar in bars] == [False, True, False, False]


def test_a_value_that_is_no_number_of_rows_has_parts():
    chart = chart_of([("hours", "time", [0.5, 1.25])], DAYS[:2], "hours")
    assert [label for _, label in chart.y_ticks] == ["0", "1", "2"]


def test_a_day_without_a_run_is_a_gap_and_the_runs_of_one_day_share_its_place():
    times = [DAYS[0], DAYS[3], DAYS[3] + timedelta(hours=9)]
    chart = chart_of([("good", "g", [1, 1, 1])], times)
    assert [len(runs) for _, runs in chart.days] == [0] * (LEAST_DAYS - 4) + [1, 0, 0, 2]


@pytest.mark.parametrize("days", [1, 15, 30, 90])
def test_the_axis_ends_today_and_its_dates_never_touch(days):
    chart = chart_of([], [LAST - timedelta(days=days - 1)], now=LAST)
    assert len(chart.days[-days][1]) == 1
    labels = [label for label, _ in chart.days]
    places = [place for place, label in enumerate(labels) if label]
    assert (labels[-1], len(labels), len(places) >= 2) == ("1 Mar", max(LEAST_DAYS, days), True)
    assert all(after - before > len(labels) / 5 for before, after in pairwise(places))


def test_durations_are_told_in_two_units_and_things_in_their_number():
    told = [duration(seconds).replace("\xa0", " ") for seconds in (0.04, 9.96, 12, 59.6, 61, 90000)]
    assert told == ["0.0 s", "10.0 s", "12 s", "1 min", "1 min 1 s", "1 d 1 h"]
    assert [count(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
