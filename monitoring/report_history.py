"""Reads the newest results files for the report: the runs, and why rows of the last one failed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from records.results_files import UnfinishedRun, results_files, unfinished_runs
from records.results_reader import (
    FailedRow,
    PastRun,
    ResultsFileError,
    read_failed_rows,
    read_run,
)

RUNS_SHOWN = 90
EXAMPLES_SHOWN = 10
# Kinds of errors kept in memory; a server that invents a code for every row must not fill it.
_ERRORS_KEPT = 1000

# Label, call, status, HTTP status, fault, fields.
ErrorKind = tuple[str, str, str, int | None, str, tuple[tuple[str, str], ...]]


@dataclass
class ErrorGroup:
    """Rows that failed in the last run with the same error.

    *runs* counts the runs with such rows, of which the oldest began at *since*.
    """

    label: str
    call: str
    status: str
    http_status: int | None
    fault: str
    fields: tuple[tuple[str, str], ...]
    since: datetime
    rows: int = 0
    runs: int = 1
    examples: list[FailedRow] = field(default_factory=list)

    @property
    def message(self) -> str:
        """What the examples give as their reason; empty if each has its own."""
        messages = {row.message for row in self.examples} - {self.label}
        return messages.pop() if len(messages) == 1 else ""

    def add(self, row: FailedRow) -> None:
        """Count a row of the last run."""
        self.rows += 1
        if len(self.examples) < EXAMPLES_SHOWN:
            self.examples.append(row)


@dataclass
class History:
    """The runs, oldest first, and the errors of the last one, the most frequent first.

    *unfinished* are the runs without a results file. *files* is the number of results files in the
    folder; *skipped* has the names of those that cannot be read, with the reason.
    """

    runs: list[PastRun]
    unfinished: list[UnfinishedRun]
    files: int
    skipped: list[tuple[str, str]]
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
    history = History([], unfinished_runs(folder), len(paths), [])
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
    """Group the failed rows of the last run by error, and find the runs before that had it."""
    if history.last is None:
        return
    last, groups = history.last, dict[ErrorKind, ErrorGroup]()
    for row in _failed_rows(last, history):
        kind = _kind_of(row)
        if kind not in groups and len(groups) >= _ERRORS_KEPT:
            kind = ("(other errors)", row.call, row.status, None, "", ())
        groups.setdefault(kind, ErrorGroup(*kind, since=last.started_at)).add(row)
    for run in reversed(history.judged if groups else []):
        if run is not last:
            for kind in groups.keys() & {_kind_of(row) for row in _failed_rows(run, history)}:
                groups[kind].runs += 1
                groups[kind].since = run.started_at
    history.errors = sorted(groups.values(), key=lambda group: (-group.rows, group.label))


def _failed_rows(run: PastRun, history: History) -> Iterator[FailedRow]:
    try:
        if run.failed:
            yield from read_failed_rows(run.path)
    except ResultsFileError as error:
        history.skipped.append((run.path.name, str(error)))


def _kind_of(row: FailedRow) -> ErrorKind:
    # Without an answer of Iterable's, the message is this program's own and says the kind.
    label = row.code or (f"HTTP {row.http_status}" if row.http_status else row.message[:80])
    return (
        label or "no reason given",
        row.call,
        row.status,
        row.http_status,
        row.fault,
        row.fields,
    )
