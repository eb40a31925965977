"""Stops a run while Iterable is down, so that the rest of its rows is not spent on it."""

import time
from collections.abc import Iterable

from delivery.stopping import Stop
from records.exit_statuses import StopReason
from records.outcomes import CallStatus, RowOutcome, RowStatus

# Iterable is down when this many rows, and batches, in a row got no answer that settles them, or
# when none did for this long.
OUTAGE_ROWS = 100
OUTAGE_BATCHES = 3
OUTAGE_S = 300.0

_UNANSWERED = frozenset({CallStatus.UNAVAILABLE, CallStatus.UNKNOWN})


class Outage:
    """A circuit breaker: watches the outcomes and asks the run to stop when Iterable is down."""

    def __init__(self, stop: Stop, batch_size: int) -> None:
        self._stop = stop
        self._most = max(OUTAGE_ROWS, OUTAGE_BATCHES * batch_size)
        self._rows = 0
        self._since_s = 0.0

    def watch(self, outcomes: Iterable[RowOutcome]) -> None:
        """Count how many rows in a row got no answer that settles them."""
        for outcome in outcomes:
            if outcome.status is RowStatus.SUCCESSFUL:
                self._rows = 0
                continue
            statuses = {outcome.users_update.status, outcome.events_track.status}
            if not statuses & _UNANSWERED:
                # Unchanged and not attempted rows say nothing about Iterable.
                if statuses & {CallStatus.DELIVERED, CallStatus.REFUSED}:
                    self._rows = 0
                continue
            if self._rows == 0:
                self._since_s = time.monotonic()
            self._rows += 1
            self._stop_if_down()

    def _stop_if_down(self) -> None:
        seconds = time.monotonic() - self._since_s
        if self._rows >= self._most or seconds > OUTAGE_S:
            text = (
                f"the last {self._rows} rows, in {seconds:.0f} s, got no answer that settles them"
            )
            self._stop.request(StopReason.OUTAGE, text)
