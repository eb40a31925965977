"""Fixtures: simulated time."""

import pytest

from tests.iterable_api.simulation import Clock


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that takes the place of the module time where requests are paced."""
    clock = Clock()
    clock.replace_time(monkeypatch.setattr)
    return clock
