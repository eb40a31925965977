"""Numbers, times and durations, as the report writes them.

Spaces inside them do not break: no line begins with a unit.
"""

from collections.abc import Sequence
from datetime import datetime

# A foreign file may name any number of fields.
_NAMES_SHOWN = 20

# Unit, its seconds, the next smaller unit, its seconds.
_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


def when(moment: datetime) -> str:
    """Return a time to the minute."""
    return f"{moment:%a} {moment.day} {moment:%b %Y, %H:%M}\xa0UTC"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f}\xa0s"
    whole = round(seconds)
    for unit, size, smaller, part in _UNITS:
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size}\xa0{unit}" + (f" {rest}\xa0{smaller}" if rest else "")
    return f"{whole}\xa0s"


def count(number: int, noun: str) -> str:
    """Return how many there are of *noun*."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def names(found: Sequence[str]) -> str:
    """Return some names in one phrase, and of very many how many more there are."""
    shown, more = found[:_NAMES_SHOWN], len(found) - _NAMES_SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
