"""Stops a run while Iterable is down, so that the rest of its rows is not spent on it."""

from collections.abc import Callable

from delivery.stopping import Stop
from iterable_client import Silence
from records.exit_statuses import StopReason

# Iterable is down when an endpoint that is asked has given no definite answer for so long.
OUTAGE_S = 60.0


class Outage:
    """A circuit breaker: asks the run to stop when *silence* has lasted too long.

    Time decides and not the number of rows: while an endpoint is silent the client lets one request
    at a time try it, whatever the number of workers.
    """

    def __init__(self, stop: Stop, silence: Callable[[], Silence]) -> None:
        self._stop = stop
        self._silence = silence

    def check(self) -> None:
        """Ask the run to stop if it is time to."""
        seconds, cause = self._silence()
        if seconds > OUTAGE_S:
            text = f"no definite answer for {seconds:.0f} s; {cause}"
            self._stop.request(StopReason.OUTAGE, text)
