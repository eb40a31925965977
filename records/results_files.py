"""The results files of a folder, read back: the runs, the rows that failed, and what must go.

A file is never read whole into memory: what stands before and behind its rows is read first, and
the rows line by line, only if some of them failed.
"""

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from records.outcomes import COUNTERS, CallOutcome, CallStatus, RowOutcome
from records.results_writer import NAMES, SCHEMA_VERSION
from records.run import RunRecord

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

# The number of files that are looked at for other jobs and for deliveries.
LATEST = 20
# Summary and run take about 3 KB.
_TAIL_BYTES = 64 * 1024
# A string in JSON holds no raw newline or quote: none of these can stand in a value of a row.
_HEAD = f'{{\n"schema_version": {SCHEMA_VERSION},\n"results": [\n'.encode()
_TAIL = b'\n],\n"summary": {'
_FAILED = re.compile(rb'"outcome": "(partial|total)_failure"')
# No run comes near it, and no chart could show it.
_TOO_MUCH = 1e12
# What the reading of a damaged or foreign file may end with.
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class ResultsFileError(Exception):
    """This is no results file, or not a whole one. The message says what is wrong with it."""


def results_files(folder: Path) -> list[Path]:
    """Return the results files in *folder*, the oldest first; none if it cannot be listed."""
    with suppress(OSError):
        return sorted(path for path in folder.glob(f"{NAMES}.json") if path.is_file())
    return []


def read_run(path: Path) -> RunRecord:
    """Return what the file says of its run, without its rows.

    A field that an earlier version did not write has its default. Raises ResultsFileError if it is
    not a results file of this version, or cannot be read.
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
            "options": {**run, "bulk": run["mode"] == "bulk", "send_all": run.get("all", False)},
            "rows_read": summary["total"],
            "outcomes": {status: summary.get(name, 0) for status, name in COUNTERS.items()},
            "error": run.get("error") or "",
            "error_status": run["exit_status"],
            "file": path,
        }
    )
    if record.started_at.tzinfo is None:
        raise ValueError("started_at")
    return record


def _number(text: str) -> float:
    """Return a count or a duration; no other numbers stand behind the rows."""
    number = float(text)
    if not 0 <= number < _TOO_MUCH:
        raise ValueError("a number")
    return number


@functools.cache
def _adapter(kind: type[T]) -> "TypeAdapter[T]":
    """Return what makes a *kind* of what stands in a file."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_failed_rows(path: Path) -> Iterator[RowOutcome]:
    """Yield the partial and total failures, one at a time, in the file's order.

    Raises ResultsFileError if a row is damaged, or the file cannot be read any more.
    """
    try:
        with path.open("rb") as file:
            for line in file:
                if line == b"],\n":
                    return
                # Most lines are successful: those are never parsed.
                if _FAILED.search(line):
                    yield _row_of(json.loads(line.rstrip(b",\n")))
    except OSError as error:
        raise ResultsFileError(f"cannot be read: {error.strerror}") from error
    except _DAMAGED:
        raise ResultsFileError("has a damaged row; those behind it are left out") from None


def _row_of(row: Mapping[str, Any]) -> RowOutcome:
    update, track = (
        _adapter(CallOutcome).validate_python({**call, "fields": call.get("fields", {}).items()})
        for call in (row["users_update"], row["events_track"])
    )
    return RowOutcome(row["customer_id"], row["email"], update, track, user_id=row.get("user_id"))


def other_jobs(folder: Path, job: str) -> list[str]:
    """Return the jobs besides *job* that have written the latest results files in *folder*."""
    return sorted({run.job for run in _runs(results_files(folder)[-LATEST:])} - {job, ""})


def tells_of_deliveries(folder: Path, job: str) -> bool:
    """Whether one of the latest results files of *job* in *folder* says that it delivered a row."""
    return any(
        run.job == job and (run.users_update + run.events_track)[CallStatus.DELIVERED]
        for run in _runs(results_files(folder)[-LATEST:])
    )


def _runs(paths: Iterable[Path]) -> Iterator[RunRecord]:
    """Yield the runs of the files at *paths*, without those that cannot be read, as root's."""
    for path in paths:
        with suppress(ResultsFileError):
            yield read_run(path)


def remove_old(own: Path, keep: int, job: str) -> None:
    """Remove the oldest results files of *job* beside *own* until *keep* are left; 0 keeps all.

    Files that are dated later than *own* were written while the clock was ahead: they go first.
    Raises OSError if one cannot be removed.
    """
    if keep:
        runs = _runs(path for path in results_files(own.parent) if path != own)
        others = [run.file for run in runs if run.file and run.job == job]
        others.sort(key=lambda path: path < own)
        for path in others[: max(0, len(others) - (keep - 1))]:
            path.unlink(missing_ok=True)
