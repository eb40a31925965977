"""Writes down what becomes of a run while it goes on: in its record, the ledger and its results."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from delivery.project_fields import ProjectFields
from delivery.refusals import RefusalWatch
from delivery.stopping import Stop
from iterable_api.answers import user_not_found
from iterable_client import IterableClient
from logger_config import get_logger
from monitoring.console import RowLog
from records.delivery_ledger import DeliveryLedger, LedgerError
from records.exit_statuses import RunError, StopReason
from records.outcomes import RowOutcome, RowStatus
from records.results_writer import ResultsWriter
from records.row_spool import SpoolError
from records.run import RunRecord

logger = get_logger(__name__)

# How a run may end that asks for the project's fields all the same.
_STILL_ASKS = {None, StopReason.DEADLINE, StopReason.EVERY_ROW_REFUSED}


class Recorder:
    """Writes down what becomes of *run*; when it no longer can, it asks the run to stop."""

    def __init__(
        self,
        run: RunRecord,
        stop: Stop,
        ledger: DeliveryLedger,
        fields: ProjectFields,
        results: ResultsWriter,
    ) -> None:
        self.run = run
        self.stop = stop
        self.ledger = ledger
        self.fields = fields
        self.refusals = RefusalWatch(stop)
        self._results = results
        self._log: RowLog | None = None

    def begin(self, rows: int, notes: Mapping[str, str]) -> None:
        """Note how many rows the run is about, and make sure of the disk for their outcomes.

        *notes* say in the ledger what the run is like. Raises RunError when there is no room.
        """
        try:
            self._results.reserve(rows)
        except OSError as error:
            folder = self._results.path.parent
            text = f"RESULTS_DIR {folder} has no room for {rows} rows: {error.strerror}"
            raise RunError(text) from None
        self.ledger.check_room(rows)
        if not self.run.options.dry_run:
            self.ledger.begin_run(notes)
        self.run.begin(rows)

    @contextmanager
    def sending(self, client: IterableClient, log: RowLog) -> Iterator[None]:
        """Tell *log* every outcome; at the end close *client*, and note what was sent.

        Then look whether the project has taken all of it, also when the time is over or the rest
        was refused: a job that never gets to its end must learn it too.
        """
        self._log = log
        began_s = time.monotonic()
        try:
            yield
        finally:
            # First, so that nothing leaves any more that would not be counted.
            client.close()
            self.run.sent(
                seconds=time.monotonic() - began_s,
                endpoints=client.statistics.to_json(),
                retries=client.retries,
                rate_limited_seconds=client.rate_limited_seconds,
            )
        if not self.run.options.dry_run:
            with self.stopping_on_failure():
                self.fields.finish(patient=self.stop.reason in _STILL_ASKS)
        self.stop.raise_bug()

    def add(self, outcomes: Sequence[RowOutcome]) -> None:
        """Record *outcomes*: in the ledger and in the results, each also when the other fails."""
        if not outcomes:
            return
        counts = self.run.count(outcomes)
        # Of a million rows that were left as they are, none is looked at.
        if counts.keys() != {RowStatus.UNCHANGED}:
            with self.stopping_on_failure():
                self.note_in_ledger(outcomes)
        with self.stopping_on_failure():
            self._results.add(outcomes)
        with self.stopping_on_failure():
            if self._log is not None:
                self._log.add(outcomes, counts)

    def note_in_ledger(self, outcomes: Sequence[RowOutcome]) -> None:
        """Remember what Iterable has now, and forget what it has not. Raises LedgerError."""
        self.ledger.record(outcomes, sure=self.fields.add(outcomes))
        # Iterable knows nothing of a user whose profile it is thought to have.
        lost = [
            outcome.prepared.user_name
            for outcome in outcomes
            if outcome.prepared and user_not_found(outcome.events_track)
        ]
        self.ledger.forget(lost)

    @contextmanager
    def stopping_on_failure(self) -> Iterator[None]:
        """Ask the run to stop when something fails inside, above all to write a file.

        What nobody expected is raised by ``stop.raise_bug()``, once every row has its outcome.
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

    def finish(self, advice: str) -> bool:
        """Decide how the run ended, and write its results file; return whether it is there.

        *advice* says why the run was stopped early; it is empty if it was not.
        """
        self.run.finish(self.stop.reason, advice)
        try:
            self._results.finish(self.run)
        except OSError as error:
            text = (
                f"The results could not be written to {self._results.path}: {error.strerror}. "
                "STATE_FILE knows what was delivered. Make room or fix the folder, then run again"
            )
            logger.error("%s", text)
            self.run.error = self.run.error or text
            self.run.stop_reason = StopReason.NOT_RECORDED
            return False
        logger.info("Results saved to %s", self._results.path)
        return True
