"""Writes and reads results files: one line of JSON for each row, and a summary of the run.

A file is called ``integration_results_YYYYMMDD_HHMMSS.json`` after the time, in UTC, at which its
run began, or the next free second. During the run there is a hidden ``.partial`` file of that name
instead, which the run keeps locked. No file is ever whole in memory.
"""

import fcntl
import functools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

from records.files import publish
from records.outcomes import COUNTERS, PLANNED, UNCHANGED, Call, CallOutcome, Delivery
from records.run import RunRecord

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# The version of the results file's format.
SCHEMA_VERSION = 1
# The file's name without its ending, and the names that look like it.
NAME = "integration_results_%Y%m%d_%H%M%S"
NAMES = f"integration_results_{'[0-9]' * 8}_{'[0-9]' * 6}"
# The longest that one row can be: with a message of full length, or with every field of both calls
# filtered out. Most take less than half of it.
LINE_BYTES = 1000
# Summary and run take about 3 KB.
_TAIL_BYTES = 64 * 1024
# Strings in JSON have no raw newline or quote, so no value of a row can contain either of these.
_HEAD = f'{{\n"schema_version": {SCHEMA_VERSION},\n"results": ['
_TAIL = '\n],\n"summary": '
# More than any count or duration of a run.
_TOO_MUCH = 1e12
# What reading a damaged or foreign file may raise.
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class UnfinishedRun(NamedTuple):
    """A run without a results file: *alive* if it is under way, else it was killed."""

    started_at: datetime
    alive: bool
    partial: Path


def unfinished_runs(folder: Path) -> Iterator[UnfinishedRun]:
    """Yield the runs that have a partial file in *folder*; the next run removes a killed one's."""
    found = [path for path in folder.glob(f".{NAMES}.partial") if path.is_file()]
    for partial in sorted(found):
        with suppress(ValueError):  # no time
            started_at = datetime.fromisoformat(f"{partial.stem[-15:]}Z")
            yield UnfinishedRun(started_at, _is_locked(partial), partial)


def _is_locked(partial: Path) -> bool:
    try:
        with partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True  # or unknown: another user's file, or a file system without locks
    return False


class ResultsWriter:
    """Writes the results file of one run in *folder*, which is made if it is not there.

    The rows go to the partial file, which gets the final name only when it is complete and on disk.
    Only their owner can read either. *started_at* is in UTC. Removes the partial files of killed
    runs. Raises OSError if *folder* cannot be written.
    """

    def __init__(self, folder: Path, started_at: datetime) -> None:
        self._failure: OSError | None = None
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            for run in unfinished_runs(folder):
                if not run.alive:
                    run.partial.unlink(missing_ok=True)
            self.path, self._partial = _free_name(folder, started_at)
            self._partial.touch(0o600, exist_ok=False)
            self._file = self._partial.open("w", encoding="ascii")
            _try_lock(self._file)
        self._file.write(_HEAD)
        self._separator = "\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the partial file of a run that did not finish its results."""
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def add(self, rows: Sequence[Delivery]) -> None:
        """Append the outcomes of *rows*.

        Raises OSError when the disk is full; from then on nothing is written any more.
        """
        if not rows or self._failure:
            return
        lines = ",\n".join([_row_json(row) for row in rows])
        try:
            self._file.write(f"{self._separator}{lines}")
        except OSError as error:
            self._failure = error
            raise
        self._separator = ",\n"

    def finish(self, run: RunRecord) -> None:
        """Append the summary of *run* and the run itself, and give the file its name.

        Raises OSError if the disk is or was full, or the folder is no longer writable.
        """
        if self._failure:
            raise self._failure
        summary, details = (json.dumps(part, indent=2) for part in run.to_json().values())
        self._file.write(f'{_TAIL}{summary},\n"run": {details}\n}}\n')
        publish(self._file, self._partial, self.path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs waiting that begin in *folder*: a new partial file is not locked at once."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _try_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _try_lock(file: int | IO[str]) -> None:
    with suppress(OSError):  # not every file system can lock
        fcntl.flock(file, fcntl.LOCK_EX)


def _free_name(folder: Path, started_at: datetime) -> tuple[Path, Path]:
    """Return the path of a results file that no other run has, and that of its partial file."""
    while True:
        path = folder / f"{started_at:{NAME}}.json"
        partial = path.with_name(f".{path.stem}.partial")
        # In this order: a run that ends just now renames its partial file.
        if not partial.exists() and not path.exists():
            return path, partial
        started_at += timedelta(seconds=1)


# Made once: json.dumps() with an option makes an encoder at every call.
_encode = json.JSONEncoder(default=str).encode


def _json(value: object) -> str:
    """Return *value* as JSON. The encoder is slow with numbers."""
    return str(value) if type(value) is int else _encode(value)


def _row_json(row: Delivery) -> str:
    """Return the line of one row. Put together by hand, as there may be a million of them."""
    who = f'"customer_id": {_json(row.customer_id)}, "email": {_json(row.email)}'
    if row.user_id is not None:
        who += f', "user_id": {_json(row.user_id)}'
    event_id = f'"{name}"' if (name := row.event_id) else "null"
    # Most rows of most nights: to look them up takes a while.
    if row.profile.outcome is row.event.outcome is UNCHANGED:
        return f"{{{who}, {_UNCHANGED_ROW}{event_id}}}}}"
    return (
        f'{{{who}, "outcome": "{row.status}", "users_update": {{{_call_json(row.profile)}}}, '
        f'"events_track": {{{_call_json(row.event)}, "event_id": {event_id}}}}}'
    )


def _call_json(call: Call) -> str:
    """Return the members of a call's JSON object, without its braces."""
    payload = f', "payload": {call.body.decode()}' if call.outcome is PLANNED else ""
    return _outcome_json(call.outcome) + payload


# Most rows share a few outcomes.
@functools.lru_cache(maxsize=1000)
def _outcome_json(outcome: CallOutcome) -> str:
    members = asdict(outcome) | {"fields": dict(outcome.fields)}
    for name in ("fault", "fields"):
        if not members[name]:
            del members[name]
    return json.dumps(members)[1:-1]


_UNCHANGED_ROW = (
    f'"outcome": "unchanged", "users_update": {{{_outcome_json(UNCHANGED)}}}, '
    f'"events_track": {{{_outcome_json(UNCHANGED)}, "event_id": '
)


# --- Reading


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
            _, found, tail = file.read().rpartition(_TAIL.encode())
        if head != _HEAD.encode() or not found:
            text = f"is no whole results file with schema_version {SCHEMA_VERSION}"
            raise ResultsFileError(text)
        return _run_of(b'{"summary": ' + tail, path)
    except OSError as error:
        raise ResultsFileError(f"cannot be read: {error.strerror}") from error
    except DAMAGED:
        text = "has values that this version does not know; it is damaged, or of a later version"
        raise ResultsFileError(text) from None


def _run_of(document: bytes, path: Path) -> RunRecord:
    """Return the record whose ``to_json()`` *document* is."""
    both = json.loads(document, parse_int=_number, parse_float=_number, parse_constant=_number)
    summary, run = both["summary"], both["run"]
    record: RunRecord = adapter(RunRecord).validate_python(
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
def adapter(kind: type[object]) -> "TypeAdapter[Any]":
    """Return what validates the JSON of a *kind*."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def runs_in(folder: Path, latest: int = 0) -> Iterator[RunRecord]:
    """Yield the runs in *folder*, the oldest first; by default all, else those of *latest* files.

    Files that cannot be read, as root's, are left out.
    """
    for path in results_files(folder)[-latest:]:
        with suppress(ResultsFileError):
            yield read_run(path)
