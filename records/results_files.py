"""The results files of a folder: what they are called, which is the newest, and which must go.

A file is called ``integration_results_YYYYMMDD_HHMMSS.json`` after the moment, in UTC, at which its
run began. Later runs of the same second add ``_2``, ``_3`` and so on. While its run lasts there is
a hidden ``.partial`` file of that name instead, which the run holds locked.
"""

import fcntl
import itertools
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from records.atomic_file import UNSUPPORTED

# The version of what is in them.
SCHEMA_VERSION = 1
STALE_S = 5.0
# What a file ends with: all that it says of its run is in these bytes.
RUN_BYTES = 8192
# So many files are looked at for other jobs.
LATEST = 20

# A line of the run. No text has a line's end in it that is not an escape.
_JOB = re.compile(rb'\n  "job": ("(?:[^"\\\n]|\\.)*")')
_DELIVERED = re.compile(rb'\n    "delivered": [1-9]')
_STEM = r"integration_results_([0-9]{8}_[0-9]{6})(?:_([0-9]+))?"
_NAME = re.compile(rf"{_STEM}\.json")
_PARTIAL_NAME = re.compile(rf"\.{_STEM}\.partial")


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
        # By the clock of another machine it may look stale, and be removed before it is locked.
        if _lock(descriptor) and partial.exists() and not os.path.lexists(path):
            return ClaimedName(path, partial, descriptor)
        os.close(descriptor)
        partial.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _lock(descriptor: int) -> bool:
    """Show that the run lives; return False if another process is just looking whether it does.

    Where nothing can be locked, nobody takes it for dead either.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return True


def unfinished_runs(folder: Path) -> list[UnfinishedRun]:
    """Return the runs that have left a partial file in *folder*, the oldest first.

    That of a killed run is there until the next run begins.
    """
    found = []
    for partial, time_text in _partials(folder):
        with suppress(OSError, ValueError):
            started_at = datetime.strptime(f"{time_text}+0000", "%Y%m%d_%H%M%S%z").astimezone(UTC)
            found.append(UnfinishedRun(started_at, not _is_abandoned(partial)))
    return sorted(found)


def remove_stale(folder: Path) -> None:
    """Remove the partial files of runs that were killed.

    What has such a name and is no file of ours (a pipe, a link, a folder) is left alone.
    """
    for partial, _ in _partials(folder):
        with suppress(OSError):
            if _is_abandoned(partial):
                partial.unlink()


def _partials(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the partial files in *folder*, each with the time in its name."""
    for partial in folder.glob(".integration_results_*.partial"):
        name = _PARTIAL_NAME.fullmatch(partial.name)
        with suppress(FileNotFoundError):
            if name and stat.S_ISREG(partial.lstat().st_mode):
                yield partial, name[1]


def _is_abandoned(partial: Path) -> bool:
    """Whether the run of this file was killed. That of a living run is locked."""
    # Should it be a pipe by now, opening would otherwise wait for somebody who writes into it.
    descriptor = os.open(partial, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        # Between the making and the locking of a file lies a moment; hence the age.
        if time.time() - os.fstat(descriptor).st_mtime <= STALE_S:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def job_of(path: Path) -> str:
    """Return the job that has written a results file; empty if it does not say.

    Raises:
        OSError: *path* cannot be read.

    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - RUN_BYTES))
        found = _JOB.findall(file.read())
    return str(json.loads(found[-1])) if found else ""


def other_jobs(folder: Path, job: str) -> list[str]:
    """Return which jobs besides *job* have written the latest results files in *folder*.

    A file that cannot be read, such as one of a run by root, says nothing.

    Raises:
        OSError: *folder* cannot be listed.

    """
    jobs = set()
    for path in results_files(folder)[-LATEST:]:
        with suppress(OSError):
            jobs.add(job_of(path))
    return sorted(jobs - {job, ""})


def tells_of_deliveries(folder: Path, job: str) -> bool:
    """Whether one of the latest results files of *job* in *folder* says that it delivered a row.

    What cannot be read says nothing.
    """
    with suppress(OSError):
        for path in results_files(folder)[-LATEST:]:
            with suppress(OSError), path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - RUN_BYTES))
                end = file.read()
                jobs = _JOB.findall(end)
                if _DELIVERED.search(end) and jobs and json.loads(jobs[-1]) == job:
                    return True
    return False


def remove_old(own: Path, keep: int) -> None:
    """Remove the oldest results files of the job of *own* until *keep* are left; 0 keeps all.

    *own* is this run's and stays, whatever dates the others beside it have. One that does not say
    whose it is counts as the job's own.

    Raises:
        OSError: the folder cannot be listed, or a file not be read or removed.

    """
    if keep:
        jobs = {job_of(own), ""}
        others = [path for path in results_files(own.parent) if path != own]
        others = [path for path in others if job_of(path) in jobs]
        for path in others[: max(0, len(others) - (keep - 1))]:
            path.unlink(missing_ok=True)
