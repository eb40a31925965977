"""Files of the job that belong to another user: whose they are, and what to do about it."""

import os
import pwd
import shlex
import sys
import tempfile
from pathlib import Path

# What it means for the data if such a file is moved away instead.
_MEANING = {
    "STATE_FILE": "Do not remove it: without it, the next run sends every row again",
    "LOG_FILE": "It holds log lines alone, so you can also move it away",
    "RESULTS_DIR": "What is in it stays as it is, so you can also name another folder",
}


def in_the_way(variable: str, path: Path) -> str:
    """Return whose *path* is and what to do; empty if this user owns it or may write to it."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return ""
    if owner == os.geteuid() or os.access(path, os.W_OK, effective_ids=True):
        return ""
    me = _name_of(os.geteuid())
    whose = f"It belongs to {_name_of(owner)} and the job runs as {me}"
    return f"{whose}; as root: {shlex.join(['chown', me, str(path)])}. {_MEANING[variable]}"


def owners_command(path: Path) -> str:
    """Return to whom the file *path* belongs and how that user runs this program; empty if to us.

    Raises OSError if *path* cannot be looked at or its folder not be written.
    """
    if not path.is_file():
        return ""
    # Some file systems give all files to one user, whoever makes them.
    with tempfile.TemporaryFile(dir=path.parent) as new:
        if os.fstat(new.fileno()).st_uid == (uid := path.stat().st_uid):
            return ""
    name = _name_of(uid)
    runner = ["runuser", "-u", name]
    if name == str(uid):  # runuser knows no user without a name
        runner = ["setpriv", f"--reuid={uid}", "--clear-groups"]
    command = shlex.join([*runner, "--", *sys.orig_argv])
    return f"belongs to {name}, whose runs would fail after one as root. As {name}: {command}"


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
