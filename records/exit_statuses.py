"""How a run ends: the exit statuses with their meanings, and which of them a run gets."""

from enum import Enum, IntEnum, auto
from typing import NamedTuple


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


class Meaning(NamedTuple):
    """What one exit status says.

    *summary* stands in ``--help`` and in the documents. In the report, *event* says what became of
    the run, *level* how bad that is (good, warn or bad) and *advice* what to do.
    """

    summary: str
    level: str
    event: str
    advice: str = ""


RUN_AGAIN = "Run it again; it sends only what is missing."
_RUN_CHECK = f"Fix what is named above until python3 main.py --check is content. {RUN_AGAIN}"

MEANINGS = {
    ExitStatus.OK: Meaning(
        "every row delivered, nothing to deliver, or only rows refused within MAX_REFUSED_ROWS",
        "good",
        "finished",
    ),
    ExitStatus.NOT_ALL_DELIVERED: Meaning(
        "the run finished; some rows were not delivered",
        "warn",
        "finished",
        "See below what to do about each reason.",
    ),
    ExitStatus.USAGE: Meaning(
        "usage, settings or no room on the disk; nothing was sent",
        "bad",
        "stopped before it could send anything",
        _RUN_CHECK,
    ),
    ExitStatus.DATABASE: Meaning(
        "database: no connection, query failed, row count; nothing was sent",
        "bad",
        "failed at the database; nothing was sent",
        _RUN_CHECK,
    ),
    ExitStatus.STOPPED: Meaning(
        "stopped early: all refused, Iterable down, time over, disk full",
        "bad",
        "stopped early",
        f"Fix what is named above; the end of the log file has more. {RUN_AGAIN}",
    ),
    ExitStatus.BUG: Meaning(
        "a bug: see the traceback in the log",
        "bad",
        "met a bug in the program",
        f"Report the traceback at the end of the log file. {RUN_AGAIN}",
    ),
    ExitStatus.BUSY: Meaning(
        "another run is under way; nothing was done",
        "warn",
        "did not start: another run held the lock",
    ),
    ExitStatus.SIGINT: Meaning(
        "interrupted (Ctrl-C); rows in flight were finished",
        "warn",
        "was interrupted (Ctrl-C)",
        RUN_AGAIN,
    ),
    ExitStatus.SIGTERM: Meaning(
        "terminated; rows in flight were finished", "warn", "was terminated", RUN_AGAIN
    ),
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


# Every other reason makes it STOPPED.
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


def final_status(
    reason: StopReason | None, undelivered: int, error: ExitStatus | None
) -> ExitStatus:
    """Return the exit status of a run.

    *reason* is why it was stopped, *undelivered* the number of rows that did not end well, *error*
    the status of the exception that ended it; None where there was none. A bug is told whatever
    else happened. A request to stop explains the errors that it causes, so it comes before them.
    """
    if error is ExitStatus.BUG:
        return error
    if reason is not None:
        return _STATUS_OF_REASON.get(reason, ExitStatus.STOPPED)
    if error is not None:
        return error
    return ExitStatus.NOT_ALL_DELIVERED if undelivered else ExitStatus.OK
