"""How far a run has come: a bar on a terminal, elsewhere a log line now and then."""

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, NoReturn

from logger_config import get_logger
from records.outcomes import FAILED_OUTCOMES, RowStatus

if TYPE_CHECKING:
    from tqdm import tqdm

logger = get_logger(__name__)

# Off a terminal: log files and cron's mail are no place for a bar.
LINE_EVERY_S = 30.0


class Progress:
    """Tells how many of *total* rows are done, how fast, how long it takes and what failed.

    *bar* says whether standard error is a terminal whose user wants to see one.
    """

    def __init__(self, total: int, *, bar: bool) -> None:
        self._total = total
        self._done = self._failed = 0
        self._began_s = self._told_s = time.monotonic()
        self._bar = _new_bar(total) if bar else None

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def add(self, counts: Counter[RowStatus]) -> None:
        """Count some more rows, by their status, without those that a stopped run did not reach."""
        done = counts.total() - counts[RowStatus.NOT_ATTEMPTED]
        self._done += done
        self._failed += sum(counts[status] for status in FAILED_OUTCOMES)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
            self._bar.update(done)
        elif (now_s := time.monotonic()) - self._told_s >= LINE_EVERY_S:
            self._told_s = now_s
            rate = self._done / (now_s - self._began_s)
            left_s = (self._total - self._done) / rate if rate else 0.0
            text = "%d of %d rows, %.0f a second, %.0f s left, %d failed"
            logger.info(text, self._done, self._total, rate, left_s, self._failed)


def _new_bar(total: int) -> "tqdm[NoReturn]":
    from tqdm import tqdm

    return tqdm(
        total=total,
        file=sys.stderr,
        unit=" rows",
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}% {bar} {n_fmt}/{total_fmt} rows, {rate_noinv_fmt}, "
        "{remaining} left{postfix}",
    )
