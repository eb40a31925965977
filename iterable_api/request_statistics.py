"""Counts of the requests, of what was answered and how soon; by endpoint."""

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import accumulate
from typing import Any

QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "max": 1.0}
NO_ANSWER = "no answer"


class RequestStatistics:
    """Counts requests; may be shared by threads.

    Latencies are counted by the millisecond, so that memory does not grow with the requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._latencies_ms: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def sent(self, endpoint: str) -> None:
        """Count one request, which may never be answered."""
        with self._lock:
            self._requests[endpoint] += 1

    def answered(self, endpoint: str, http_status: int, seconds: float) -> None:
        """Count one answer, which came after *seconds*."""
        with self._lock:
            self._answers[endpoint][str(http_status)] += 1
            self._latencies_ms[endpoint][round(seconds * 1000)] += 1

    def to_json(self) -> dict[str, Any]:
        """Return requests, answers by HTTP status and quantiles of latency, by endpoint."""
        with self._lock:
            return {endpoint: self._counts_of(endpoint) for endpoint in sorted(self._requests)}

    def _counts_of(self, endpoint: str) -> dict[str, Any]:
        requests, answers = self._requests[endpoint], dict(sorted(self._answers[endpoint].items()))
        if unanswered := requests - sum(answers.values()):
            answers[NO_ANSWER] = unanswered
        latencies = _quantiles(self._latencies_ms[endpoint])
        return {"requests": requests, "answers": answers, "latency_seconds": latencies}


def _quantiles(counts_ms: Counter[int]) -> dict[str, float]:
    """Return the latency in seconds that each share of the requests did not exceed."""
    ordered = sorted(counts_ms.items())
    seen = list(accumulate(count for _, count in ordered))
    return {
        name: ordered[bisect_left(seen, share * seen[-1])][0] / 1000
        for name, share in QUANTILES.items()
        if seen
    }
