"""Reads the newest results files for the report: the runs, and the errors of their failed rows."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from records.outcomes import Fault
from records.results_files import results_files
from records.results_reader import (
    FailedRow,
    PastRun,
    ResultsFileError,
    read_failed_rows,
    read_run,
)

RUNS_SHOWN = 90
FAILED_ROWS_SHOWN = 200
EXAMPLES_SHOWN = 3
# Kinds of errors kept in memory; a server that invents a code for every row must not fill it.
_ERRORS_KEPT = 1000

# Label, call, status, HTTP status, fault, fields.
ErrorKind = tuple[str, str, str, int | None, str, tuple[tuple[str, str], ...]]


@dataclass
class ErrorGroup:
    """Failed rows with the same error. ``examples`` are of the newest runs that have any."""

    label: str
    call: str
    status: str
    http_status: int | None
    fault: str
    fields: tuple[tuple[str, str], ...]
    rows: int = 0
    rows_in_last: int = 0
    runs: int = 0
    last_seen: datetime | None = None
    examples: list[FailedRow] = field(default_factory=list)
    _run: PastRun | None = None

    @property
    def message(self) -> str:
        """What says the reason of all these rows; empty where each row has its own."""
        message = self.examples[0].message if self.examples else ""
        return "" if self.fault in {Fault.ROW, Fault.FIELD} or message == self.label else message

    def add(self, row: FailedRow, run: PastRun, *, is_last: bool) -> None:
        """Count a row of *run*. All rows of a run come together, those of the newest run first."""
        if run is not self._run:
            self._run = run
            self.runs += 1
            self.last_seen = self.last_seen or run.started_at
        self.rows += 1
        self.rows_in_last += is_last
        if len(self.examples) < EXAMPLES_SHOWN and all(
            row.customer_id != example.customer_id for example in self.examples
        ):
            self.examples.append(row)


@dataclass
class History:
    """The runs, oldest first, with what is worth knowing of their failed rows.

    *files* is the number of results files in the folder; *skipped* has the names of those that
    cannot be read, with the reason.
    """

    runs: list[PastRun]
    files: int
    skipped: list[tuple[str, str]]
    failed_rows: list[FailedRow] = field(default_factory=list)
    errors: list[ErrorGroup] = field(default_factory=list)

    @property
    def judged(self) -> list[PastRun]:
        """The runs that were the whole job."""
        return [run for run in self.runs if run.counts_for_health]

    @property
    def last(self) -> PastRun | None:
        """The last run of the whole job; without any, the last run of all."""
        runs = self.judged or self.runs
        return runs[-1] if runs else None


def read_history(folder: Path) -> History:
    """Read the newest results files of *folder*; without any, the history is empty.

    Raises:
        OSError: *folder* cannot be listed.

    """
    paths = results_files(folder)
    history = History([], len(paths), [])
    # What is read here is small: rows are streamed later.
    for path in reversed(paths):
        try:
            history.runs.append(read_run(path))
        except ResultsFileError as error:
            history.skipped.append((path.name, str(error)))
        if len(history.runs) == RUNS_SHOWN:
            break
    history.runs.reverse()
    history.runs.sort(key=lambda run: run.started_at)
    _read_errors(history)
    return history


def _read_errors(history: History) -> None:
    """Group the failed rows of all runs by error, and keep those of the last run."""
    groups: dict[ErrorKind, ErrorGroup] = {}
    last = history.last
    for run in reversed(history.runs):
        try:
            for row in _failed_rows(run):
                _group_of(row, groups).add(row, run, is_last=run is last)
                if run is last and len(history.failed_rows) < FAILED_ROWS_SHOWN:
                    history.failed_rows.append(row)
        except ResultsFileError as error:
            history.skipped.append((run.path.name, str(error)))
    history.errors = sorted(groups.values(), key=lambda g: (-g.rows_in_last, -g.rows, g.label))


def _failed_rows(run: PastRun) -> Iterable[FailedRow]:
    return read_failed_rows(run.path) if run.failed else ()


def _group_of(row: FailedRow, groups: dict[ErrorKind, ErrorGroup]) -> ErrorGroup:
    # Without an answer of Iterable's, the message is this program's own and says the kind.
    label = row.code or (f"HTTP {row.http_status}" if row.http_status else row.message[:80])
    kind: ErrorKind = (label, row.call, row.status, row.http_status, row.fault, row.fields)
    if kind not in groups and len(groups) >= _ERRORS_KEPT:
        kind = ("(other errors)", row.call, row.status, None, "", ())
    return groups.setdefault(kind, ErrorGroup(*kind))
