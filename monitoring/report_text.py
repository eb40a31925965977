"""Numbers, times and durations, as the report writes them.

Spaces inside them do not break: no line begins with a unit.
"""

from datetime import datetime

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
    """Return a number of things, which *noun* names in the singular."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
