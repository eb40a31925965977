"""Rows of one run that have the same address: only the first in Query 2's order is the profile."""

from collections.abc import Iterable

# Bits in a map of addresses, of 8 MB, by their hashes. Of a million addresses some fifteen thousand
# share a bit with another one; these look as if they came twice, and are looked at closely.
_MAP_BITS = 1 << 26


class Repeats:
    """Tells which rows have the address of a row before them, in memory that stays small.

    *keys* are the addresses of all rows in the order in which ``is_repeat()`` will be asked; None
    for a row that cannot be sent. ``count`` is how many repeats there were up to now.
    """

    def __init__(self, keys: Iterable[str | None]) -> None:
        self.count = 0
        self._suspects = _suspects(keys)
        # Of the suspects that were asked about: whether the profile has arrived.
        self._arrived: dict[str, bool] = {}

    def is_repeat(self, key: str) -> bool:
        """Whether *key* was asked about before."""
        place = hash(key) % _MAP_BITS
        if not self._suspects[place >> 3] & 1 << (place & 7):
            # There is one row with this key at most.
            return False
        if key in self._arrived:
            self.count += 1
            return True
        self._arrived[key] = False
        return False

    def note(self, key: str, *, arrived: bool) -> None:
        """Note whether Iterable has the profile of a row that was asked about."""
        if key in self._arrived:
            self._arrived[key] = arrived

    def has_arrived(self, key: str) -> bool:
        """Whether Iterable has the profile of a row before the repeat of *key*."""
        return self._arrived[key]


def _suspects(keys: Iterable[str | None]) -> bytearray:
    """Return a map with the bits that two of *keys* share, whether they are the same or not."""
    seen, twice = bytearray(_MAP_BITS // 8), bytearray(_MAP_BITS // 8)
    for key in keys:
        if key is not None:
            place = hash(key) % _MAP_BITS
            bit = 1 << (place & 7)
            if seen[place >> 3] & bit:
                twice[place >> 3] |= bit
            seen[place >> 3] |= bit
    return twice
