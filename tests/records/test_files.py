"""Files: replaced as a whole or not at all; one of another user is named with what to do."""

import errno
import os
import stat
from pathlib import Path

import pytest

from records.delivery_ledger import LedgerError
from records.files import in_the_way, owners_command, write_atomically
from tests.rows import open_ledger
from tests.users import NOBODY, NOBODYS_NAME, as_nobody, needs_root, open_folder


@pytest.mark.parametrize(("mode", "umask"), [(0o600, 0o000), (0o644, 0o077)])
def test_a_file_is_replaced_under_the_eyes_of_a_reader_and_has_its_mode(
    tmp_path, mode, umask, monkeypatch
):
    path, modes = tmp_path / "status.txt", []
    path.write_bytes(b"old")

    def replace(partial, target):
        modes.append(stat.S_IMODE(partial.stat().st_mode))
        os.replace(partial, target)  # noqa: PTH105 - Path.replace() is replaced

    monkeypatch.setattr(Path, "replace", replace)
    before = os.umask(umask)
    try:
        with path.open("rb") as reader:
            write_atomically(path, b"new", mode)
            assert reader.read() == b"old"
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert modes == [mode] == [stat.S_IMODE(path.stat().st_mode)]
    assert list(tmp_path.iterdir()) == [path]


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "status.txt"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_that_syncs_nothing_and_has_no_modes_will_do(tmp_path, monkeypatch):
    path = tmp_path / "status.txt"
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    monkeypatch.setattr(Path, "chmod", failing(errno.EPERM))
    write_atomically(path, b"new", mode=0o644)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@needs_root
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_ledger_that_root_has_made_says_so_and_that_it_is_needed(mode):
    with open_folder() as folder:
        os.chown(folder, NOBODY, NOBODY)
        path = folder / "state"
        open_ledger(path).close()
        path.chmod(mode)
        with as_nobody(), pytest.raises(LedgerError) as caught:
            open_ledger(path)
        said = str(caught.value)
        assert f"). It belongs to root and the job runs as {NOBODYS_NAME}; as root: chown " in said
        assert said.endswith(
            f"{path}. Do not remove it: without it, the next run sends every row again"
        )


@needs_root
def test_what_is_ones_own_or_may_be_written_is_not_in_the_way():
    with open_folder() as folder:
        path = folder / "a log"
        path.touch()
        assert in_the_way(path) == ""
        with as_nobody():
            assert in_the_way(path).endswith(f": chown {NOBODYS_NAME} '{path}'")
            assert in_the_way(folder / "missing") == ""
        path.chmod(0o666)
        with as_nobody():
            assert in_the_way(path) == ""
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0)
        with as_nobody():
            assert in_the_way(path) == ""


@needs_root
def test_an_owner_without_a_name_is_told_by_number(tmp_path):
    path = tmp_path / "state"
    path.touch()
    assert owners_command(path) == ""
    os.chown(path, 4242, -1)
    assert owners_command(path).startswith("belongs to 4242, whose runs would fail after a run as ")
    assert ". As 4242: runuser -u 4242 -- " in owners_command(path)
