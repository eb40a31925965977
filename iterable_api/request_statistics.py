"""Counts requests, answers and latencies by endpoint."""

import threading
from collections import Counter, defaultdict
from math import ceil
from typing import Any

QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "max": 1.0}
NO_ANSWER = "no answer"


class RequestStatistics:
    """Counts requests; may be shared by threads.

    Latencies are counted in whole milliseconds, so that memory does not grow with the requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()
        # The answers of each endpoint, by HTTP status and latency in ms.
        self._answered: defaultdict[str, Counter[tuple[int, int]]] = defaultdict(Counter)

    def sent(self, endpoint: str) -> None:
        """Count one request, which may never be answered."""
        with self._lock:
            self._sent[endpoint] += 1

    def answered(self, endpoint: str, http_status: int, seconds: float) -> None:
        """Count one answer, which came after *seconds*."""
        with self._lock:
            self._answered[endpoint][http_status, round(seconds * 1000)] += 1

    def to_json(self) -> dict[str, Any]:
        """Return requests, answers by HTTP status and quantiles of latency, by endpoint."""
        with self._lock:
            endpoints = sorted(self._sent)
            return {name: _summary(self._sent[name], self._answered[name]) for name in endpoints}


def _summary(requests: int, answered: Counter[tuple[int, int]]) -> dict[str, Any]:
    answers: Counter[str] = Counter()
    for (status, _), count in sorted(answered.items()):
        answers[str(status)] += count
    if unanswered := requests - answered.total():
        answers[NO_ANSWER] = unanswered
    ordered = sorted(ms for _, ms in answered.elements())
    # Each is the latency that this share of the answers does not exceed.
    latencies = {
        name: ordered[ceil(share * len(ordered)) - 1] / 1000
        for name, share in QUANTILES.items()
        if ordered
    }
    return {"requests": requests, "answers": dict(answers), "latency_seconds": latencies}
