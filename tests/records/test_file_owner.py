"""A file that belongs to another user is named with its owner and with what to do about it."""

import os

import pytest

from records.delivery_ledger import LedgerError
from records.file_owner import in_the_way, owners_command
from tests.rows import open_ledger
from tests.users import NOBODY, NOBODYS_NAME, as_nobody, needs_root, open_folder


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
        os.chown(path, NOBODY, NOBODY)
        with as_nobody():
            open_ledger(path).close()


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


@needs_root
def test_root_is_told_how_the_owner_runs_the_program(tmp_path):
    path = tmp_path / "state"
    assert owners_command(path) == ""
    path.touch()
    assert owners_command(path) == ""
    os.chown(path, 4242, -1)
    assert owners_command(path).startswith("belongs to 4242, whose runs would fail after a run as ")
    os.chown(path, NOBODY, -1)
    assert f"As {NOBODYS_NAME}: runuser -u {NOBODYS_NAME} -- " in owners_command(path)
