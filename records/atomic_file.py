"""Writes files completely or not at all: under a temporary name first."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# Errors of a file system that cannot sync or reserve space: the job goes on without.
UNSUPPORTED = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace *path* by *content*; readers see the complete old file or the complete new one.

    The new file has *mode*, whatever the umask. After a failure the old file is unchanged, and no
    temporary file is left.

    Raises OSError if the folder of *path* cannot be written, or the disk is full.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Only the owner may read it at first. If the mode cannot be changed, it stays so.
            with suppress(PermissionError):
                os.fchmod(descriptor, mode)
            file.write(content)
            publish(file, partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def publish(file: IO[Any], partial: Path, path: Path) -> None:
    """Give *partial*, which is open as *file*, the name *path* once its content is on disk.

    Raises OSError if the disk is full, or the folder is no longer writable.
    """
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    partial.replace(path)
