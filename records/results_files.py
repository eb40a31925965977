"""Reads the results files of a folder: the runs and the rows that failed.

No file is read whole into memory: only its start and its end, and the rows line by line.
"""

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from records.outcomes import COUNTERS, CallOutcome, Delivery
from records.results_writer import NAMES, SCHEMA_VERSION
from records.run import RunRecord

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

# Summary and run take about 3 KB.
_TAIL_BYTES = 64 * 1024
# Strings in JSON have no raw newline or quote, so no value of a row can contain any of these.
_HEAD = f'{{\n"schema_version": {SCHEMA_VERSION},\n"results": [\n'.encode()
_TAIL = b'\n],\n"summary": {'
_FAILED = re.compile(rb'"outcome": "(partial|total)_failure"')
# More than any count or duration of a run.
_TOO_MUCH = 1e12
# What reading a damaged or foreign file may raise.
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class ResultsFileError(Exception):
    """A results file that is not whole or cannot be read. The message says why."""


def results_files(folder: Path) -> list[Path]:
    """Return the results files in *folder*, the oldest first; none if it cannot be listed."""
    with suppress(OSError):
        return sorted(path for path in folder.glob(f"{NAMES}.json") if path.is_file())
    return []


def read_run(path: Path) -> RunRecord:
    """Return the record of the run in the results file *path*, without its rows.

    Raises ResultsFileError if it is not a results file of this version, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_HEAD))
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            _, found, tail = file.read().rpartition(_TAIL)
        if head != _HEAD or not found:
            text = f"is no whole results file with schema_version {SCHEMA_VERSION}"
            raise ResultsFileError(text)
        return _run_of(b'{"summary": {' + tail, path)
    except OSError as error:
        raise ResultsFileError(f"cannot be read: {error.strerror}") from error
    except _DAMAGED:
        text = "has values that this version does not know; it is damaged, or of a later version"
        raise ResultsFileError(text) from None


def _run_of(document: bytes, path: Path) -> RunRecord:
    """Return the record whose ``to_json()`` *document* is."""
    both = json.loads(document, parse_int=_number, parse_float=_number, parse_constant=_number)
    summary, run = both["summary"], both["run"]
    record: RunRecord = _adapter(RunRecord).validate_python(
        {
            **summary,
            **run,
            "options": {**run, "bulk": run["mode"] == "bulk", "send_all": run["all"]},
            "rows_read": summary["total"],
            "outcomes": {status: summary[name] for status, name in COUNTERS.items()},
            "error": run["error"] or "",
            "error_status": run["exit_status"],
            "file": path,
        }
    )
    if record.started_at.tzinfo is None:
        raise ValueError("started_at")
    return record


def _number(text: str) -> float:
    """Return a count or a duration: there are no other numbers behind the rows."""
    number = float(text)
    if not 0 <= number < _TOO_MUCH:
        raise ValueError("a number")
    return number


@functools.cache
def _adapter(kind: type[T]) -> "TypeAdapter[T]":
    """Return what validates the JSON of a *kind*."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_failed_rows(path: Path) -> Iterator[Delivery]:
    """Yield the partial and total failures in the file's order.

    Raises ResultsFileError if a row is damaged, or the file can no longer be read.
    """
    try:
        with path.open("rb") as file:
            for line in file:
                if line == b"],\n":
                    return
                # Rows that did not fail are never parsed.
                if _FAILED.search(line):
                    yield _row_of(json.loads(line.rstrip(b",\n")))
    except OSError as error:
        raise ResultsFileError(f"cannot be read: {error.strerror}") from error
    except _DAMAGED:
        raise ResultsFileError("has a damaged row; those behind it are left out") from None


def _row_of(members: Mapping[str, Any]) -> Delivery:
    row = Delivery(members["customer_id"], members["email"], members.get("user_id"))
    for call in (row.profile, row.event):
        outcome = members[call.path.replace("/", "_")]
        outcome["fields"] = outcome.get("fields", {}).items()
        call.outcome = _adapter(CallOutcome).validate_python(outcome)
    return row


def runs_in(folder: Path, latest: int = 0) -> Iterator[RunRecord]:
    """Yield the runs in *folder*, the oldest first; by default all, else those of *latest* files.

    Files that cannot be read, as root's, are left out.
    """
    for path in results_files(folder)[-latest:]:
        with suppress(ResultsFileError):
            yield read_run(path)
