"""Durations, as the report writes them."""

import pytest

from monitoring.report_text import count, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600 * 25, "1 d 1 h")],
)
def test_durations_are_told_in_two_units(seconds, text):
    assert duration(seconds).replace("\xa0", " ") == text


def test_things_are_counted_in_their_number():
    assert [count(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
