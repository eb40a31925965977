"""The shapes of the plots."""

import re
from datetime import timedelta
from itertools import pairwise

import pytest

from monitoring.report_charts import RunAxis, lines, stacked_bars
from tests.results import LAST

DAYS = [LAST + timedelta(days=n) for n in range(4)]


def test_bars_stand_on_each_other_and_reach_the_top_of_a_round_scale():
    groups = [("good", "g", [10, 0, 20, 40]), ("lost", "b", [10, 0, 0, 0]), ("never", "n", [0] * 4)]
    chart = stacked_bars(RunAxis(DAYS), "name", "Rows", groups)
    assert [tick.label for tick in chart.y_ticks] == ["0", "10", "20", "30", "40"]
    bars = [re.findall(r"M\S+ (\S+)h\S+v-([\d.]+)", series.path) for series in chart.series]
    assert bars == [
        [("100.000", "25.000"), ("100.000", "50.000"), ("100.000", "100.000")],
        [("75.000", "25.000")],
    ]
    assert chart.slots[0].text == "2026-03-01 02:15 UTC: 10 good, 10 lost"


def test_one_failed_row_of_a_million_is_seen():
    groups = [("good", "g", [999_999]), ("lost", "b", [1])]
    chart = stacked_bars(RunAxis(DAYS[:1]), "name", "Rows", groups)
    assert re.search(r"v-1.500h", chart.series[1].path)


def test_a_line_is_broken_where_nothing_was_measured():
    chart = lines(RunAxis(DAYS), "name", "Rate", "rows/s", [("rate", "c", [4, 8, None, 2])])
    assert chart is not None
    assert re.sub(r"[ML](\S+) ", r" ", chart.series[0].path).split() == [
        "50.000",
        "0.000",
        "75.000",
    ]
    assert chart.series[0].path.count("M") == 2
    assert chart.description.endswith("rate: 2 to 8 rows/s, last 2.")
    assert lines(RunAxis(DAYS), "name", "Rate", "rows/s", [("rate", "c", [None] * 4)]) is None


@pytest.mark.parametrize("count", [1, 2, 5, 30, 90])
@pytest.mark.parametrize("hours", [0.01, 24, 24 * 30])
def test_dates_on_an_axis_never_touch(count, hours):
    ticks = RunAxis([LAST + timedelta(hours=hours * n) for n in range(count)]).ticks()
    assert ticks
    assert all(after.at - before.at > 15 for before, after in pairwise(ticks))
