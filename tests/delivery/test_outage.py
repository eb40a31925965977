"""Time decides whether Iterable is down, not the number of rows."""

import pytest

from delivery.outage import OUTAGE_S, Outage
from delivery.stopping import Stop
from iterable_client import Silence
from records.exit_statuses import StopReason


@pytest.mark.parametrize(
    ("seconds", "reason"), [(0.0, None), (OUTAGE_S, None), (OUTAGE_S + 0.1, StopReason.OUTAGE)]
)
def test_a_silence_that_lasts_too_long_stops_the_run_and_says_why(seconds, reason):
    stop = Stop()
    outage = Outage(stop, lambda: Silence(seconds, "DNS does not know the host"))
    for _ in range(1000):
        outage.check()
    assert stop.reason is reason
    assert (stop.detail == "") is (reason is None)
    if reason:
        assert "DNS does not know the host" in stop.detail
