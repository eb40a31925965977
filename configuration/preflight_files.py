"""What ``--check`` finds of the files and folders that a run reads and writes."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from configuration.lost_entries import lost_entries
from configuration.preflight_finding import Finding, Mark
from configuration.settings import Settings, exposed_files, password_in_quotes
from configuration.wiring import IN_QUOTES, few_workers, mixed_results, open_ledger
from iterable_api.mapping import RowMapping
from records.delivery_ledger import LedgerBusyError, LedgerError, check_room, check_sqlite
from records.exit_statuses import ExitStatus
from records.results_files import results_files
from records.results_writer import BYTES_PER_ROW, SPARE_ROWS

MIN_FREE_BYTES = 50_000_000
# A run keeps its rows, reserves twice what its results come to, and remembers what it delivered.
FREE_PER_RESULTS_BYTE = 4


def file_findings(settings: Settings, env_file: Path | None) -> Iterator[Finding]:
    """Yield a finding for each file of a run. None of the files is made or changed."""
    for path in exposed_files(env_file, settings):
        yield Finding(Mark.WARNING, str(path), "holds secrets and others may read it: chmod 600 it")
    if password_in_quotes(settings):
        yield Finding(Mark.WARNING, "DB_PASSWORD", IN_QUOTES)
    yield _results_finding(settings.results_dir)
    with suppress(OSError):
        # The demo, which has no settings of its own, is no job either.
        if env_file is not None and (mixed := mixed_results(settings)):
            yield Finding(Mark.WARNING, "RESULTS_DIR", mixed)
    yield _log_finding(settings.log_file)
    yield _ledger_finding(settings)
    if settings.metrics_file:
        yield _metrics_finding(settings.metrics_file)
    if settings.heartbeat_url:
        yield Finding(Mark.NOTE, "HEARTBEAT_URL", "not pinged by a check")
    if few := few_workers(settings):
        yield Finding(Mark.WARNING, "ITERABLE_WORKERS", few)


def _results_finding(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(_try_folder(folder)).free
    except OSError as error:
        return _unwritable("RESULTS_DIR", folder, error)
    return room_finding(folder, free, _last_size(folder))


def _last_size(folder: Path) -> int:
    """Return the size of the last results file in *folder*; 0 if none is to be seen there."""
    try:
        return sum(path.stat().st_size for path in results_files(folder)[-1:])
    except OSError:
        return 0


def room_finding(folder: Path, free: int, last_size: int) -> Finding:
    """Judge the *free* bytes of *folder*, where the last results have *last_size* bytes.

    What this run comes to only Query 2 knows, so little room is a warning.
    """
    needed = max(MIN_FREE_BYTES, FREE_PER_RESULTS_BYTE * last_size)
    if free < needed:
        text = (
            f"{folder} has {_size(free)} of free disk and a run may need {_size(needed)}; "
            "make room, or name another folder"
        )
        if free < SPARE_ROWS * BYTES_PER_ROW:
            return Finding(Mark.BAD, "RESULTS_DIR", text, ExitStatus.USAGE)
        return Finding(Mark.WARNING, "RESULTS_DIR", text)
    return _writable("RESULTS_DIR", folder, f", {_size(free)} free")


def _log_finding(path: Path) -> Finding:
    try:
        if path.exists():
            # Neither waits for who reads a pipe, nor changes a file.
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY))
        else:
            _try_folder(path.parent)
    except OSError as error:
        return _unwritable("LOG_FILE", path, error)
    return _writable("LOG_FILE", path)


def _ledger_finding(settings: Settings) -> Finding:
    """Open the ledger as a run does; where there is none, only try its folder."""
    path = settings.state_file
    try:
        check_sqlite()
        _try_folder(path.parent)
        if not path.exists():
            return _writable("STATE_FILE", path)
        with open_ledger(settings):
            check_room(path, 0)
    except OSError as error:
        return _unwritable("STATE_FILE", path, error)
    except LedgerBusyError:
        text = f"another run is under way and holds {path}; until it ends, no other can begin"
        return Finding(Mark.WARNING, "STATE_FILE", text)
    except LedgerError as error:
        return _bad_ledger(error)
    return Finding(Mark.GOOD, "STATE_FILE", f"{path} is sound and can be written")


def lost_entries_findings(settings: Settings, mapping: RowMapping) -> Iterator[Finding]:
    """Yield a warning if a run would send more than what is new or changed."""
    path = settings.state_file
    # That the ledger cannot be opened is told already.
    with suppress(LedgerError, LedgerBusyError), ExitStack() as stack:
        ledger = stack.enter_context(open_ledger(settings)) if path.exists() else None
        if text := lost_entries(ledger, settings, mapping):
            yield Finding(Mark.WARNING, "STATE_FILE", text.removeprefix("STATE_FILE: "))


def _bad_ledger(error: LedgerError) -> Finding:
    text = str(error).removeprefix("STATE_FILE ")
    return Finding(Mark.BAD, "STATE_FILE", text, error.status)


def _metrics_finding(path: Path) -> Finding:
    try:
        # Unlike the others, this folder is another program's: the run does not make it.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        # A run goes on without its metrics.
        return _unwritable("METRICS_FILE", path, error)._replace(mark=Mark.WARNING)
    return _writable("METRICS_FILE", path)


def _try_folder(folder: Path) -> Path:
    """Write a file without a name in *folder*, or where it will be made; return where that was.

    Raises OSError.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=place):
        return place


def _writable(what: str, path: Path, more: str = "") -> Finding:
    text = "can be written" if path.exists() else "is not there yet; a run can make it"
    return Finding(Mark.GOOD, what, f"{path} {text}{more}")


def _unwritable(what: str, path: Path, error: OSError) -> Finding:
    text = f"{path} cannot be written: {error.strerror}; look at its folder, or name another"
    return Finding(Mark.BAD, what, text, ExitStatus.USAGE)


def _size(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.0f} MB"
