"""Reads results files back, whatever their size: the run, its sums, and the rows that failed.

A file as ``results_writer.py`` lays it out is never read whole into memory: what stands before and
behind its rows is read first, and the rows line by line only if some of them failed. Any other
layout, such as that of a person's JSON editor, is accepted up to ``WHOLE_FILE_BYTES``.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from records.outcomes import (
    ARRIVED,
    COUNTERS,
    FAILED_OUTCOMES,
    GOOD_OUTCOMES,
    RowStatus,
)
from records.results_files import SCHEMA_VERSION
from records.results_model import Endpoint, ResultRow, Run, Summary

WHOLE_FILE_BYTES = 8_000_000
# Summary and run take about 3 KB.
_TAIL_BYTES = 64 * 1024
# A string in JSON holds no raw newline, so neither of the two can stand inside a row.
_HEAD = re.compile(rb'\{\n"schema_version": (\d+),\n"results": \[\n')
_TAIL = b'\n],\n"summary": {'
# A string in JSON holds no raw quote either: these bytes are the field, whatever an email says.
_OUTCOME = b'"outcome": "'
_FAILED_BYTES = tuple(status.encode() for status in FAILED_OUTCOMES)
_TEXT_LENGTH = 300


class ResultsFileError(Exception):
    """This is no results file, or not a whole one. The message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run, as its file tells it.

    ``counts`` has the rows of each outcome. ``filtered_fields`` has, by call, what the project does
    not take.
    """

    path: Path
    started_at: datetime
    duration_s: float
    exit_status: int | None
    error: str
    tolerated: int
    max_refused_rows: int
    job: str
    mode: str
    version: str
    dry_run: bool
    send_all: bool
    limit: int | None
    rows: int
    counts: dict[RowStatus, int]
    requests: int
    retries: int
    rate_limited_s: float
    endpoints: dict[str, Endpoint]
    filtered_fields: dict[str, list[str]]
    query_sha256: str | None

    @property
    def counts_for_health(self) -> bool:
        """Whether this was the whole job: a dry run or a ``--limit`` is somebody trying it out."""
        return not self.dry_run and self.limit is None

    @property
    def failed(self) -> int:
        """Rows that were tried and are not, or not wholly, at Iterable."""
        return sum(self.counts[status] for status in FAILED_OUTCOMES)

    @property
    def undelivered(self) -> int:
        """Rows that should have been delivered and were not."""
        return sum(self.counts[status] for status in RowStatus if status not in GOOD_OUTCOMES)


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
    fault: str
    fields: tuple[tuple[str, str], ...]


def read_run(path: Path) -> PastRun:
    """Return what the file says of its run, without its rows.

    Raises:
        ResultsFileError: it is not a results file of a known version, or cannot be read.

    """
    try:
        return _past_run(path, _frame(path) or _whole(path))
    except OSError as error:
        raise ResultsFileError(f"cannot be read: {error.strerror}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ResultsFileError("is not a whole results file; was it cut off?") from error


def read_failed_rows(path: Path) -> Iterator[FailedRow]:
    """Yield the partial and total failures, one at a time, in the file's order.

    Raises:
        ResultsFileError: a row is damaged, or the file cannot be read any more.

    """
    try:
        rows = _failed_lines(path) if _frame(path) else _whole(path)["results"]
        for row in rows:
            if row["outcome"] in FAILED_OUTCOMES:
                yield _failed_row(ResultRow.model_validate(row))
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


def _past_run(path: Path, document: Mapping[str, Any]) -> PastRun:
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ResultsFileError(
            f"has schema_version {version!r:.20}; this program reads {SCHEMA_VERSION}"
        )
    run = Run.model_validate(_object(document, "run"))
    summary = Summary.model_validate(_object(document, "summary"))
    return PastRun(
        path=path,
        started_at=_moment(run.started_at),
        duration_s=run.duration_seconds,
        exit_status=run.exit_status,
        error=_text(run.error),
        tolerated=run.tolerated,
        max_refused_rows=run.max_refused_rows,
        job=_text(run.job),
        mode=_text(run.mode),
        version=_text(run.version),
        dry_run=run.dry_run,
        send_all=run.all,
        limit=run.limit,
        rows=summary.total,
        counts=_counts(summary, dry_run=run.dry_run),
        requests=summary.requests,
        retries=summary.retries,
        rate_limited_s=summary.rate_limited_seconds,
        # A row's user goes out before its event.
        endpoints=dict(
            sorted(summary.endpoints.items(), key=lambda item: not item[0].startswith("users/"))
        ),
        filtered_fields={
            call: [_text(field) for field in fields]
            for call, fields in summary.filtered_fields.items()
        },
        query_sha256=run.query_sha256,
    )


def _counts(summary: Summary, *, dry_run: bool) -> dict[RowStatus, int]:
    counts = {status: getattr(summary, name) for status, name in COUNTERS.items()}
    if dry_run and not counts[RowStatus.PLANNED]:  # which older versions did not count
        counts[RowStatus.PLANNED] = max(0, summary.total - sum(counts.values()))
    return counts


def _failed_row(row: ResultRow) -> FailedRow:
    update_arrived = row.users_update.status in ARRIVED
    call = row.events_track if update_arrived else row.users_update
    return FailedRow(
        customer_id=_text(row.customer_id),
        email=_text(row.email if row.user_id is None else row.user_id),
        outcome=row.outcome,
        call="events/track" if update_arrived else "users/update",
        status=_text(call.status),
        http_status=call.http_status,
        code=_text(call.code),
        attempts=call.attempts,
        message=_text(call.message),
        fault=_text(call.fault),
        fields=tuple((_text(name), _text(kind)) for name, kind in (call.fields or {}).items()),
    )


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise ResultsFileError(f"is not a results file: it has no {name}")
    return value


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _text(value: object) -> str:
    return "" if value is None else str(value)[:_TEXT_LENGTH]
