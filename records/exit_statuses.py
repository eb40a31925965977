"""How a run ends: the exit statuses and what they say, and the reasons for stopping early."""

from enum import Enum, IntEnum, auto
from typing import Self

RUN_AGAIN = "Run it again; it sends only what is missing."
_CHECK = f"Fix what is named above until python3 main.py --check reports no problem. {RUN_AGAIN}"


class ExitStatus(IntEnum):
    """What a caller such as cron learns from the run. The numbers never change.

    ``meaning`` stands in ``--help`` and in the documents. In the report, ``level`` says how bad it
    is (good, warn or bad) and ``advice`` what to do.
    """

    meaning: str
    level: str
    advice: str

    def __new__(cls, number: int, level: str, meaning: str, advice: str = "") -> Self:
        """Return the status *number* with its texts."""
        status = int.__new__(cls, number)
        status._value_ = number
        status.level, status.meaning, status.advice = level, meaning, advice
        return status

    OK = (
        0,
        "good",
        "every row delivered, nothing to deliver, or only rows refused within MAX_REFUSED_ROWS",
    )
    NOT_ALL_DELIVERED = (
        1,
        "warn",
        "the run finished; some rows were not delivered",
        "See below what to do about each reason.",
    )
    USAGE = 2, "bad", "wrong usage or settings, or the disk is full; nothing was sent", _CHECK
    DATABASE = (
        3,
        "bad",
        "database: no connection, failed query, or too few or many rows; nothing was sent",
        _CHECK,
    )
    STOPPED = (
        4,
        "bad",
        "stopped early: every row refused, Iterable down, time limit reached, disk full",
        f"Fix what is named above; the end of the log file has more. {RUN_AGAIN}",
    )
    BUG = (
        70,
        "bad",
        "a bug: see the traceback in the log",
        f"Report the traceback at the end of the log file. {RUN_AGAIN}",
    )
    BUSY = 75, "warn", "another run is in progress; nothing was done"
    SIGINT = 130, "warn", "interrupted (Ctrl-C); rows in flight were finished", RUN_AGAIN
    SIGTERM = 143, "warn", "terminated; rows in flight were finished", RUN_AGAIN


class StopReason(Enum):
    """Why a run ends before its last row, although nothing failed in the program itself."""

    ROW_COUNT = auto()
    KEY_REFUSED = auto()
    EVERY_ROW_REFUSED = auto()
    OUTAGE = auto()
    DEADLINE = auto()
    NOT_RECORDED = auto()
    SIGINT = auto()
    SIGTERM = auto()

    @property
    def exit_status(self) -> ExitStatus:
        """The exit status of a run that was stopped for this reason."""
        return _STATUS_OF_REASON.get(self, ExitStatus.STOPPED)


_STATUS_OF_REASON = {
    StopReason.ROW_COUNT: ExitStatus.DATABASE,
    StopReason.SIGINT: ExitStatus.SIGINT,
    StopReason.SIGTERM: ExitStatus.SIGTERM,
}


class RunError(Exception):
    """What ends a run. The message says what to change and holds no secret.

    ``status`` is what the program exits with, unless the run was being stopped already.
    """

    status: ExitStatus = ExitStatus.USAGE

    def __init__(self, text: str, status: ExitStatus | None = None) -> None:
        super().__init__(text)
        self.status = self.status if status is None else status


class DatabaseError(RunError):
    """MySQL could not be read."""

    status = ExitStatus.DATABASE
