"""What is usual for the job, told by the last of its runs: how often it runs, how long it takes."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median, quantiles

from records.results_reader import PastRun

# What is usual is told from this many runs, if there are enough.
_RUNS, _AT_LEAST = 30, 3


def usual_of(runs: Sequence[PastRun], value_of: Callable[[PastRun], float]) -> float | None:
    """Return the median of a property of *runs*; None if they are too few to say."""
    return median(map(value_of, runs[-_RUNS:])) if len(runs) >= _AT_LEAST else None


def interval_s(runs: Sequence[PastRun]) -> float | None:
    """Return the median time between the starts of two runs, in seconds.

    None without a rhythm: after a few runs, or when somebody starts them by hand now and then.
    """
    gaps = _gaps_s(runs)
    if len(gaps) < _AT_LEAST:
        return None
    usual = median(gaps)
    regular = sum(usual / 2 < gap < usual * 1.5 for gap in gaps)
    # Runs do not start on the second.
    return round(usual / 60) * 60.0 if regular > len(gaps) * 0.6 else None


def longest_silence_s(runs: Sequence[PastRun]) -> float:
    """Return for how many seconds there may be no run of a job that has a rhythm."""
    gaps = _gaps_s(runs)
    # A job of working days has a long gap every week.
    return max(2 * median(gaps), 1.25 * quantiles(gaps, n=10, method="inclusive")[-1])


def _gaps_s(runs: Sequence[PastRun]) -> list[float]:
    return [(b.started_at - a.started_at).total_seconds() for a, b in pairwise(runs[-_RUNS - 1 :])]
