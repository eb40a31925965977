"""Reads the newest results files for the report: the runs, and the failed rows of the last one."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from records.outcomes import FAILED_OUTCOMES, CallOutcome, Delivery
from records.results_files import (
    DAMAGED,
    ResultsFileError,
    UnfinishedRun,
    adapter,
    read_run,
    results_files,
    unfinished_runs,
)
from records.run import RunRecord

FILES_READ = 90
EXAMPLES_SHOWN = 10
# Number of failed rows of a run that are compared with those of other runs.
_ROWS_FOLLOWED = 1000
# Strings in JSON have no raw quote, so no value of a row can contain this.
_FAILED = re.compile(rb'"outcome": "(partial|total)_failure"')
LATER = "is dated in the future: check this machine's clock, then delete the file"


@dataclass
class ErrorGroup:
    """Rows of the last run whose call to *path* failed with one *error*.

    The *error* has no message: each of the *examples* has its own.
    """

    label: str
    path: str
    error: CallOutcome
    rows: int = 0
    examples: list[tuple[Delivery, str]] = field(default_factory=list)


@dataclass
class RepeatedRow:
    """A row that each of the last *runs* complete runs refused; the first of them began *since*."""

    row: Delivery
    since: datetime
    runs: int = 0


@dataclass
class History:
    """The runs, oldest first, and the errors of the last one, most frequent first.

    *unfinished* are the runs without a results file. *skipped* has the names of the files that do
    not count, each with the reason: damaged, or later than now.
    """

    runs: list[RunRecord]
    unfinished: list[UnfinishedRun]
    skipped: dict[str, str] = field(default_factory=dict)
    errors: list[ErrorGroup] = field(default_factory=list)
    repeated: list[RepeatedRow] = field(default_factory=list)

    @property
    def killed(self) -> list[UnfinishedRun]:
        """The killed runs since the last one: a run removes what earlier ones left."""
        return [run for run in self.unfinished if not run.alive]

    @property
    def judged(self) -> list[RunRecord]:
        """The runs of the whole job."""
        return [run for run in self.runs if not run.is_trial]

    @property
    def last(self) -> RunRecord | None:
        """The last run of the whole job; if there is none, the last trial."""
        runs = self.judged or self.runs
        return runs[-1] if runs else None

    @property
    def skipped_since(self) -> list[str]:
        """The skipped files that are newer than the last run."""
        newest = self.last.file.name if self.last and self.last.file else ""
        return [name for name in self.skipped if name > newest]


def read_history(folder: Path, now: datetime) -> History:
    """Read the newest results files of *folder*; without any, the history is empty."""
    history = History([], [run for run in unfinished_runs(folder) if run.started_at <= now])
    for path in results_files(folder)[-FILES_READ:]:
        try:
            run = read_run(path)
        except ResultsFileError as error:
            history.skipped[path.name] = str(error)
            continue
        if run.started_at > now:
            history.skipped[path.name] = LATER
        else:
            history.runs.append(run)
    if history.last:
        history.errors = _grouped(_failed_rows(history.last, history))
        history.repeated = _repeated(history)
    return history


def _grouped(rows: Iterator[Delivery]) -> list[ErrorGroup]:
    groups: dict[tuple[str, str, CallOutcome], ErrorGroup] = {}
    for row in rows:
        call = row.failed_call or row.profile
        its = call.outcome
        # Without an answer from Iterable, the message is this program's own and says the kind.
        label = its.code or (f"HTTP {its.http_status}" if its.http_status else its.message[:80])
        error = replace(its, message="", attempts=0)
        key = (label or "no reason given", call.path, error)
        group = groups.setdefault(key, ErrorGroup(*key))
        group.rows += 1
        if len(group.examples) < EXAMPLES_SHOWN:
            group.examples.append((row, its.message))
    return sorted(groups.values(), key=lambda group: (-group.rows, group.label))


def _repeated(history: History) -> list[RepeatedRow]:
    """Return the rows that were refused in the last complete run and in the ones before it."""
    found: dict[object, RepeatedRow] = {}
    for number, run in enumerate(reversed([run for run in history.judged if run.complete])):
        for row in islice(_failed_rows(run, history), _ROWS_FOLLOWED):
            each = found.setdefault((row.customer_id, row.name), RepeatedRow(row, run.started_at))
            if row.refused_for_itself and each.runs == number:
                each.runs, each.since = number + 1, run.started_at
        if all(each.runs <= number for each in found.values()):
            break
    return sorted((row for row in found.values() if row.runs > 1), key=lambda row: row.since)


def _failed_rows(run: RunRecord, history: History) -> Iterator[Delivery]:
    """Yield the failed rows of *run*, up to the first that is damaged."""
    if run.file is None or not any(run.outcomes[status] for status in FAILED_OUTCOMES):
        return
    try:
        with run.file.open("rb") as file:
            for line in takewhile(lambda line: line != b"],\n", file):
                # Rows that did not fail are never parsed.
                if _FAILED.search(line):
                    yield _row_of(json.loads(line.rstrip(b",\n")))
    except OSError as error:
        history.skipped[run.file.name] = f"cannot be read: {error.strerror}"
    except DAMAGED:
        history.skipped[run.file.name] = "has a damaged row; those behind it are left out"


def _row_of(members: Mapping[str, Any]) -> Delivery:
    row = Delivery(members["customer_id"], members["email"], members.get("user_id"))
    for call in (row.profile, row.event):
        outcome = members[call.path.replace("/", "_")]
        outcome["fields"] = outcome.get("fields", {}).items()
        call.outcome = adapter(CallOutcome).validate_python(outcome)
    return row
