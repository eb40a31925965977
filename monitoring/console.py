"""The messages of a run: what happened, what that means for the data, what to do, in this order."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from logger_config import FILE_ONLY, get_logger
from records.exit_statuses import ExitStatus, StopReason
from records.outcomes import FAILED_OUTCOMES, PLANNED, Delivery, RowStatus
from records.run import RunRecord

if TYPE_CHECKING:
    from tqdm import tqdm

logger, file_logger = get_logger(__name__), get_logger(FILE_ONLY)

# With more rows than this, their lines go to the log file only.
ROWS_ON_CONSOLE = 50
# Where there is no terminal, so no progress bar: in files and in cron's mail.
PROGRESS_EVERY_S = 30.0
PAYLOADS_SHOWN = 3
RULE = "=" * 60

# The plurals of the noun for a row.
ROWS_FOUND = {"user": "pro user(s) with recent engagement", "row": "row(s)"}
RECORDS = {"user": "user records", "row": "rows"}
_FAILED = "for %(noun)s: %(name)s (customer %(id)s): %(path)s %(call)s"
# The log line of a row, by its status.
_LINES = {
    RowStatus.SUCCESSFUL: (logging.INFO, "✓ Successfully processed %(noun)s: %(name)s"),
    RowStatus.UNCHANGED: (logging.INFO, "✓ Unchanged since an earlier run: %(name)s"),
    RowStatus.PLANNED: (logging.INFO, "✓ Would be sent: %(name)s"),
    RowStatus.FORGOTTEN: (logging.INFO, "– Forgotten in Iterable at the user's request: %(name)s"),
    RowStatus.PARTIAL_FAILURE: (logging.WARNING, f"⚠ Partial failure {_FAILED}"),
    RowStatus.TOTAL_FAILURE: (logging.ERROR, f"✗ Total failure {_FAILED}"),
    RowStatus.NOT_ATTEMPTED: (logging.DEBUG, "Not attempted: customer %(id)s"),
}
# Statuses that need no attention: one line for all such rows of a batch.
_TOLD_TOGETHER = {RowStatus.SUCCESSFUL, RowStatus.UNCHANGED, RowStatus.PLANNED}

KEY_ADVICE = (
    "Check ITERABLE_API_KEY, and that ITERABLE_API_BASE_URL is its project's data centre: "
    "https://api.iterable.com (US) or https://api.eu.iterable.com (EU)"
)
NO_MORE_SENT = "No more rows were sent"
RUN_AGAIN = "Run again to send the rest"


class RowLog(AbstractContextManager["RowLog"]):
    """Logs the outcome of each row of *run*.

    With many rows, these lines go to the log file, and the console shows the progress: a bar on a
    terminal, elsewhere a line now and then.
    """

    def __init__(self, run: RunRecord) -> None:
        self._run = run
        self._shown = 0
        self._few = run.rows_read <= ROWS_ON_CONSOLE
        self._log = logger if self._few else file_logger
        many = _TOLD_TOGETHER if run.options.bulk else {RowStatus.UNCHANGED}
        self._together = set() if self._few else many
        self._began_s = self._told_s = time.monotonic()
        bar = not self._few and sys.stderr.isatty() and not run.options.quiet
        self._bar = _new_bar(run.rows_read) if bar else None

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, rows: Sequence[Delivery], counts: Counter[RowStatus]) -> None:
        """Log *rows*, which the run has counted already; *counts* has their statuses."""
        done = self._run.outcomes.total()
        # Fast for a million unchanged rows: none of them is looked at.
        if counts.keys() - self._together:
            self._tell(rows, done - len(rows))
        for status, count in counts.items():
            if status in self._together:
                values = (status.capitalize(), count, self._run.noun, done, self._run.rows_read)
                file_logger.info("✓ %s: %d %ss; record %d of %d", *values)
        if not self._few:
            self._tell_progress()
        if self._run.options.dry_run and not self._run.options.quiet:
            self._show_payloads(rows)

    def _tell(self, rows: Sequence[Delivery], before: int) -> None:
        for number, row in enumerate(rows, before + 1):
            if self._few:
                logger.info("Processing record %d/%d", number, self._run.rows_read)
            if (status := row.status) not in self._together:
                level, text = _LINES[status]
                who = {"noun": self._run.noun, "name": row.name, "id": row.customer_id}
                call = row.failed_call or row.profile
                self._log.log(level, text, {**who, "path": call.path, "call": call.outcome})

    def _tell_progress(self) -> None:
        """Show how many rows are done; those that a stopped run did not reach are not."""
        count, total = self._run.outcomes, self._run.rows_read
        done = count.total() - count[RowStatus.NOT_ATTEMPTED]
        failed = sum(count[status] for status in FAILED_OUTCOMES)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{failed} failed", refresh=False)
            self._bar.update(done - self._bar.n)
        elif (now_s := time.monotonic()) - self._told_s >= PROGRESS_EVERY_S:
            self._told_s = now_s
            rate = done / (now_s - self._began_s)
            left_s = (total - done) / rate if rate else 0.0
            text = "%d of %d rows, %.0f a second, %.0f s left, %d failed"
            logger.info(text, done, total, rate, left_s, failed)

    def _show_payloads(self, rows: Sequence[Delivery]) -> None:
        """Print the bodies of the first rows. They hold customers' data, so they are not logged."""
        planned = [row for row in rows if row.status is RowStatus.PLANNED]
        for row in planned[: PAYLOADS_SHOWN - self._shown]:
            self._shown += 1
            for call in (row.profile, row.event):
                if call.outcome is PLANNED:
                    sys.stdout.write(f"  POST /api/{call.path} {call.body.decode()}\n")


def _new_bar(total: int) -> "tqdm[NoReturn]":
    from tqdm import tqdm  # noqa: PLC0415 - takes a while, and most runs have no terminal

    return tqdm(total=total, unit=" rows", dynamic_ncols=True)


def table_lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return Query 2's columns as a table; *rows* are column, endpoint, field and type."""
    table = [("column", "endpoint", "field", "type"), *rows]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def log_end(run: RunRecord, results: Path, advice: str) -> None:
    """Log how the rows of a finished run ended, and what to do about those that failed.

    *results* is the run's results file; *advice* says why the run was stopped early, if it was.
    """
    for line in (RULE, "INTEGRATION SUMMARY", RULE, *summary_lines(run)):
        logger.info("%s", line)
    if not_attempted := run.outcomes[RowStatus.NOT_ATTEMPTED]:
        text = "Not attempted: %d of %d %ss. Nothing was sent for them"
        logger.warning(text, not_attempted, run.rows_read, run.noun)
    for call, fields in sorted(run.filtered_fields.items()):
        text = (
            "The project accepts no new fields: Iterable ignored %s in %s and stored the rest. "
            "Create the fields in Iterable; the next run then sends the profiles that lack them"
        )
        logger.warning(text, ", ".join(sorted(fields)), call.replace("_", "/"))
    if run.news:
        logger.info("%s", run.news)
    if tolerated := run.tolerated:
        rows = "1 row was" if tolerated == 1 else f"{tolerated} rows were"
        text = (
            "%s refused and MAX_REFUSED_ROWS allows %d, so the run counts as successful. "
            "%s says what to fix in each row"
        )
        logger.warning(text, rows, run.max_refused_rows, results)
    if advice:
        logger.error("%s", advice)
    elif run.exit_status == ExitStatus.NOT_ALL_DELIVERED:
        logger.warning("%s. %s", run.cause, _advice_on_failures(run, results))


def _advice_on_failures(run: RunRecord, results: Path) -> str:
    """Return what to do about the rows of *run* that were not delivered."""
    if run.options.dry_run:
        return f"See {results} for what to fix in each row, before you send anything"
    if run.refused == run.undelivered:
        return f"{results} says what to fix in each row. Fix it, then run again"
    if run.refused:
        return f"{results} says what to fix in {run.refused} of them; run again for the others"
    return "No row needs fixing: run again once the cause is resolved"


def summary_lines(run: RunRecord) -> list[str]:
    """Return how the rows of a finished run ended; nothing of a run that never began."""
    if run.finished_at is None:
        return []
    count = run.outcomes
    calls = "both" if run.noun == "user" else "all"
    lines = [
        f"Total {run.noun}s processed: {run.rows_read - count[RowStatus.NOT_ATTEMPTED]}",
        f"✓ Successful ({calls} API calls): {count[RowStatus.SUCCESSFUL]}",
        f"⚠ Partial failures (one call failed): {count[RowStatus.PARTIAL_FAILURE]}",
        f"✗ Total failures (both calls failed): {count[RowStatus.TOTAL_FAILURE]}",
    ]
    if unchanged := count[RowStatus.UNCHANGED]:
        lines.append(f"Unchanged since an earlier run, not sent: {unchanged} (--all sends them)")
    if forgotten := count[RowStatus.FORGOTTEN]:
        lines.append(f"Forgotten in Iterable at the user's request, not sent: {forgotten}")
    if run.options.dry_run:
        lines.append(
            f"Would be sent: {count[RowStatus.PLANNED]}. This was a dry run: nothing was sent"
        )
    lines.append(
        f"Requests: {run.requests} in {run.sending_seconds:.1f} s; retries: {run.retries}; "
        f"waiting for rate limits: {run.rate_limited_seconds:.1f} s"
    )
    return lines


def stop_advice(reason: StopReason | None, detail: str) -> str:
    """Return why a run was stopped early and what to do about it; empty if it was not."""
    match reason:
        case StopReason.KEY_REFUSED:
            return f"{detail}. {NO_MORE_SENT}. {KEY_ADVICE}"
        case StopReason.OUTAGE:
            return f"Iterable seems to be down: {detail}. {NO_MORE_SENT}. {RUN_AGAIN}"
        case StopReason.DEADLINE:
            return f"The time limit MAX_RUNTIME_SECONDS was reached. {NO_MORE_SENT}. {RUN_AGAIN}"
        case StopReason.SIGINT | StopReason.SIGTERM:
            return f"Stopped by a signal. {NO_MORE_SENT}. {RUN_AGAIN}"
        case _:
            return detail
