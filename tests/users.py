"""Another user: whom root can become in a test, and to whom it can give files."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

NOBODY = 65534
NOBODYS_NAME = pwd.getpwuid(NOBODY).pw_name

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run as nobody meanwhile."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Yield a folder that everybody may enter, unlike tmp_path, and only root may write to."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
