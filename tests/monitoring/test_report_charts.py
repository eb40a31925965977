"""The shapes of the plots."""

import re
from datetime import timedelta
from itertools import pairwise

import pytest

from monitoring.report_charts import RunAxis, stacked_bars
from tests.results import LAST

DAYS = [LAST + timedelta(days=n) for n in range(4)]


def test_bars_stand_on_each_other_and_reach_the_top_of_a_round_scale():
    groups = [("good", "g", [10, 0, 20, 40]), ("lost", "b", [10, 0, 0, 0]), ("never", "n", [0] * 4)]
    chart = stacked_bars(RunAxis(DAYS), "Rows", "rows", groups)
    assert [tick.label for tick in chart.y_ticks] == ["0", "10", "20", "30", "40"]
    bars = [re.findall(r"M\S+ (\S+)h\S+v-([\d.]+)", series.path) for series in chart.series]
    assert bars == [
        [("100.000", "25.000"), ("100.000", "50.000"), ("100.000", "100.000")],
        [("75.000", "25.000")],
    ]
    assert chart.slots[0].text.replace("\xa0", " ") == "Sun 1 Mar 2026, 02:15 UTC: 10 good, 10 lost"


def test_one_failed_row_of_a_million_is_seen():
    groups = [("good", "g", [999_999]), ("lost", "b", [1])]
    chart = stacked_bars(RunAxis(DAYS[:1]), "Rows", "rows", groups)
    assert re.search(r"v-1.500h", chart.series[1].path)


def test_a_bar_tells_its_value_and_the_plot_its_first_and_last():
    chart = stacked_bars(RunAxis(DAYS[:2]), "Duration", "hours", [("hours", "time", [0.5, 1.25])])
    assert chart.description.replace("\xa0", " ") == (
        "2 runs, the first of Sun 1 Mar 2026, 02:15 UTC: 0.5 hours; the last of Mon 2 Mar 2026, "
        "02:15 UTC: 1.25 hours."
    )
    assert [tick.label for tick in chart.y_ticks] == ["0", "0.5", "1", "1.5"]


def test_runs_that_failed_without_any_row_are_marked():
    chart = stacked_bars(RunAxis(DAYS), "Rows", "rows", [("good", "g", [5, 0, 0, 5])], [1, 2])
    assert (chart.series[-1].name, chart.series[-1].path) == (
        "run failed",
        "M400.00 100h0M600.00 100h0",
    )
    assert chart.slots[1].text.endswith(": none")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_runs_get_bars_of_a_bar_width(count):
    chart = stacked_bars(RunAxis(DAYS[:count]), "Rows", "rows", [("good", "g", [5] * count)])
    assert re.findall(r"h([\d.]+)v", chart.series[0].path) == ["50.00"] * count


@pytest.mark.parametrize("count", [1, 2, 5, 30, 90])
@pytest.mark.parametrize("hours", [0.01, 24, 24 * 30])
def test_dates_on_an_axis_never_touch(count, hours):
    ticks = RunAxis([LAST + timedelta(hours=hours * n) for n in range(count)]).ticks()
    assert ticks
    assert all(after.at - before.at > 15 for before, after in pairwise(ticks))
