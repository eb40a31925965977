"""The results file: one line of JSON for each row, streamed to disk, and a summary that adds up."""

import errno
import fcntl
import functools
import hashlib
import itertools
import json
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from records.outcomes import CallOutcome, RowOutcome, RowStatus

SCHEMA_VERSION = 1

# The summary's name for each row status.
_COUNTERS = {
    RowStatus.SUCCESSFUL: "successful",
    RowStatus.PARTIAL_FAILURE: "partial_failures",
    RowStatus.TOTAL_FAILURE: "total_failures",
    RowStatus.UNCHANGED: "unchanged",
    RowStatus.NOT_ATTEMPTED: "not_attempted",
    RowStatus.PLANNED: "planned",
}
# The space that one row may take in the file; most take half of it.
BYTES_PER_ROW = 700
STALE_S = 5.0


@dataclass
class Run:
    """What there is to say about a run as a whole; ``to_json`` is the file's ``run``.

    Times are in UTC; durations are in seconds of a clock that cannot be set.
    """

    version: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    query_sha256: str | None = None
    bulk: bool = False
    dry_run: bool = False
    changed_only: bool = False
    limit: int | None = None
    quiet: bool = False
    rows_read: int = 0
    sending_seconds: float = 0.0
    endpoints: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    rate_limited_seconds: float = 0.0
    error: str | None = None
    # Whether every row was attempted.
    complete: bool = False
    summary: dict[str, Any] = field(default_factory=dict)
    finished_at: datetime | None = None
    duration_seconds: float = 0.0
    _started_s: float = field(default_factory=time.monotonic)

    def set_query(self, query: str) -> None:
        """Remember which query was run, by its hash."""
        self.query_sha256 = hashlib.sha256(query.encode()).hexdigest()

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return sum(endpoint["requests"] for endpoint in self.endpoints.values())

    def finish(self, summary: dict[str, Any]) -> None:
        """Note what the run came to, and that it is over now."""
        self.summary = summary
        self.finished_at = datetime.now(UTC)
        self.duration_seconds = time.monotonic() - self._started_s

    def to_json(self, exit_status: int) -> dict[str, Any]:
        """Return the fields of a run that has finished."""
        return {
            "id": self.id,
            "started_at": _utc_text(self.started_at),
            "finished_at": _utc_text(self.finished_at or self.started_at),
            "duration_seconds": round(self.duration_seconds, 3),
            "complete": self.complete,
            "exit_status": int(exit_status),
            "error": self.error,
            "sending_seconds": round(self.sending_seconds, 3),
            "mode": "bulk" if self.bulk else "per-user",
            "dry_run": self.dry_run,
            "changed_only": self.changed_only,
            "limit": self.limit,
            "version": self.version,
            "query_sha256": self.query_sha256,
        }


class ResultsWriter:
    """Writes ``integration_results_YYYYMMDD_HHMMSS.json`` in *folder*.

    The rows go to a hidden ``.partial`` file beside it, which takes the final name only when it
    is complete and on disk: the results file is whole or it is not there. Both are readable by
    their owner alone. *started_at* is in UTC.

    Raises:
        OSError: *folder* cannot be written.

    """

    def __init__(self, folder: Path, started_at: datetime) -> None:
        self.counts: Counter[RowStatus] = Counter()
        self._failure: OSError | None = None
        self._calls: dict[str, Counter[str]] = {
            "users_update": Counter(),
            "events_track": Counter(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        self.path, self._partial, descriptor = _claim_name(folder, started_at)
        self._file = open(descriptor, "w", encoding="ascii")  # noqa: SIM115, PTH123 - closed by __exit__
        self._file.write(f'{{\n"schema_version": {SCHEMA_VERSION},\n"results": [')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the partial file of a run that did not finish its results."""
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def reserve(self, rows: int) -> None:
        """Take the disk space that *rows* outcomes need, so that it cannot run out later.

        Raises OSError when it is not there.
        """
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._file.fileno(), 0, (rows + 100) * BYTES_PER_ROW)
        except OSError as error:
            # Not every file system can. There a disk that fills up stops the run when it does.
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
                raise

    def add(self, outcomes: Sequence[RowOutcome]) -> None:
        """Count some rows' outcomes and append them.

        Raises OSError when the disk is full; from then on they are only counted.
        """
        first = not self.counts
        self.counts.update(outcome.status for outcome in outcomes)
        self._calls["users_update"].update(outcome.users_update.status for outcome in outcomes)
        self._calls["events_track"].update(outcome.events_track.status for outcome in outcomes)
        if outcomes and self._failure is None:
            lines = ",\n".join(map(_row_json, outcomes))
            try:
                self._file.write(f"{'' if first else ','}\n{lines}")
            except OSError as error:
                self._failure = error
                raise

    def adds_up_to(self, rows_read: int) -> bool:
        """Whether there is exactly one outcome for each row that was read."""
        return self.counts.total() == rows_read

    def finish(self, run: Run, exit_status: int) -> None:
        """Finish *run*, append its summary and itself, and give the file its name.

        Raises:
            OSError: the disk is or was full, or the folder is no longer writable.

        """
        summary = self._summary(run)
        run.finish(summary)
        if self._failure:
            raise self._failure
        self._file.write(f'\n],\n"summary": {json.dumps(summary, indent=2)},\n')
        self._file.write(f'"run": {json.dumps(run.to_json(exit_status), indent=2)}\n}}\n')
        self._file.flush()
        self._file.truncate()
        os.fsync(self._file.fileno())
        self._partial.replace(self.path)
        _sync_folder(self.path.parent)

    def _summary(self, run: Run) -> dict[str, Any]:
        return {
            "total": run.rows_read,
            **{name: self.counts[status] for status, name in _COUNTERS.items()},
            **self._calls,
            "requests": run.requests,
            "retries": run.retries,
            "rate_limited_seconds": round(run.rate_limited_seconds, 3),
            "endpoints": run.endpoints,
        }


def _utc_text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}Z"


# Made once: json.dumps() with an option makes an encoder at every call.
_json = json.JSONEncoder(default=str).encode


def _row_json(outcome: RowOutcome) -> str:
    """Return the line of one row. Put together by hand, as there may be a million of them."""
    customer, email, update, track, task, _ = outcome
    status, user, event = outcome.status, "", ""
    if task and status is RowStatus.PLANNED:
        user, event = f', "payload": {task.user.decode()}', f', "payload": {task.event.decode()}'
    # The encoder is slow with whole numbers, and they are their own JSON.
    number = customer if type(customer) is int else _json(customer)
    return (
        f'{{"customer_id": {number}, "email": {_json(email)}, "outcome": "{status}", '
        f'"users_update": {{{_call_json(update)}{user}}}, '
        f'"events_track": {{{_call_json(track)}, "event_id": {_json(outcome.event_id)}{event}}}}}'
    )


# Most rows share a few outcomes.
@functools.lru_cache(maxsize=1000)
def _call_json(outcome: CallOutcome) -> str:
    """Return the members of a call's JSON object, without its braces."""
    return json.dumps(asdict(outcome))[1:-1]


def remove_stale(folder: Path) -> None:
    """Remove the partial files of runs that were killed. That of a living run is locked."""
    for partial in folder.glob(".integration_results_*.partial"):
        # Between the making and the locking of a file lies a moment; hence the age.
        with suppress(OSError), partial.open("rb") as file:
            if time.time() - partial.stat().st_mtime > STALE_S:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()


def remove_old(folder: Path, keep: int) -> None:
    """Remove the oldest results files in *folder* beyond *keep*, and nothing else; 0 keeps all."""
    found = [(match.groups(), path) for path in folder.iterdir() if (match := _named(path))]
    # By time and then by number: "_10" comes after "_9".
    found.sort(key=lambda each: (each[0][0], int(each[0][1] or 1)))
    for _, path in found[:-keep] if keep else []:
        path.unlink(missing_ok=True)


def _named(path: Path) -> re.Match[str] | None:
    """Match the name of a results file: its time, and its number within the second."""
    if not path.is_file() or path.is_symlink():
        return None
    return re.fullmatch(r"integration_results_(\d{8}_\d{6})(?:_(\d+))?\.json", path.name)


def _claim_name(folder: Path, started_at: datetime) -> tuple[Path, Path, int]:
    """Return a final and a partial path that no other run has, and the open partial file.

    Two runs in one second differ by a suffix. Creating the partial file is what claims the name:
    it fails while another run holds it, and afterwards that run's final file is there to be seen.
    """
    for number in itertools.count(1):
        suffix = "" if number == 1 else f"_{number}"
        path = folder / f"integration_results_{started_at:%Y%m%d_%H%M%S}{suffix}.json"
        partial = path.with_name(f".{path.stem}.partial")
        try:
            descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists():
            return path, partial, descriptor
        os.close(descriptor)
        partial.unlink()
    raise AssertionError("unreachable")


def _sync_folder(folder: Path) -> None:
    """Make the new name in *folder* survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
