"""What is planned for rows and what has come of them, written down as it happens."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from delivery.planner import Plan, Planner
from delivery.stopping import Stop, StopReason
from delivery.worker_pool import not_attempted
from iterable_api.payloads import Payloads
from logger_config import get_logger
from records.delivery_ledger import DeliveryLedger, LedgerError
from records.outcomes import Row, RowOutcome
from records.results_writer import ResultsWriter, Run

logger = get_logger(__name__)


class Recorder:
    """Writes down what is planned and what has come of it; when it cannot, the run stops."""

    def __init__(
        self, run: Run, stop: Stop, ledger: DeliveryLedger, results: ResultsWriter
    ) -> None:
        self.run = run
        self._stop = stop
        self._ledger = ledger
        self._results = results

    def planner(self, payloads: Payloads) -> Callable[[Sequence[Row]], Plan]:
        """Return what plans rows, and leaves them alone when the ledger fails."""
        changed_only, dry_run = self.run.changed_only, self.run.dry_run
        planner = Planner(payloads, self._ledger, changed_only=changed_only, dry_run=dry_run)

        def plan(rows: Sequence[Row]) -> Plan:
            with self._failures_stop():
                return planner.plan(rows)
            return Plan([not_attempted(row) for row in rows], [])

        return plan

    def add(self, outcomes: Sequence[RowOutcome]) -> None:
        """Record *outcomes* in the ledger and in the results; each also when the other fails."""
        with self._failures_stop():
            self._ledger.record(outcomes)
        with self._failures_stop():
            self._results.add(outcomes)

    @contextmanager
    def _failures_stop(self) -> Iterator[None]:
        try:
            yield
        except (LedgerError, OSError) as error:
            text = str(error)
            if isinstance(error, OSError):
                text = f"The results file cannot be written: {error.strerror}"
            if self.run.error != text:
                logger.error("%s. No more rows are sent", text)
            self.run.error = text
            self._stop.request(StopReason.NOT_RECORDED, text)
