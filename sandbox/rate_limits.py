"""Iterable's request limits, counted more strictly than Iterable may count them."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sandbox.endpoints import (
    EVENTS_TRACK,
    EVENTS_TRACK_BULK,
    LOOKUPS,
    USERS_BULK_UPDATE,
    USERS_GET_FIELDS,
    USERS_UPDATE,
)

LIMITS_PER_S: Final = {
    USERS_UPDATE: 500,
    EVENTS_TRACK: 2000,
    USERS_BULK_UPDATE: 5,
    EVENTS_TRACK_BULK: 10,
    USERS_GET_FIELDS: 3,
    **dict.fromkeys(LOOKUPS, 100),
}


@dataclass(slots=True)
class RateLimits:
    """A sliding window of one second for each API key and endpoint.

    No second, wherever it begins, holds more accepted requests than the limit: whoever respects
    that is safe with fixed windows and leaky buckets as well.
    """

    limits: bool = True  # False accepts everything, and still counts
    limit_scale: float = 1.0
    # Requests a second that another program takes out of the project's limit, by endpoint.
    other_clients: Mapping[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    peaks: dict[str, int] = field(default_factory=dict)  # most accepted in any second, by endpoint
    _accepted: dict[tuple[str, str], deque[float]] = field(default_factory=dict)

    def capacity(self, endpoint: str) -> int:
        """Return how many requests one second may hold."""
        # The small term undoes binary fractions: 500 * 0.29 is 144.99999999999997.
        scaled = max(1, int(LIMITS_PER_S[endpoint] * self.limit_scale + 1e-6))
        return max(0, int(scaled - self.other_clients.get(endpoint, 0)))

    def accept(self, key: str, endpoint: str) -> bool:
        """Count a request that arrives now, unless its second is full."""
        times = self._accepted.setdefault((key, endpoint), deque())
        now = self.clock()
        while times and times[0] <= now - 1.0:
            times.popleft()
        if self.limits and len(times) >= self.capacity(endpoint):
            return False
        times.append(now)
        if len(times) > self.peaks.get(endpoint, 0):
            self.peaks[endpoint] = len(times)
        return True

    def reset(self) -> None:
        """Forget what was accepted."""
        self._accepted.clear()
        self.peaks.clear()
