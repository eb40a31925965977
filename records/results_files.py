"""The results files of a folder: what they are called, which is the newest, and which must go.

A file is called ``integration_results_YYYYMMDD_HHMMSS.json`` after the moment, in UTC, at which its
run began. Later runs of the same second add ``_2``, ``_3`` and so on. While its run lasts there is
a hidden ``.partial`` file of that name instead, which the run holds locked.
"""

import fcntl
import itertools
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from records.outcomes import CallStatus
from records.results_reader import ResultsFileError, read_run
from records.run import RunRecord

# The number of files that are looked at for other jobs.
LATEST = 20

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
        # Before it is locked, another run may take it for that of a killed one, and remove it.
        locked = _lock(descriptor) is not False
        if locked and partial.exists() and not os.path.lexists(path):
            return ClaimedName(path, partial, descriptor)
        os.close(descriptor)
        partial.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _lock(descriptor: int) -> bool | None:
    """Lock an open file; return False if another process has done so, None if it cannot be done."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None  # not every file system can
    return True


def unfinished_runs(folder: Path) -> list[UnfinishedRun]:
    """Return the runs that have left a partial file in *folder*, the oldest first.

    That of a killed run is there until the next run begins.
    """
    return sorted(run for _, run in _partials(folder))


def remove_stale(folder: Path) -> None:
    """Remove the partial files of runs that were killed.

    What has such a name and is no file of ours (a pipe, a link, a folder) is left alone.
    """
    for partial, run in _partials(folder):
        if not run.alive:
            with suppress(OSError):
                partial.unlink()


def _partials(folder: Path) -> Iterator[tuple[Path, UnfinishedRun]]:
    """Yield the partial files in *folder*; that of a killed run is locked meanwhile."""
    for partial in folder.glob(".integration_results_*.partial"):
        name = _PARTIAL_NAME.fullmatch(partial.name)
        with suppress(OSError, ValueError):
            if not name or not stat.S_ISREG(partial.lstat().st_mode):
                continue
            started_at = datetime.strptime(f"{name[1]}Z", "%Y%m%d_%H%M%S%z").astimezone(UTC)
            # Should it be a pipe by now, opening would wait for somebody who writes into it.
            descriptor = os.open(partial, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                yield partial, UnfinishedRun(started_at, alive=not _lock(descriptor))
            finally:
                os.close(descriptor)


def other_jobs(folder: Path, job: str) -> list[str]:
    """Return the jobs besides *job* that have written the latest results files in *folder*."""
    return sorted({run.job for run in _latest(folder)} - {job, ""})


def tells_of_deliveries(folder: Path, job: str) -> bool:
    """Whether one of the latest results files of *job* in *folder* says that it delivered a row."""
    return any(
        run.job == job and (run.users_update + run.events_track)[CallStatus.DELIVERED]
        for run in _latest(folder)
    )


def _latest(folder: Path) -> Iterator[RunRecord]:
    """Yield the latest runs in *folder*; what cannot be read, such as root's files, is left out."""
    with suppress(OSError):
        for path in results_files(folder)[-LATEST:]:
            with suppress(ResultsFileError):
                yield read_run(path)


def remove_old(own: Path, keep: int) -> None:
    """Remove the oldest results files of the job of *own* until *keep* are left; 0 keeps all.

    *own* is this run's and stays. A file that is dated later was written while the clock was ahead:
    it goes first. One that cannot be read stays; one that does not name its job is the job's own.

    Raises:
        OSError: the folder cannot be listed, or a file not be removed.

    """
    if keep:
        files = results_files(own.parent)
        place = files.index(own)
        jobs = {read_run(own).job, ""}
        others = [path for path in files[place + 1 :] + files[:place] if _job_of(path) in jobs]
        for path in others[: max(0, len(others) - (keep - 1))]:
            path.unlink(missing_ok=True)


def _job_of(path: Path) -> str | None:
    try:
        return read_run(path).job
    except ResultsFileError:
        return None
