"""Writes files that are whole or not there: first under another name, then under their own."""

import errno
import os
import tempfile
from pathlib import Path
from typing import IO, Any

# What the opening or syncing of a folder may end with although nothing is wrong with it: it can be
# written and not read, or its file system syncs no folders.
_CANNOT_SYNC = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP}


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace *path* by *content*; whoever opens it meets the old file or the new one, whole.

    It has *mode* from the moment it has its name, under any umask. After a failure the old file is
    as it was, and nothing else is left.

    Raises:
        OSError: the folder of *path* cannot be written, or the disk is full.

    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(descriptor, mode)
            file.write(content)
            publish(file, partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def publish(file: IO[Any], partial: Path, path: Path) -> None:
    """Give *partial*, which is open as *file*, the name *path* once it is on disk.

    Both the content and the name survive a power failure.

    Raises:
        OSError: the disk is full, or the folder is no longer writable.

    """
    file.flush()
    os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
