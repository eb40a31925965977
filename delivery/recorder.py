"""Writes down what becomes of a run while it goes on: in its record, the ledger and its results."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from delivery.field_check import Fetch, FieldCheck
from delivery.planner import Plan
from delivery.refusals import RefusalWatch
from delivery.stopping import Stop
from iterable_api.answers import user_not_found
from iterable_client import IterableClient
from logger_config import get_logger
from monitoring.console import RowLog
from records.delivery_ledger import Change, DeliveryLedger, LedgerError
from records.exit_statuses import RunError, StopReason
from records.outcomes import NOT_SENT, RowOutcome
from records.results_writer import ResultsWriter
from records.row_spool import SpoolError
from records.run import RunRecord

logger = get_logger(__name__)


class Recorder:
    """Writes down what becomes of *run*; when it no longer can, it asks the run to stop."""

    def __init__(
        self, run: RunRecord, stop: Stop, ledger: DeliveryLedger, results: ResultsWriter
    ) -> None:
        self.run = run
        self.stop = stop
        self.ledger = ledger
        self.refusals = RefusalWatch(stop)
        self._results = results
        self._log: RowLog | None = None
        self._fields: FieldCheck | None = None

    def begin(self, rows: int) -> None:
        """Note how many rows the run is about, and make sure of the disk for their outcomes.

        Raises RunError when there is no room.
        """
        try:
            self._results.reserve(rows)
        except OSError as error:
            folder = self._results.path.parent
            text = f"RESULTS_DIR {folder} has no room for {rows} rows: {error.strerror}"
            raise RunError(text) from None
        self.ledger.check_room(rows)
        if not self.run.options.dry_run:
            # Only bulk answers name the fields that the project has left out.
            self.ledger.begin_run(proven=self.run.options.bulk)
        self.run.begin(rows)

    def check_fields(self, names: Collection[str], fetch: Fetch, *, objects: bool) -> None:
        """Look at the project's fields now if an earlier run could not, and after sending.

        In bulk mode the answers say what was left out. *fetch* asks for the fields.
        """
        self._fields = FieldCheck(
            names,
            self.ledger,
            fetch,
            self.stop.wait,
            objects=objects,
            told_by_answers=self.run.options.bulk,
        )
        with self.stopping_on_failure():
            self._fields.check_earlier_runs()

    @contextmanager
    def sending(self, client: IterableClient, log: RowLog) -> Iterator[None]:
        """Tell *log* every outcome; at the end close *client*, and note what was sent.

        Then look whether the project has taken all of it, also when the time is over, as otherwise
        a job that never gets to its end might forget it and not move on; not after other stops.
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
        if self._fields is not None and self.stop.reason in {None, StopReason.DEADLINE}:
            with self.stopping_on_failure():
                self._fields.finish(self.run)

    def before_sending(self, plan: Plan) -> None:
        """Make the ledger forget what *plan* replaces. Raises LedgerError."""
        self.ledger.apply(plan.change)

    def note_profiles(self, outcomes: Sequence[RowOutcome]) -> None:
        """Remember the profiles of rows whose event is still to come."""
        profiles = [outcome._replace(events_track=NOT_SENT) for outcome in outcomes]
        self.ledger.record(profiles)

    def add(self, outcomes: Sequence[RowOutcome]) -> None:
        """Record *outcomes*: in the ledger and in the results, each also when the other fails."""
        self.run.count(outcomes)
        try:
            with self.stopping_on_failure():
                self.ledger.record(outcomes)
                # Iterable knows nothing of a user whose profile it is thought to have.
                lost = [
                    outcome.prepared
                    for outcome in outcomes
                    if outcome.prepared and user_not_found(outcome.events_track)
                ]
                self.ledger.apply(Change(profiles_to_forget=lost))
        finally:
            with self.stopping_on_failure():
                self._results.add(outcomes)
        if self._fields is not None:
            self._fields.add(outcomes)
        if self._log is not None:
            self._log.add(outcomes)

    @contextmanager
    def stopping_on_failure(self) -> Iterator[None]:
        """Ask the run to stop when the ledger or the results file cannot be written."""
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

    def finish(self, advice: str) -> bool:
        """Decide how the run ended, and write its results file; return whether it is there.

        *advice* says why the run was stopped early; it is empty if it was not.
        """
        self.run.finish(self.stop.reason, advice)
        try:
            self._results.finish(self.run)
        except OSError as error:
            text = (
                "The results could not be written to %s: %s. STATE_FILE knows what was delivered. "
                "Make room or fix the folder, then run again"
            )
            logger.error(text, self._results.path, error.strerror)
            self.run.error = self.run.error or text % (self._results.path, error.strerror)
            self.run.stop_reason = StopReason.NOT_RECORDED
            return False
        logger.info("Results saved to %s", self._results.path)
        return True
