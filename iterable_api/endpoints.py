"""Iterable's endpoints: their paths below ``/api/``, their rate limits, and the requests to them.

Source: the endpoints' descriptions, https://api.iterable.com/api/docs
"""

import threading
from collections import Counter, defaultdict
from math import ceil
from typing import Any

UPDATE_USER = "users/update"
TRACK_EVENT = "events/track"
UPDATE_USERS = "users/bulkUpdate"
TRACK_EVENTS = "events/trackBulk"
# 3 requests a second; --check and a run make a few.
GET_USER_FIELDS = "users/getFields"

# The single call that does the same as a bulk call.
SINGLE = {UPDATE_USERS: UPDATE_USER, TRACK_EVENTS: TRACK_EVENT}

# Requests a second that Iterable allows the whole project.
LIMITS_PER_S = {UPDATE_USER: 500, TRACK_EVENT: 2000, UPDATE_USERS: 5, TRACK_EVENTS: 10}

QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "max": 1.0}
NO_ANSWER = "no answer"


class RequestStatistics:
    """Counts requests; may be shared by threads.

    Latencies are counted in whole milliseconds, so that memory does not grow with the requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The requests to each endpoint, by their answer and its latency in ms.
        self._counts: defaultdict[str, Counter[tuple[str, int]]] = defaultdict(Counter)

    def sent(self, endpoint: str) -> None:
        """Count one request, which may never be answered."""
        with self._lock:
            self._counts[endpoint][NO_ANSWER, 0] += 1

    def answered(self, endpoint: str, http_status: int, seconds: float) -> None:
        """Count the answer to one request, which came after *seconds*."""
        with self._lock:
            self._counts[endpoint][NO_ANSWER, 0] -= 1
            self._counts[endpoint][str(http_status), round(seconds * 1000)] += 1

    def to_json(self) -> dict[str, Any]:
        """Return requests, answers by HTTP status and quantiles of latency, by endpoint."""
        with self._lock:
            return {name: _summary(counts) for name, counts in sorted(self._counts.items())}


def _summary(counts: Counter[tuple[str, int]]) -> dict[str, Any]:
    answers: Counter[str] = Counter()
    for (answer, _), count in sorted(counts.items()):
        answers[answer] += count
    ordered = sorted(ms for answer, ms in counts.elements() if answer != NO_ANSWER)
    # Each is the latency that this share of the answers does not exceed.
    latencies = {
        name: ordered[ceil(share * len(ordered)) - 1] / 1000
        for name, share in QUANTILES.items()
        if ordered
    }
    return {"requests": counts.total(), "answers": dict(+answers), "latency_seconds": latencies}
