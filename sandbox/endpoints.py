"""The endpoints of Iterable that the stand-in has, and their rate limits.

Their names are Iterable's paths without ``/api/``.
"""

import time
from collections import defaultdict, deque
from typing import Final

from sandbox.settings import Settings

USERS_UPDATE: Final = "users/update"
EVENTS_TRACK: Final = "events/track"
USERS_BULK_UPDATE: Final = "users/bulkUpdate"
EVENTS_TRACK_BULK: Final = "events/trackBulk"
USERS_GET_FIELDS: Final = "users/getFields"  # the only one that reads

LIMITS_PER_S: Final = {
    USERS_UPDATE: 500,
    EVENTS_TRACK: 2000,
    USERS_BULK_UPDATE: 5,
    EVENTS_TRACK_BULK: 10,
    USERS_GET_FIELDS: 3,
}


class RateLimits:
    """A sliding window of one second for each endpoint.

    It accepts no more requests than the limit in any second, wherever that begins: a client that
    respects this is safe with fixed windows and leaky buckets too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._accepted: defaultdict[str, deque[float]] = defaultdict(deque)

    def accept(self, endpoint: str) -> bool:
        """Count a request that arrives now; return False if the limit is reached."""
        times, now = self._accepted[endpoint], time.monotonic()
        while times and times[0] <= now - 1.0:
            times.popleft()
        limit = LIMITS_PER_S[endpoint] * self._settings.limit_scale
        limit -= self._settings.other_clients.get(endpoint, 0)
        if self._settings.limits and len(times) + 1 > limit:
            return False
        times.append(now)
        return True
