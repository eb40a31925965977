"""Rows of one run that have the same address: only the first in Query 2's order is the profile."""

from collections.abc import Iterable

# Bits in the map of the addresses seen: 8 MB, of which nothing is left once they are counted. Of a
# million addresses some seven thousand then look as if they came twice, and are looked at closely.
_MAP_BITS = 1 << 26


class Repeats:
    """Tells which rows have the address of a row before them, in memory that stays small.

    *keys* are the addresses of all rows in the order in which ``is_repeat()`` will be asked; None
    for a row that cannot be sent. ``count`` is how many repeats there were up to now.
    """

    def __init__(self, keys: Iterable[str | None]) -> None:
        self.count = 0
        self._seen: set[str] = set()
        self._suspects = _suspects(keys)

    def is_suspect(self, key: str) -> bool:
        """Whether there may be two rows with *key*; False means that there is one at most."""
        return hash(key) in self._suspects

    def is_repeat(self, key: str) -> bool:
        """Whether *key* was asked about before."""
        if hash(key) not in self._suspects:
            return False
        if key in self._seen:
            self.count += 1
            return True
        self._seen.add(key)
        return False


def _suspects(keys: Iterable[str | None]) -> set[int]:
    """Return the hashes of the keys that come twice, and of some that only look so."""
    seen = bytearray(_MAP_BITS // 8)
    suspects = set()
    for key in keys:
        if key is None:
            continue
        digest = hash(key)
        place, bit = divmod(digest % _MAP_BITS, 8)
        if seen[place] & 1 << bit:
            # The first of the two has another hash if they only share the place in the map. Then
            # this one is looked at closely for nothing.
            suspects.add(digest)
        else:
            seen[place] |= 1 << bit
    return suspects
