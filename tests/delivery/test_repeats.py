"""Which rows have the address of a row before them."""

import pytest

from delivery import repeats
from delivery.repeats import Repeats


@pytest.mark.parametrize("bits", [8, 1 << 26])
def test_the_second_and_later_rows_of_an_address_are_repeats(monkeypatch, bits):
    """Also when most addresses share a place in the map."""
    monkeypatch.setattr(repeats, "_MAP_BITS", bits)
    keys = [*(f"user{n}@example.com" for n in range(50)), "a", None, "b", "a", "c", "b", "a"]
    found = Repeats(keys)
    assert [key for key in keys if key is not None and found.is_repeat(key)] == ["a", "b", "a"]
    assert found.count == 3


def test_without_repeats_hardly_any_address_is_looked_at_closely():
    keys = [f"user{n}@example.com" for n in range(100_000)]
    found = Repeats(keys)
    assert not any(map(found.is_repeat, keys))
    assert len(found._arrived) < 500


def test_what_became_of_the_profile_is_known_when_the_second_row_comes():
    found = Repeats(["a", "b", "c", "a", "b"])
    for key in ("a", "b", "c"):
        found.is_repeat(key)
        found.note(key, arrived=key != "b")
    assert [found.has_arrived(key) for key in ("a", "b")] == [True, False]
    found.note("b", arrived=True)
    assert found.has_arrived("b")
