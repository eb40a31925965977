"""Writes files that are whole or not there: first under another name, then under their own."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# What a file system says that does not sync or reserve: there it goes without.
UNSUPPORTED = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace *path* by *content*; whoever opens it meets the old file or the new one, whole.

    It has *mode* from the moment it has its name, under any umask. After a failure the old file is
    as it was, and nothing else is left.

    Raises OSError if the folder of *path* cannot be written, or the disk is full.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # The owner's alone from the start. Where modes cannot be changed, it stays so.
            with suppress(PermissionError):
                os.fchmod(descriptor, mode)
            file.write(content)
            publish(file, partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def publish(file: IO[Any], partial: Path, path: Path) -> None:
    """Give *partial*, which is open as *file*, the name *path* once its content is on disk.

    Raises OSError if the disk is full, or the folder no longer writable.
    """
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    partial.replace(path)
