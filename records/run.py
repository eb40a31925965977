"""The record of a run, its options and its outcome; ``results_files.py`` keeps it."""

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from logger_config import get_logger
from records.exit_statuses import ExitStatus, StopReason
from records.outcomes import (
    COUNTERS,
    FAILED_OUTCOMES,
    GOOD_OUTCOMES,
    CallStatus,
    Delivery,
    RowStatus,
)

logger = get_logger(__name__)

_UTC = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options on the command line. ``limit`` is a number of rows, None for all."""

    bulk: bool = False
    dry_run: bool = False
    send_all: bool = False
    limit: int | None = None
    quiet: bool = False
    demo: bool = False


@dataclass(slots=True)
class Endpoint:
    """The requests to one endpoint: number of answers by HTTP status, and latency percentiles."""

    requests: int
    answers: dict[str, int]
    latency_seconds: dict[str, float]


@dataclass(slots=True)
class RunRecord:
    """The outcome of a run; ``to_json()`` goes into its results file.

    Times are in UTC, durations in seconds. ``error`` says in a sentence what ended the run; it is
    empty if the run reached its last row. ``file`` is the results file that the record was read
    from, None for the run of this process.
    """

    options: RunOptions
    version: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    duration_seconds: float = 0.0
    query_sha256: str | None = None
    job: str = ""
    # What the console calls a row: "row" if the job has its own query.
    noun: str = "user"
    rows_read: int = 0
    max_refused_rows: int = 0
    # Number of rows that were not delivered because of one of their values.
    refused: int = 0
    # The first row that was not delivered, and why, in words that may be logged.
    first_failure: str = ""
    outcomes: Counter[RowStatus] = field(default_factory=Counter)
    users_update: Counter[CallStatus] = field(default_factory=Counter)
    events_track: Counter[CallStatus] = field(default_factory=Counter)
    # The fields that the project does not accept, by call.
    filtered_fields: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    sending_seconds: float = 0.0
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    retries: int = 0
    rate_limited_seconds: float = 0.0
    error: str = ""
    # A message for the operator even if the run succeeds.
    news: str = ""
    error_status: ExitStatus | None = None
    stop_reason: StopReason | None = None
    file: Path | None = None
    _started_s: float = field(default_factory=time.monotonic)

    def count(self, rows: Sequence[Delivery]) -> Counter[RowStatus]:
        """Count the outcomes of some more *rows*; return the number of these by status."""
        statuses = [row.status for row in rows]
        counts = Counter(statuses)
        self.outcomes.update(counts)
        self.users_update.update([row.profile.outcome.status for row in rows])
        self.events_track.update([row.event.outcome.status for row in rows])
        if counts.keys() != {RowStatus.UNCHANGED}:
            for row in rows:
                self._look_at(row)
        return counts

    def _look_at(self, row: Delivery) -> None:
        """Note what failed and which fields Iterable ignored."""
        if row.status in FAILED_OUTCOMES and (call := row.failed_call):
            self.refused += row.refused_for_itself
            text = f"customer {row.customer_id}: {call.path} {call.outcome}"
            self.first_failure = self.first_failure or text
        for call in (row.profile, row.event):
            if call.outcome.fields and call.outcome.status is CallStatus.DELIVERED:
                names = self.filtered_fields[call.path.replace("/", "_")]
                names.update(name for name, _ in call.outcome.fields)

    def fail(self, status: ExitStatus, text: str) -> None:
        """Note the error that ended the run. Later ones follow from the first."""
        if self.error_status is None:
            self.error_status, self.error = status, text

    def finish(self, reason: StopReason | None, advice: str) -> None:
        """Note that the run is over. If it was stopped early, *reason* and *advice* say why."""
        if self.outcomes.total() != self.rows_read and self.error_status is not ExitStatus.BUG:
            self.error_status = ExitStatus.BUG
            self.error = f"bug: {self.outcomes.total()} outcomes for {self.rows_read} rows"
            logger.error("A bug in this program: %s", self.error)
        self.error = self.error or advice
        self.stop_reason = reason
        self.finished_at = datetime.now(UTC)
        self.duration_seconds = time.monotonic() - self._started_s

    @property
    def exit_status(self) -> ExitStatus:
        """How the run ended, as far as it is known by now.

        A bug is reported whatever else happened. A reason to stop explains the errors it causes.
        """
        if self.stop_reason and self.error_status is not ExitStatus.BUG:
            return self.stop_reason.exit_status
        if self.error_status is not None:
            return self.error_status
        is_ok = self.undelivered == self.refused <= self.max_refused_rows
        return ExitStatus.OK if is_ok else ExitStatus.NOT_ALL_DELIVERED

    @property
    def cause(self) -> str:
        """Why the run did not succeed, in one sentence; empty if it did."""
        if self.error or self.exit_status is not ExitStatus.NOT_ALL_DELIVERED:
            return self.error
        were = "was" if self.undelivered == 1 else "were"
        what = "cannot be sent" if self.options.dry_run else f"{were} not delivered"
        first = f", the first is {self.first_failure}" if self.first_failure else ""
        return f"{self.undelivered} of {self.rows_read} rows {what}{first}"

    @property
    def complete(self) -> bool:
        """Whether every row was attempted."""
        return self.exit_status in {ExitStatus.OK, ExitStatus.NOT_ALL_DELIVERED}

    @property
    def is_trial(self) -> bool:
        """Whether this was only a trial, with ``--dry-run`` or ``--limit``."""
        return self.options.dry_run or self.options.limit is not None

    @property
    def undelivered(self) -> int:
        """The number of rows that did not end well."""
        return self.rows_read - sum(self.outcomes[status] for status in GOOD_OUTCOMES)

    @property
    def tolerated(self) -> int:
        """The number of refused rows that MAX_REFUSED_ROWS allowed in a successful run."""
        return self.undelivered if self.exit_status is ExitStatus.OK else 0

    @property
    def requests(self) -> int:
        """The number of requests that were sent."""
        return sum(endpoint.requests for endpoint in self.endpoints.values())

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return the part of the results file after the rows, once the run has finished."""
        summary = {
            "total": self.rows_read,
            **{name: self.outcomes[status] for status, name in COUNTERS.items()},
            "users_update": self.users_update,
            "events_track": self.events_track,
            "requests": self.requests,
            "retries": self.retries,
            "rate_limited_seconds": round(self.rate_limited_seconds, 3),
            "endpoints": {name: asdict(each) for name, each in self.endpoints.items()},
            "filtered_fields": {call: sorted(n) for call, n in self.filtered_fields.items()},
        }
        run = {
            "id": self.id,
            "started_at": f"{self.started_at:{_UTC}}",
            "finished_at": f"{self.finished_at or self.started_at:{_UTC}}",
            "duration_seconds": round(self.duration_seconds, 3),
            "complete": self.complete,
            "exit_status": int(self.exit_status),
            "tolerated": self.tolerated,
            "max_refused_rows": self.max_refused_rows,
            "error": self.error or None,
            "sending_seconds": round(self.sending_seconds, 3),
            "mode": "bulk" if self.options.bulk else "per-user",
            "dry_run": self.options.dry_run,
            "all": self.options.send_all,
            "limit": self.options.limit,
            "version": self.version,
            "query_sha256": self.query_sha256,
            # The demo's ledger is gone with it.
            "job": "" if self.options.demo else self.job,
        }
        return {"summary": summary, "run": run}
