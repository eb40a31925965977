"""Rows of Query 2 for the tests, and what delivers them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from delivery.batching import Batch, BatchLimits, in_groups
from delivery.outage import Outage
from delivery.pipeline import Pipeline
from delivery.planner import Planner
from delivery.recorder import Recorder
from delivery.repeats import Repeats
from delivery.stopping import Stop
from delivery.worker_pool import WorkerPool
from iterable_api.payloads import Payloads
from iterable_client import Silence
from records.delivery_ledger import DeliveryLedger
from records.outcomes import PreparedRow, Row, RowOutcome
from records.results_writer import ResultsWriter
from records.run import RunOptions, RunRecord

# As of a spool: not a multiple of the rows that are planned together.
CHUNK_ROWS = 100


def make_row(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a row as the connector gives it; *changes* replace columns."""
    return {
        "customer_id": number,
        "email": f"user{number}@example.com",
        "first_name": "Sarah",
        "plan_type": "pro",
        "page_view_id": 100 + number,
        "page": "pricing",
        "event_time": datetime(2026, 1, 13, 14, 30, 45),  # noqa: DTZ001 - as MySQL gives it
        "browser": "Chrome",
        "location": "Madrid, ES",
        **changes,
    }


def make_prepared(number: int = 1, **changes: Any) -> PreparedRow:
    """Return what is to be sent for ``make_row()``."""
    return Payloads("db").prepare(make_row(number, **changes))


def open_ledger(
    path: Path, url: str = "https://api.iterable.com", key: str = "k"
) -> DeliveryLedger:
    """Open a ledger for a destination."""
    return DeliveryLedger(path, url, key)


def make_planner(
    ledger: DeliveryLedger, *, send_all: bool = False, dry_run: bool = False
) -> Planner:
    """Return a planner of the rows of ``make_row()``."""
    return Planner(Payloads("db"), ledger, send_all=send_all, dry_run=dry_run)


def repeats_in(rows: Iterable[Row]) -> Repeats:
    """Return which of *rows* have the address of a row before them."""
    return Repeats(Payloads("db").keys(row["email"] for row in rows))


class KeptResults(ResultsWriter):
    """A results file whose outcomes can be looked at."""

    def __init__(self, folder: Path, started_at: datetime) -> None:
        super().__init__(folder, started_at)
        self.outcomes: list[RowOutcome] = []

    def add(self, outcomes: Sequence[RowOutcome]) -> None:
        """Keep *outcomes* too."""
        self.outcomes += outcomes
        super().add(outcomes)


def deliver_rows(
    folder: Path,
    rows: Iterable[Row],
    process: Callable[[Batch], list[RowOutcome]],
    stop: Stop,
    *,
    workers: int = 1,
    batch_size: int = 1,
    head_start_s: float | None = None,
    answered: Callable[[], bool] = lambda: False,
    silence: Callable[[], Silence] = lambda: Silence(0.0, ""),
) -> list[RowOutcome]:
    """Deliver *rows* as a run does, with its files in *folder*; by default one after another."""
    run, rows = RunRecord(RunOptions(), "1.0.0"), list(rows)
    with (
        open_ledger(folder / "state.sqlite3") as ledger,
        KeptResults(folder, run.started_at) as results,
    ):
        recorder = Recorder(run, stop, ledger, results)
        recorder.begin(len(rows))
        pipeline = Pipeline(
            planner=make_planner(ledger),
            pool=WorkerPool(
                process,
                stop,
                workers=workers,
                waiting=lambda: 0,
                head_start_s=head_start_s,
                answered=answered,
            ),
            recorder=recorder,
            outage=Outage(stop, silence),
            limits=BatchLimits(batch_size),
            folder=folder,
        )
        pipeline.deliver(in_groups(rows, CHUNK_ROWS), repeats_in(rows))
        # As when the project was found to have all fields.
        ledger.prove()
        return results.outcomes
