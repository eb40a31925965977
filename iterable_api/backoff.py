"""Waits before a request is repeated: our own, and those that Iterable asks for."""

import random
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_BACKOFF_DOUBLINGS = 5
MAX_RETRY_AFTER_S = 60.0


def backoff_s(attempt: int) -> float:
    """Return how many seconds to wait after failed attempt number *attempt* (1 is the first).

    Anything from 0 to 1 s, 0 to 2 s, 0 to 4 s ... up to 0 to 32 s: "full jitter", so that many
    clients do not return at the same instant.
    """
    longest_s = 2.0 ** min(attempt - 1, MAX_BACKOFF_DOUBLINGS)
    return random.uniform(0, longest_s)  # noqa: S311 - no secret


def retry_after_s(header: str | None) -> float | None:
    """Return a ``Retry-After`` header, seconds or an HTTP date, as 0 to 60 seconds.

    Return None when there is none that can be read.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        past_s = seconds_since(header)
        if past_s is None:
            return None
        seconds = -past_s
    # In this order "nan" becomes the upper limit.
    return max(0.0, min(MAX_RETRY_AFTER_S, seconds))


def seconds_since(http_date: str | None) -> float | None:
    """Return how many seconds ago an HTTP date was by this machine's time; None if unreadable."""
    try:
        return (datetime.now(UTC) - parsedate_to_datetime(http_date or "")).total_seconds()
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a zone
        return None


def sleep(seconds: float) -> bool:
    """Sleep for *seconds* and return False: unlike a run's own wait, nothing ends this one."""
    time.sleep(seconds)
    return False
