"""Reads results files back, whatever their size: the run, and the rows that failed.

A file is never read whole into memory: what stands before and behind its rows is read first, and
the rows line by line, only if some of them failed. A field that an earlier version did not write
has its default.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from records.exit_statuses import ExitStatus
from records.outcomes import (
    COUNTERS,
    FAILED_OUTCOMES,
    CallOutcome,
    CallStatus,
    Fault,
    RowOutcome,
)
from records.run import SCHEMA_VERSION, RunOptions, RunRecord

# Summary and run take about 3 KB.
_TAIL_BYTES = 64 * 1024
# A string in JSON holds no raw newline, so neither of the two can stand inside a row.
_HEAD = re.compile(rb'\{\n"schema_version": (\d+),\n"results": \[\n')
_TAIL = b'\n],\n"summary": {'
# A string in JSON holds no raw quote either: these bytes are the field, whatever an email says.
_OUTCOME = b'"outcome": "'
_FAILED_BYTES = tuple(status.encode() for status in FAILED_OUTCOMES)
# No run comes near it, and no chart could show it.
_TOO_MUCH = 1e12
# What the reading of a damaged or foreign file may end with.
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class ResultsFileError(Exception):
    """This is no results file, or not a whole one. The message says what is wrong with it."""


def read_run(path: Path) -> RunRecord:
    """Return what the file says of its run, without its rows.

    Raises:
        ResultsFileError: it is not a results file of a known version, or cannot be read.

    """
    try:
        with path.open("rb") as file:
            head = _HEAD.match(file.read(100))
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            _, found, tail = file.read().rpartition(_TAIL)
        if not head or not found:
            raise ResultsFileError("is no whole results file as the job writes it")
        if (version := int(head[1])) != SCHEMA_VERSION:
            text = f"has schema_version {version}; this program reads {SCHEMA_VERSION}"
            raise ResultsFileError(text)
        document = json.loads(b'{"summary": {' + tail)
        return _run_of(document["summary"], document["run"], path)
    except OSError as error:
        raise ResultsFileError(f"cannot be read: {error.strerror}") from error
    except _DAMAGED as error:
        text = "has values that this version does not know; it is damaged, or of a later version"
        raise ResultsFileError(text) from error


def _run_of(summary: Mapping[str, Any], run: Mapping[str, Any], path: Path) -> RunRecord:
    """Return the record that ``summary()`` and ``to_json()`` were called on."""
    limit = run.get("limit")
    options = RunOptions(
        bulk=run.get("mode") == "bulk",
        dry_run=run.get("dry_run") is True,
        send_all=run.get("all") is True,
        limit=None if limit is None else _count(run, "limit"),
    )
    filtered = summary.get("filtered_fields", {})
    return RunRecord(
        options,
        version=str(run.get("version", "")),
        id=str(run.get("id", "")),
        started_at=_moment(run["started_at"]),
        finished_at=_moment(run.get("finished_at", run["started_at"])),
        duration_seconds=_number(run, "duration_seconds"),
        query_sha256=run.get("query_sha256"),
        job=str(run.get("job", "")),
        rows_read=_count(summary, "total"),
        max_refused_rows=_count(run, "max_refused_rows"),
        refused=_count(run, "tolerated"),
        outcomes=Counter({s: _count(summary, name) for s, name in COUNTERS.items()}),
        users_update=_statuses(summary.get("users_update", {})),
        events_track=_statuses(summary.get("events_track", {})),
        filtered_fields={call: set(map(str, names)) for call, names in filtered.items()},
        sending_seconds=_number(run, "sending_seconds"),
        endpoints={name: _endpoint(e) for name, e in summary.get("endpoints", {}).items()},
        retries=_count(summary, "retries"),
        rate_limited_seconds=_number(summary, "rate_limited_seconds"),
        error=str(run.get("error") or ""),
        error_status=ExitStatus(run["exit_status"]),
        file=path,
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _number(part: Mapping[str, Any], name: str) -> float:
    value = part.get(name, 0)
    if not 0 <= value < _TOO_MUCH:
        raise ValueError(name)
    return float(value)


def _count(part: Mapping[str, Any], name: str) -> int:
    return int(_number(part, name))


def _statuses(counts: Mapping[str, Any]) -> Counter[CallStatus]:
    return Counter({CallStatus(status): _count(counts, status) for status in counts})


def _endpoint(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    answers, latency = endpoint["answers"], endpoint["latency_seconds"]
    return {
        "requests": _count(endpoint, "requests"),
        "answers": {name: _count(answers, name) for name in answers},
        "latency_seconds": {name: _number(latency, name) for name in latency},
    }


def read_failed_rows(path: Path) -> Iterator[RowOutcome]:
    """Yield the partial and total failures, one at a time, in the file's order.

    Raises:
        ResultsFileError: a row is damaged, or the file cannot be read any more.

    """
    try:
        with path.open("rb") as file:
            for line in file:
                if line == b"],\n":
                    return
                # Most lines are successful: those are never parsed.
                at = line.find(_OUTCOME) + len(_OUTCOME)
                if at >= len(_OUTCOME) and line.startswith(_FAILED_BYTES, at):
                    yield _row_of(json.loads(line.rstrip(b",\n")))
    except OSError as error:
        raise ResultsFileError(f"cannot be read: {error.strerror}") from error
    except _DAMAGED as error:
        raise ResultsFileError("has a damaged row; those behind it are left out") from error


def _row_of(row: Mapping[str, Any]) -> RowOutcome:
    calls = _call_of(row["users_update"]), _call_of(row["events_track"])
    return RowOutcome(row["customer_id"], row["email"], *calls, user_id=row.get("user_id"))


def _call_of(call: Mapping[str, Any]) -> CallOutcome:
    return CallOutcome(
        CallStatus(call["status"]),
        call["http_status"],
        call["code"],
        _count(call, "attempts"),
        str(call["message"]),
        Fault(call["fault"]) if "fault" in call else None,
        tuple((str(name), str(kind)) for name, kind in call.get("fields", {}).items()),
    )
