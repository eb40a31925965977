"""Durations, as the report writes them."""

import pytest

from monitoring.report_text import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600 * 25, "1 d 1 h")],
)
def test_durations_are_told_in_two_units(seconds, text):
    assert duration(seconds) == text
