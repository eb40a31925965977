"""Records the outcomes of a run as they come: in the run's record, the ledger and the results.

It stops the run if it can no longer record them, or if Iterable refuses all rows for a reason that
is not in the data.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from delivery.project_fields import ProjectFields
from delivery.stopping import Stop
from iterable_api.answers import NAME_BLOCKED, user_not_found
from iterable_api.mapping import EVENT_NAME
from iterable_client import IterableClient
from logger_config import get_logger
from monitoring.console import RowLog
from records.delivery_ledger import ENTRY_BYTES, DeliveryLedger, LedgerError
from records.exit_statuses import RunError, StopReason
from records.outcomes import ARRIVED, Call, CallOutcome, CallStatus, Delivery, Fault, RowStatus
from records.results_files import LINE_BYTES, ResultsWriter
from records.row_spool import SpoolError
from records.run import Endpoint, RunRecord

logger = get_logger(__name__)

# Reasons to stop after which the run still asks for the project's fields.
_STILL_ASKS = {None, StopReason.DEADLINE, StopReason.EVERY_ROW_REFUSED}
# Number of rows that an endpoint refuses in succession before the run stops. It is low for a reason
# that cannot be in the data. A value of the wrong type can be, so it counts only until the endpoint
# has accepted a row.
REFUSED_ROWS: Mapping[Fault | None, int] = {Fault.PROJECT: 4, Fault.NETWORK: 4, Fault.FIELD: 20}
# The same for a run that ends before that, and of which the endpoint accepted no row.
IN_ALL: Mapping[Fault | None, int] = {Fault.PROJECT: 1, Fault.NETWORK: 1, Fault.FIELD: 4}
# Most bytes of a row in the results file and in the ledger, and bytes to keep free.
BYTES_PER_ROW, SPARE_BYTES = LINE_BYTES + ENTRY_BYTES, 5_000_000
_DEFAULT_NAME = f'"eventName": "{EVENT_NAME}"'.encode("ascii")


@dataclass
class Recorder:
    """Records the outcomes of a run, and asks it to stop when it no longer can."""

    run: RunRecord
    stop: Stop
    ledger: DeliveryLedger
    fields: ProjectFields
    results: ResultsWriter
    log: RowLog | None = None

    def __post_init__(self) -> None:
        self.refusals = RefusalWatch(self.stop)

    def begin(self, rows: int, notes: Mapping[str, str]) -> None:
        """Note the number of *rows*; *notes* go into the ledger, see ``run_notes()``.

        Raises RunError if the disk has no room for their outcomes.
        """
        needed = rows * BYTES_PER_ROW + SPARE_BYTES
        for variable, file in (
            ("RESULTS_DIR", self.results.path),
            ("STATE_FILE", self.ledger.path),
        ):
            if (free := shutil.disk_usage(file.parent).free) < needed:
                raise RunError(
                    f"{variable}: {file.parent} needs {needed / 1e6:.0f} MB of free disk space for "
                    f"{rows} rows and has {free / 1e6:.0f} MB; free some, or name another disk"
                )
        if not self.run.options.dry_run:
            self.ledger.begin_run(notes)
        self.run.rows_read = rows

    @contextmanager
    def sending(self, client: IterableClient, log: RowLog) -> Iterator[None]:
        """Pass each outcome to *log*; at the end close *client* and count its requests.

        Then check that the project has stored all fields, also after the time limit or refusals:
        otherwise a job that always stops early would never know.
        """
        self.log = log
        began_s = time.monotonic()
        try:
            yield
            self.stop.over = True
        finally:
            # First, so that no request leaves uncounted.
            client.close()
            run, endpoints = self.run, client.statistics.to_json()
            run.sending_seconds = time.monotonic() - began_s
            run.endpoints = {name: Endpoint(**numbers) for name, numbers in endpoints.items()}
            run.retries, run.rate_limited_seconds = client.retries, client.rate_limited_seconds
        if not self.run.options.dry_run:
            with self.stopping_on_failure():
                self.fields.finish(patient=self.stop.reason in _STILL_ASKS)
        self.stop.raise_bug()

    def add(self, rows: Sequence[Delivery]) -> None:
        """Record *rows*, which are done, in the ledger and in the results.

        In each of them even if the other fails.
        """
        if not rows:
            return
        counts = self.run.count(rows)
        # Unchanged rows, which may be a million, need no look.
        if counts.keys() != {RowStatus.UNCHANGED}:
            with self.stopping_on_failure():
                self.note_in_ledger(rows)
        with self.stopping_on_failure():
            self.results.add(rows)
        with self.stopping_on_failure():
            if self.log is not None:
                self.log.add(rows, counts)

    def note_in_ledger(self, rows: Sequence[Delivery]) -> None:
        """Note what Iterable has now, and delete what it does not have. Raises LedgerError."""
        self.ledger.record(rows, sure=self.fields.add(rows))
        # Iterable does not know these users, even if it accepted their profiles.
        self.ledger.forget([row.profile for row in rows if user_not_found(row.event.outcome)])

    @contextmanager
    def stopping_on_failure(self) -> Iterator[None]:
        """Ask the run to stop when something fails inside, usually writing a file.

        ``stop.raise_bug()`` raises an unexpected exception once every row has its outcome.
        """
        try:
            yield
        except (LedgerError, SpoolError, OSError) as error:
            text = str(error)
            if isinstance(error, OSError):
                text = f"The results file cannot be written: {error.strerror}"
            if self.run.error != text:
                logger.error("%s. No more rows are sent", text)
            self.run.error = text
            self.stop.request(StopReason.NOT_RECORDED, text)
        except Exception as bug:  # noqa: BLE001 - is raised later
            self.stop.fail(bug)

    def finish(self) -> bool:
        """Write the results file of the finished run; return whether that succeeded."""
        try:
            self.results.finish(self.run)
        except OSError as error:
            text = (
                f"The results could not be written to {self.results.path}: {error.strerror}. "
                "STATE_FILE records what was delivered. Make room or fix the folder, then run again"
            )
            logger.error("%s", text)
            self.run.error = self.run.error or text
            self.run.stop_reason = StopReason.NOT_RECORDED
            return False
        logger.info("Results saved to %s", self.results.path)
        return True


class RefusalWatch:
    """Asks the run to stop if Iterable refuses the key, or several rows in succession."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        # Endpoints that have accepted a row, in this run or an earlier one.
        self._accepted: set[str] = set()
        # Calls refused since the endpoint accepted a row.
        self._refused: dict[str, list[CallOutcome]] = {"users": [], "events": []}

    def watch(self, rows: Sequence[Delivery]) -> None:
        """Count more rows, in the order of their answers."""
        self._watch("users", [row.profile.outcome for row in rows])
        self._watch("events", [_event_outcome(row.event) for row in rows])

    def _watch(self, name: str, calls: Sequence[CallOutcome]) -> None:
        refused = self._refused[name]
        statuses = {call.status for call in calls}
        # They came back together, so their order does not matter.
        if CallStatus.DELIVERED in statuses:
            refused.clear()
        if statuses & {CallStatus.DELIVERED, CallStatus.UNCHANGED}:
            self._accepted.add(name)
        for call in calls if statuses - ARRIVED else ():
            if call.fault is Fault.KEY:
                self._stop.request(StopReason.KEY_REFUSED, call.message)
            its_own = call.fault is Fault.FIELD and name in self._accepted
            passing = call.fault is Fault.NETWORK and call.http_status is None and call.code is None
            if call.fault in REFUSED_ROWS and not (its_own or passing):
                refused.append(call)
        self._judge(name, REFUSED_ROWS)

    def finish(self) -> None:
        """Ask for a stop also after a short run of which everything was refused."""
        for name in self._refused.keys() - self._accepted:
            self._judge(name, IN_ALL)

    def _judge(self, name: str, enough: Mapping[Fault | None, int]) -> None:
        refused = self._refused[name]
        if refused and len(refused) >= enough[refused[0].fault]:
            self._stop.request(StopReason.EVERY_ROW_REFUSED, _reason(name, refused[0]))


def _event_outcome(event: Call) -> CallOutcome:
    """Return the event's outcome; a blocked name is in the data if the row has its own name."""
    if event.outcome.message == NAME_BLOCKED and _DEFAULT_NAME not in event.body:
        return replace(event.outcome, fault=Fault.FIELD)
    return event.outcome


def _reason(name: str, call: CallOutcome) -> str:
    """Return why every row is refused. Quotes no value."""
    text = f"Iterable refuses all {name}: {call}"
    if call.fault is not Fault.FIELD and call.message and call.http_status is not None:
        # Only this program's own text: Iterable's message could quote a row.
        text += f", {call.message}"
    for field, kind in call.fields:
        text += f"; in the project, the field {field!r} has the type {kind}"
    return text
