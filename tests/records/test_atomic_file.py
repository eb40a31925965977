"""A file is replaced as a whole or not at all."""

import errno
import os
import stat

import pytest

from records.atomic_file import write_atomically


@pytest.fixture
def path(tmp_path):
    return tmp_path / "status.txt"


def test_a_reader_keeps_the_old_file_and_the_next_one_meets_the_new(path):
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o644])
@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_the_mode_is_right_before_the_file_has_its_name(path, mode, umask, monkeypatch):
    path.touch(0o666)
    modes = []

    def replace(partial, target):
        modes.append(stat.S_IMODE(partial.stat().st_mode))
        os.replace(partial, target)  # noqa: PTH105 - Path.replace() is replaced

    monkeypatch.setattr(type(path), "replace", replace)
    before = os.umask(umask)
    try:
        write_atomically(path, b"new", mode)
    finally:
        os.umask(before)
    assert modes == [mode]
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_failure_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_system_that_syncs_nothing_and_has_no_modes_will_do(path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", unsupported)
    monkeypatch.setattr(os, "fchmod", refused)
    write_atomically(path, b"new", mode=0o644)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
