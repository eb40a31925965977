"""The axes of the charts, and numbers and durations in words."""

from datetime import timedelta
from itertools import pairwise

import pytest

from monitoring.report_charts import LEAST_DAYS, by_day, count, duration, round_up, short
from tests.results import LAST, finished_run


def test_a_day_without_a_run_is_a_gap_and_the_runs_of_one_day_share_its_place():
    times = [LAST - timedelta(days=3), LAST, LAST + timedelta(hours=9)]
    runs = [finished_run(started_at=time) for time in times]
    days = by_day(runs, LAST + timedelta(hours=12))
    assert [shown for _, shown in days] == [[]] * (LEAST_DAYS - 4) + [runs[:1], [], [], runs[1:]]


@pytest.mark.parametrize("days", [1, 15, 30, 90])
def test_the_axis_ends_today_and_its_dates_never_touch(days):
    first = finished_run(started_at=LAST - timedelta(days=days - 1))
    labels, runs = zip(*by_day([first], LAST), strict=True)
    assert runs[-days] == [first]
    places = [place for place, label in enumerate(labels) if label]
    assert (labels[-1], len(labels), len(places) >= 2) == ("1 Mar", max(LEAST_DAYS, days), True)
    assert all(after - before > len(labels) / 5 for before, after in pairwise(places))


def test_numbers_are_round_on_an_axis_durations_have_two_units_and_nouns_a_plural():
    assert [round_up(value) for value in (0, 0.15, 2, 41, 601, 9000)] == [1, 0.2, 2, 60, 800, 10000]
    assert [short(value) for value in (0, 0.5, 12.345, 12345)] == ["0", "0.5", "12.3", "12,345"]
    told = [duration(seconds).replace("\xa0", " ") for seconds in (0.04, 9.96, 12, 59.6, 61, 90000)]
    assert told == ["0.0 s", "10.0 s", "12 s", "1 min", "1 min 1 s", "1 d 1 h"]
    assert [count(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
