"""Reads results files back, whatever their size: the run, its sums, and the rows that failed.

A file as ``results.py`` lays it out is never read whole into memory: what stands before and behind
its rows is read first, and the rows line by line only if some of them failed. Any other layout,
such as that of a person's JSON editor, is accepted up to ``WHOLE_FILE_BYTES``.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA_VERSION = 1
WHOLE_FILE_BYTES = 8_000_000
# Summary and run take about 3 KB.
_TAIL_BYTES = 64 * 1024
# A string in JSON holds no raw newline, so neither of the two can stand inside a row.
_HEAD = re.compile(rb'\{\n"schema_version": (\d+),\n"results": \[\n')
_TAIL = b'\n],\n"summary": {'
# A string in JSON holds no raw quote either: these bytes are the field, whatever an email says.
_OUTCOME = b'"outcome": "'
_FAILED = ("partial_failure", "total_failure")
_FAILED_BYTES = tuple(name.encode() for name in _FAILED)
# The summary's name for each outcome of a row.
_COUNTERS = {
    "successful": "successful",
    "unchanged": "unchanged",
    "partial_failure": "partial_failures",
    "total_failure": "total_failures",
    "not_attempted": "not_attempted",
    "planned": "planned",
}
_ARRIVED = {"delivered", "unchanged"}


class ResultsFileError(Exception):
    """This is no results file, or not a whole one. The message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How one endpoint answered. ``latency_s`` has p50, p90, p95, p99 and max, in seconds."""

    requests: int
    answers: dict[str, int]
    latency_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run, as its file tells it. ``counts`` has the rows of each outcome."""

    path: Path
    started_at: datetime
    duration_s: float
    sending_s: float | None
    exit_status: int | None
    error: str
    mode: str
    version: str
    dry_run: bool
    changed_only: bool
    limit: int | None
    rows: int
    counts: dict[str, int]
    requests: int
    retries: int
    rate_limited_s: float
    endpoints: dict[str, Endpoint]

    @property
    def counts_for_health(self) -> bool:
        """Whether this was the whole job: a dry run or a ``--limit`` is somebody trying it out."""
        return not self.dry_run and self.limit is None

    @property
    def undelivered(self) -> int:
        """Rows that should have been delivered and were not."""
        return sum(self.counts[name] for name in (*_FAILED, "not_attempted"))

    @property
    def rows_per_second(self) -> float | None:
        """Rows that were sent per second of sending; None if none were."""
        sent = sum(self.counts[name] for name in ("successful", *_FAILED))
        seconds = self.sending_s or self.duration_s
        return sent / seconds if sent and seconds and not self.dry_run else None


class FailedRow(NamedTuple):
    """A row of which a call failed, and that call: the first of the two that did not arrive."""

    customer_id: str
    email: str
    outcome: str
    call: str
    status: str
    http_status: int | None
    code: str
    attempts: int
    message: str


def read_run(path: Path) -> RunRecord:
    """Return what the file says of its run, without its rows.

    Raises:
        ResultsFileError: it is not a results file of a known version, or cannot be read.

    """
    try:
        return _run_record(path, _frame(path) or _whole(path))
    except OSError as error:
        raise ResultsFileError(f"cannot be read: {error.strerror}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ResultsFileError("is not a whole JSON document of ours; was it cut off?") from error


def read_failed_rows(path: Path) -> Iterator[FailedRow]:
    """Yield the partial and total failures, one at a time, in the file's order.

    Raises:
        ResultsFileError: a row is damaged, or the file cannot be read any more.

    """
    try:
        rows = _failed_lines(path) if _frame(path) else _whole(path)["results"]
        for row in rows:
            if row["outcome"] in _FAILED:
                yield _failed_row(row)
    except OSError as error:
        raise ResultsFileError(f"cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ResultsFileError("has a damaged row; those behind it are left out") from error


def _frame(path: Path) -> dict[str, Any] | None:
    """Return all but the rows of a file in the job's own layout; None if it is in another."""
    with path.open("rb") as file:
        head = _HEAD.match(file.read(100))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        _, found, tail = file.read().partition(_TAIL)
    if not head or not found:
        return None
    return {"schema_version": int(head[1]), **json.loads(b'{"summary": {' + tail)}


def _whole(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        text = file.read(WHOLE_FILE_BYTES + 1)
    if len(text) > WHOLE_FILE_BYTES:
        raise ResultsFileError("is large, and cut off or not laid out as the job writes it")
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ResultsFileError("is not a results file")
    return document


def _failed_lines(path: Path) -> Iterator[Any]:
    """Yield the failed rows. Most lines are successful: those are never parsed."""
    with path.open("rb") as file:
        for _ in range(3):
            file.readline()
        for line in file:
            at = line.find(_OUTCOME)
            if line.startswith(_FAILED_BYTES, at + len(_OUTCOME)) and at > 0:
                yield json.loads(line.rstrip(b",\n"))
            elif line == b"],\n":
                return


def _run_record(path: Path, document: Mapping[str, Any]) -> RunRecord:
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ResultsFileError(
            f"has schema_version {version!r:.20}; this program reads {SCHEMA_VERSION}"
        )
    run, summary = _object(document, "run"), _object(document, "summary")
    counts = {outcome: _count(summary, name) for outcome, name in _COUNTERS.items()}
    rows = _count(summary, "total")
    dry_run = run.get("dry_run") is True
    if dry_run and not counts["planned"]:
        counts["planned"] = max(0, rows - sum(counts.values()))
    return RunRecord(
        path=path,
        started_at=_moment(run.get("started_at")),
        duration_s=_number(run.get("duration_seconds")) or 0.0,
        sending_s=_number(run.get("sending_seconds")),
        exit_status=_whole_number(run.get("exit_status")),
        error=_text(run.get("error")),
        mode=_text(run.get("mode")) or "per-user",
        version=_text(run.get("version")),
        dry_run=dry_run,
        changed_only=run.get("changed_only") is True,
        limit=_whole_number(run.get("limit")),
        rows=rows,
        counts=counts,
        requests=_count(summary, "requests"),
        retries=_count(summary, "retries"),
        rate_limited_s=_number(summary.get("rate_limited_seconds")) or 0.0,
        endpoints=_endpoints(summary.get("endpoints")),
    )


def _endpoints(value: object) -> dict[str, Endpoint]:
    """Return what there is to know of each endpoint; older files say nothing."""
    endpoints = {}
    # A row's user goes out before its event.
    for name, facts in sorted(_items(value), key=lambda item: not item[0].startswith("users/")):
        latencies = {
            key: _number(seconds) for key, seconds in _items(_get(facts, "latency_seconds"))
        }
        endpoints[name] = Endpoint(
            requests=_whole_number(_get(facts, "requests")) or 0,
            answers={key: _whole_number(n) or 0 for key, n in _items(_get(facts, "answers"))},
            latency_s={key: value for key, value in latencies.items() if value is not None},
        )
    return endpoints


def _failed_row(row: Mapping[str, Any]) -> FailedRow:
    users_update, events_track = row["users_update"], row["events_track"]
    update_arrived = users_update["status"] in _ARRIVED
    call = events_track if update_arrived else users_update
    return FailedRow(
        customer_id=_text(row.get("customer_id")),
        email=_text(row.get("email")),
        outcome=row["outcome"],
        call="events/track" if update_arrived else "users/update",
        status=_text(call["status"]),
        http_status=_whole_number(call.get("http_status")),
        code=_text(call.get("code")),
        attempts=_whole_number(call.get("attempts")) or 0,
        message=_text(call.get("message")),
    )


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise ResultsFileError(f"is not a results file: it has no {name}")
    return value


def _items(value: object) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _get(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(str(value))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _number(value: object) -> float | None:
    """Return a number that can be drawn; None for anything else, NaN and infinity included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value < 1e12 else None


def _whole_number(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _count(summary: Mapping[str, Any], name: str) -> int:
    return _whole_number(summary.get(name)) or 0


def _text(value: object) -> str:
    return "" if value is None else str(value)[:300]
