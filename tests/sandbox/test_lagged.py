"""A store whose values are shown a while after they are written."""

import pytest

from sandbox.lagged import LaggedStore


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock) -> LaggedStore[str]:
    return LaggedStore(clock)


def seen(store: LaggedStore[str], clock: Clock, *times: float) -> list[str | None]:
    """Return what is shown under "key" at each of the times."""
    shown = []
    for clock.now in times:
        shown.append(store.shown("key"))
    return shown


def test_without_a_lag_a_value_is_shown_at_once(store):
    store.put("key", "a", 0)
    assert store.shown("key") == store.current["key"] == "a"
    assert store.shown("another") is None


def test_a_first_value_is_shown_when_its_lag_is_over(store, clock):
    store.put("key", "a", 10)
    assert store.current == {"key": "a"}
    assert seen(store, clock, 0, 9.9, 10, 11) == [None, None, "a", "a"]


def test_each_value_is_shown_in_its_turn(store, clock):
    store.put("key", "a", 0)
    store.put("key", "b", 10)
    clock.now = 5
    store.put("key", "c", 10)
    assert seen(store, clock, 5, 10, 14, 15) == ["a", "b", "b", "c"]


def test_values_that_nobody_looked_at_are_passed_over(store, clock):
    for clock.now in range(3):
        store.put("key", str(clock.now), 10)
    assert seen(store, clock, 100) == ["2"]


def test_a_shorter_lag_lets_no_value_overtake_an_earlier_one(store, clock):
    store.put("key", "a", 10)
    store.put("key", "b", 0)
    assert seen(store, clock, 0, 9, 10, 11) == [None, None, "b", "b"]


def test_what_is_removed_is_gone_at_once_and_for_good(store, clock):
    store.put("key", "a", 10)
    assert store.remove("key") == "a"
    assert store.remove("key") is None
    assert seen(store, clock, 0, 20) == [None, None]


def test_all_values_are_those_that_are_shown(store, clock):
    store.put("a", "old", 0)
    store.put("a", "new", 10)
    store.put("b", "later", 10)
    assert list(store.all_shown()) == ["old"]
    clock.now = 10
    assert list(store.all_shown()) == ["new", "later"]
