"""The results files of a folder: what they are called, which is the newest, and which must go.

A file is called ``integration_results_YYYYMMDD_HHMMSS.json`` after the moment, in UTC, at which its
run began. Later runs of the same second add ``_2``, ``_3`` and so on. While its run lasts there is
a hidden ``.partial`` file of that name instead, which the run holds locked.
"""

import fcntl
import itertools
import os
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

# The version of what is in them.
SCHEMA_VERSION = 1
STALE_S = 5.0

_NAME = re.compile(r"integration_results_([0-9]{8}_[0-9]{6})(?:_([0-9]+))?\.json")
_PARTIAL = ".integration_results_*.partial"


class ClaimedName(NamedTuple):
    """A name that is this run's alone: *path*, to be given to *partial* when that is whole.

    *descriptor* is *partial*, open for writing and locked until it is closed.
    """

    path: Path
    partial: Path
    descriptor: int


class UnfinishedRun(NamedTuple):
    """A run without a results file: *alive* if it is under way, else it was killed."""

    started_at: datetime
    alive: bool


def results_files(folder: Path) -> list[Path]:
    """Return the results files in *folder*, the oldest first.

    Links, folders and files with another name are none.

    Raises:
        OSError: *folder* cannot be listed.

    """
    with os.scandir(folder) as entries:
        found = [
            # By time and then by number: "_10" comes after "_9".
            ((match[1], int(match[2] or 1)), Path(folder, entry.name))
            for entry in entries
            if (match := _NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)
        ]
    return [path for _, path in sorted(found)]


def claim_name(folder: Path, started_at: datetime) -> ClaimedName:
    """Return a name in *folder* that no other run has. The partial file is its owner's alone.

    Raises:
        OSError: *folder* cannot be written.

    """
    for number in itertools.count(1):
        suffix = "" if number == 1 else f"_{number}"
        path = folder / f"integration_results_{started_at:%Y%m%d_%H%M%S}{suffix}.json"
        partial = path.with_name(f".{path.stem}.partial")
        # Creating the partial file is what claims the name: it fails while another run holds it,
        # and afterwards that run's final file is there to be seen.
        try:
            descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists():
            return ClaimedName(path, partial, descriptor)
        os.close(descriptor)
        partial.unlink()
    raise AssertionError("unreachable")


def unfinished_runs(folder: Path) -> list[UnfinishedRun]:
    """Return the runs that have left a partial file in *folder*, the oldest first.

    That of a killed run is there until the next run begins.
    """
    found = []
    for partial in folder.glob(_PARTIAL):
        with suppress(OSError, ValueError):
            text = partial.name.removeprefix(".integration_results_")[:15]
            started_at = datetime.strptime(f"{text}+0000", "%Y%m%d_%H%M%S%z").astimezone(UTC)
            found.append(UnfinishedRun(started_at, not _is_abandoned(partial)))
    return sorted(found)


def remove_stale(folder: Path) -> None:
    """Remove the partial files of runs that were killed."""
    for partial in folder.glob(_PARTIAL):
        with suppress(OSError):
            if _is_abandoned(partial):
                partial.unlink()


def _is_abandoned(partial: Path) -> bool:
    """Whether the run of this file was killed. That of a living run is locked."""
    with partial.open("rb") as file:
        # Between the making and the locking of a file lies a moment; hence the age.
        if time.time() - partial.stat().st_mtime <= STALE_S:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def remove_old(folder: Path, keep: int) -> None:
    """Remove the oldest results files in *folder* beyond *keep*, and nothing else; 0 keeps all.

    Raises:
        OSError: *folder* cannot be listed, or a file not be removed.

    """
    for path in results_files(folder)[:-keep] if keep else []:
        path.unlink(missing_ok=True)
