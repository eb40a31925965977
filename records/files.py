"""Reads files of the operator, replaces files as a whole, and names the owner of one in the way."""

import errno
import os
import pwd
import shlex
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any


def text_of(path: Path) -> str:
    """Return the text of a file that the operator wrote.

    Raises ValueError with the reason, as the end of a sentence about the file.
    """
    try:
        # utf-8-sig: editors on Windows begin a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(unreadable(path, error)) from None
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 without a byte order mark can be read as UTF-8 with a NUL in each character.
    if "\0" in text:
        raise ValueError("is not UTF-8; save it as UTF-8")
    return text


def unreadable(path: Path, error: OSError) -> str:
    """Return why *path* cannot be read, and its owner if that is another user."""
    advice = in_the_way(path, os.R_OK)
    text = f"cannot be read: {error.strerror}"
    return f"{text}. {advice}" if advice else text


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace *path* by *content*; readers see the complete old file or the complete new one.

    The new file has *mode*, whatever the umask. After a failure the old file is unchanged, and no
    temporary file is left.

    Raises OSError if the folder of *path* cannot be written, or the disk is full.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".partial", delete=False) as file:
        partial = Path(file.name)
        try:
            # Only the owner may read it at first. If the mode cannot be changed, it stays so.
            with suppress(PermissionError):
                partial.chmod(mode)
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
        # Some file systems cannot do that.
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
    partial.replace(path)


def in_the_way(path: Path, right: int = os.W_OK) -> str:
    """Return the owner of *path* and what to do; empty if this user is it or has that *right*."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return ""
    if owner == os.geteuid() or os.access(path, right, effective_ids=True):
        return ""
    me = name_of(os.geteuid())
    command = shlex.join(["chown", me, str(path)])
    return f"It belongs to {name_of(owner)} and the job runs as {me}; as root: {command}"


def name_of(uid: int) -> str:
    """Return the name of a user; the number, if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
