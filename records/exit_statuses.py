"""How a run ends: the exit statuses and what they say, and the reasons for stopping early."""

from enum import Enum, IntEnum, auto


class ExitStatus(IntEnum):
    """What a caller such as cron learns from the run. The numbers never change."""

    OK = 0
    NOT_ALL_DELIVERED = 1
    USAGE = 2
    DATABASE = 3
    STOPPED = 4
    BUG = 70
    BUSY = 75
    SIGINT = 130
    SIGTERM = 143

    @property
    def meaning(self) -> str:
        """What the status says, as in ``--help`` and in the documents."""
        return _MEANINGS[self]


_MEANINGS = {
    0: "every row delivered, nothing to deliver, or only rows refused within MAX_REFUSED_ROWS",
    1: "the run finished; some rows were not delivered",
    2: "wrong usage or settings, or the disk is full; nothing was sent",
    3: "database: no connection, failed query, or too few or many rows; nothing was sent",
    4: "stopped early: every row refused, Iterable down, time limit reached, disk full",
    70: "a bug: see the traceback in the log",
    75: "another run is in progress; nothing was done",
    130: "interrupted (Ctrl-C); rows in flight were finished",
    143: "terminated; rows in flight were finished",
}


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
        if self is StopReason.ROW_COUNT:
            return ExitStatus.DATABASE
        return ExitStatus.__members__.get(self.name, ExitStatus.STOPPED)


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
