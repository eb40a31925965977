"""What a run says while it goes on and when it is over.

A message says what happened, what that means for the data, and what to do, in this order.
"""

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
from records.outcomes import FAILED_OUTCOMES, CallStatus, RowOutcome, RowStatus
from records.run import RunRecord

if TYPE_CHECKING:
    from tqdm import tqdm

logger, file_logger = get_logger(__name__), get_logger(FILE_ONLY)

# Above this many rows the lines of single records go to the log file only.
ROWS_ON_CONSOLE = 50
# Off a terminal: log files and cron's mail are no place for a bar.
PROGRESS_EVERY_S = 30.0
PAYLOADS_SHOWN = 3
RULE = "=" * 60

# What rows are called together, by the noun for one.
ROWS_FOUND = {"user": "pro user(s) with recent engagement", "row": "row(s)"}
RECORDS = {"user": "user records", "row": "rows"}
# By status, what is said of a row.
_LINES = {
    RowStatus.SUCCESSFUL: (logging.INFO, "✓ Successfully processed %(noun)s: %(name)s"),
    RowStatus.UNCHANGED: (logging.INFO, "✓ Unchanged since an earlier run: %(name)s"),
    RowStatus.PLANNED: (logging.INFO, "✓ Would be sent: %(name)s"),
    RowStatus.FORGOTTEN: (
        logging.INFO,
        "– Forgotten at the person's request, never to be delivered: %(name)s (customer %(id)s)",
    ),
    RowStatus.PARTIAL_FAILURE: (
        logging.WARNING,
        "⚠ Partial failure for %(noun)s: %(name)s (customer %(id)s): %(path)s %(call)s",
    ),
    RowStatus.TOTAL_FAILURE: (
        logging.ERROR,
        "✗ Total failure for %(noun)s: %(name)s (customer %(id)s): %(path)s %(call)s",
    ),
    RowStatus.NOT_ATTEMPTED: (logging.DEBUG, "Not attempted: customer %(id)s"),
}
# The rows that need no look, of which a batch is told in one line.
_TOLD_TOGETHER = {RowStatus.SUCCESSFUL, RowStatus.UNCHANGED, RowStatus.PLANNED}

DATA_CENTRES = {"api.iterable.com": "US", "api.eu.iterable.com": "EU"}
NO_MORE_SENT = "No more rows were sent"
RUN_AGAIN = "Run again to send the rest"


class RowLog(AbstractContextManager["RowLog"]):
    """Tells what becomes of the rows of *run*: each if they are few, else how far the run is.

    Many rows have their lines in the log file. The console has a bar on a terminal, elsewhere a
    line now and then.
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

    def add(self, outcomes: Sequence[RowOutcome], counts: Counter[RowStatus]) -> None:
        """Log what became of some more rows, which the run has counted already.

        *counts* is the number of them with each status.
        """
        done = self._run.outcomes.total()
        # Of a million rows that were left as they are, none is looked at.
        if counts.keys() - self._together:
            self._tell(outcomes, done - len(outcomes))
        for status, count in counts.items():
            if status in self._together:
                values = (status.capitalize(), count, self._run.noun, done, self._run.rows_read)
                file_logger.info("✓ %s: %d %ss; record %d of %d", *values)
        if not self._few:
            self._tell_progress()
        if self._run.options.dry_run and not self._run.options.quiet:
            self._show_payloads(outcomes)

    def _tell(self, outcomes: Sequence[RowOutcome], before: int) -> None:
        for number, outcome in enumerate(outcomes, before + 1):
            if self._few:
                logger.info("Processing record %d/%d", number, self._run.rows_read)
            if (status := outcome.status) not in self._together:
                level, text = _LINES[status]
                path, call = outcome.failed_path, outcome.failed_call
                who = {"noun": self._run.noun, "name": outcome.name, "id": outcome.customer_id}
                self._log.log(level, text, {**who, "path": path, "call": call})

    def _tell_progress(self) -> None:
        """Tell how many rows are done, without those that a stopped run did not reach."""
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

    def _show_payloads(self, outcomes: Sequence[RowOutcome]) -> None:
        """Print the bodies of the first rows, not log them: they hold customers' data."""
        for outcome in outcomes:
            row = outcome.prepared
            if row is None or outcome.status is not RowStatus.PLANNED:
                continue
            if self._shown == PAYLOADS_SHOWN:
                break
            self._shown += 1
            for path, call, body in (
                ("users/update", outcome.users_update, row.profile.body),
                ("events/track", outcome.events_track, row.event.body),
            ):
                if call.status is CallStatus.PLANNED:
                    sys.stdout.write(f"  POST /api/{path} {body.decode()}\n")


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


def table_lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return where Query 2's columns go as a table; *rows* are column, call, field and type."""
    table = [("column", "call", "field", "type"), *rows]
    widths = [max(len(row[place]) for row in table) for place in range(4)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def log_end(run: RunRecord, results: Path, advice: str) -> None:
    """Log how the rows of a finished run ended, and what to do about those that failed.

    *results* is the run's results file; *advice* says why the run was stopped early, if it was.
    """
    for line in (RULE, "INTEGRATION SUMMARY", RULE, *summary_lines(run)):
        logger.info("%s", line)
    if not_attempted := run.outcomes[RowStatus.NOT_ATTEMPTED]:
        text = "Not attempted: %d of %d %ss; nothing of theirs was sent"
        logger.warning(text, not_attempted, run.rows_read, run.noun)
    for call, fields in sorted(run.filtered_fields.items()):
        text = (
            "The project takes no new fields: Iterable left %s out of %s. The rest has arrived. "
            "Create the fields in Iterable; then profiles that lack some are sent once more"
        )
        logger.warning(text, ", ".join(sorted(fields)), call.replace("_", "/"))
    if run.news:
        logger.info("%s", run.news)
    if tolerated := run.tolerated:
        text = (
            "%s refused and MAX_REFUSED_ROWS allows %d, so the run is a success. %s names what to "
            "fix in each"
        )
        were = "1 row was" if tolerated == 1 else f"{tolerated} rows were"
        logger.warning(text, were, run.max_refused_rows, results)
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
        lines.append(f"Unchanged, already in Iterable: {unchanged}. --all would send them again")
    if forgotten := count[RowStatus.FORGOTTEN]:
        lines.append(f"Forgotten at the person's own request, not to be delivered: {forgotten}")
    if run.options.dry_run:
        lines.append(f"Would be sent: {count[RowStatus.PLANNED]}. This was a dry run")
    lines.append(
        f"{run.requests} requests in {run.sending_seconds:.1f} s, {run.retries} of them repeated, "
        f"{run.rate_limited_seconds:.1f} s held back by rate limits"
    )
    return lines


def stop_advice(reason: StopReason | None, detail: str, base_url: str) -> str:
    """Return why a run was stopped early and what to do about it; empty if it was not."""
    match reason:
        case StopReason.KEY_REFUSED:
            return f"{detail}. {NO_MORE_SENT}. {key_advice(base_url)}"
        case StopReason.OUTAGE:
            return f"Iterable seems to be down: {detail}. {NO_MORE_SENT}. {RUN_AGAIN}"
        case StopReason.DEADLINE:
            return f"MAX_RUNTIME_SECONDS is over. {NO_MORE_SENT}. {RUN_AGAIN}"
        case StopReason.SIGINT | StopReason.SIGTERM:
            return f"Stopped by a signal. {NO_MORE_SENT}. {RUN_AGAIN}"
        case _:
            return detail


def key_advice(base_url: str) -> str:
    """Return what to look at when Iterable refuses the API key."""
    here = base_url.removeprefix("https://")
    if here in DATA_CENTRES:
        (other,) = DATA_CENTRES.keys() - {here}
        return (
            f"Check ITERABLE_API_KEY. ITERABLE_API_BASE_URL is the {DATA_CENTRES[here]} data "
            f"centre; a key of the {DATA_CENTRES[other]} one needs https://{other}"
        )
    return "Check ITERABLE_API_KEY, and that ITERABLE_API_BASE_URL is that project's data centre"
