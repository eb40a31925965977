"""Many rows: sends them one after another, turns each into an outcome, and knows when to stop."""

import threading
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto

from logger_config import get_logger
from outcomes import NOT_SENT, CallOutcome, CallStatus, Row, RowOutcome

logger = get_logger(__name__)

_UNKNOWN = CallOutcome(CallStatus.UNKNOWN, message="this program failed while sending")


class StopReason(Enum):
    """Why a run ends before its last row."""

    KEY_REFUSED = auto()
    SIGINT = auto()
    SIGTERM = auto()


class Stop:
    """A run's request to stop. The first reason given is kept."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        # True once rows are being sent: from then on a stop lets the row in flight finish.
        self.finish_row_first = False
        self._event = threading.Event()

    def request(self, reason: StopReason) -> None:
        """Ask the run to stop after the rows in flight."""
        self.reason = self.reason or reason
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleep for *seconds*, less if the run is to stop; return whether it is to stop."""
        return self._event.wait(seconds)


def deliver(
    rows: Iterable[Row], process: Callable[[Row], RowOutcome], stop: Stop
) -> Iterator[RowOutcome]:
    """Yield one outcome for each of *rows*, in their order.

    *process* delivers one row. After *stop*, a refused API key or an exception out of *process*
    the remaining rows are ``not_attempted``; the exception is raised at the end, when every row
    has its outcome.
    """
    bug: Exception | None = None
    for row in rows:
        if stop.reason or bug:
            yield RowOutcome(row["customer_id"], row["email"], NOT_SENT, NOT_SENT, attempted=False)
            continue
        try:
            outcome = process(row)
        except Exception as error:  # noqa: BLE001 - raised again below, when all rows are told
            bug = error
            outcome = RowOutcome(row["customer_id"], row["email"], _UNKNOWN, NOT_SENT)
        if outcome.key_refused:
            stop.request(StopReason.KEY_REFUSED)
        yield outcome
    if bug:
        raise bug
