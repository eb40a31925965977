"""The line that ``--check`` says on each thing it has looked at."""

from enum import StrEnum
from typing import NamedTuple

from records.exit_statuses import ExitStatus

MAX_CLOCK_ERROR_S = 60.0


class Mark(StrEnum):
    """What a check came to."""

    GOOD = "✓"
    NOTE = "-"  # not looked at
    WARNING = "⚠"  # a run would work, but not as it should
    BAD = "✗"  # a run would fail


class Finding(NamedTuple):
    """The line of one check; ``status`` is what a run would end with, were it bad."""

    mark: Mark
    what: str
    text: str
    status: ExitStatus = ExitStatus.OK

    def __str__(self) -> str:
        return f"{self.mark} {self.what}: {self.text}"


def clock_finding(what: str, ahead_s: float, other: str, advice: str) -> Finding:
    """Return whether the clock *what* agrees with the clock *other*; a warning if it does not.

    *ahead_s* is by how many seconds *what* is ahead. The warning ends with *advice*.
    """
    if abs(ahead_s) <= MAX_CLOCK_ERROR_S:
        return Finding(Mark.GOOD, what, f"agrees with {other}")
    where = "ahead of" if ahead_s > 0 else "behind"
    text = f"{abs(ahead_s):,.0f} s {where} {other}; {advice}"
    return Finding(Mark.WARNING, what, text)
