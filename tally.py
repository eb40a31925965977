"""How many requests were sent, what was answered and how soon; by endpoint."""

import threading
from collections import Counter, defaultdict
from typing import Any

QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "max": 1.0}
NO_ANSWER = "no answer"


class Tally:
    """Counts requests; may be shared by threads.

    Latencies are counted by the millisecond, so that memory does not grow with the requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._latencies_ms: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def add(self, endpoint: str, http_status: int | None, seconds: float) -> None:
        """Count one request that was answered, or given up (None), after *seconds*."""
        with self._lock:
            if http_status is None:
                self._answers[endpoint][NO_ANSWER] += 1
            else:
                self._answers[endpoint][str(http_status)] += 1
                self._latencies_ms[endpoint][round(seconds * 1000)] += 1

    def total(self) -> int:
        """Return the number of requests."""
        with self._lock:
            return sum(answers.total() for answers in self._answers.values())

    def to_json(self) -> dict[str, Any]:
        """Return requests, answers by HTTP status and quantiles of latency, by endpoint."""
        with self._lock:
            return {
                endpoint: {
                    "requests": answers.total(),
                    "answers": dict(sorted(answers.items())),
                    "latency_seconds": _quantiles(self._latencies_ms[endpoint]),
                }
                for endpoint, answers in sorted(self._answers.items())
            }


def _quantiles(counts_ms: Counter[int]) -> dict[str, float]:
    """Return the latency in seconds that each share of the requests did not exceed."""
    found = {}
    ordered, total = sorted(counts_ms.items()), counts_ms.total()
    for name, share in QUANTILES.items():
        seen = 0
        for milliseconds, count in ordered:
            seen += count
            if seen >= share * total:
                found[name] = milliseconds / 1000
                break
    return found
