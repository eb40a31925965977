"""Which files are results files, which is the newest, and which go."""

import errno
import fcntl
import os
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from records.results_files import (
    claim_name,
    other_jobs,
    remove_old,
    remove_stale,
    results_files,
    tells_of_deliveries,
    unfinished_runs,
)
from records.results_writer import ResultsWriter
from tests.results import LAST, delivered, refused, save
from tests.users import NOBODY, as_nobody

STARTED = datetime(2026, 1, 3, tzinfo=UTC)
STEM = "integration_results_2026010"
# From the oldest to the newest.
NAMES = [
    f"{STEM}1_235959.json",
    f"{STEM}2_000000.json",
    *(f"{STEM}3_000000{suffix}.json" for suffix in ("", "_2", "_9", "_10")),
]
FOREIGN = [
    "integration_results_old.json",
    "integration_results_20260109.json",
    "my_integration_results_20260109_000000.json",
    f"{STEM}9_000000_.json",
    f"{STEM}9_000000_x.json",
    f"{STEM}9_000000.json.bak",
    f".{STEM}9_000000.partial",
    f"{STEM}9_٠٠٠٠٠٠.json",
    "x.json",
    "report.html",
]


def fill(folder):
    """Put results files into *folder*, and everything that looks like one."""
    for name in [*reversed(NAMES), *FOREIGN]:
        (folder / name).touch()
    (folder / f"{STEM}7_000000.json").mkdir()
    (folder / f"{STEM}8_000000.json").symlink_to(folder / NAMES[0])
    (folder / f"{STEM}8_000001.json").symlink_to(folder / "nowhere")
    os.mkfifo(folder / f"{STEM}9_000000.json")


def test_results_files_come_in_the_order_of_their_runs_and_nothing_else_is_one(tmp_path):
    fill(tmp_path)
    assert results_files(tmp_path) == [tmp_path / name for name in NAMES]


def test_a_folder_without_results_files_is_not_one_that_cannot_be_listed(tmp_path):
    assert results_files(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        results_files(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        results_files(tmp_path / "file")


def save_all(folder, **run):
    """Write six results files, four of them of one second; return them, the oldest first."""
    days = [STARTED - timedelta(days=days) for days in (2, 1, 0, 0, 0, 0)]
    return [save(folder, day, **run) for day in days]


def test_the_oldest_results_files_go_and_nothing_else(tmp_path):
    fill(tmp_path)  # none of which can be read as a results file
    files = save_all(tmp_path)
    everything = set(tmp_path.iterdir())
    for keep, gone in ((0, 0), (9, 0), (2, 4), (1, 5)):
        remove_old(files[-1], keep)
        assert everything - set(tmp_path.iterdir()) == set(files[:gone])


@pytest.mark.parametrize(("keep", "left"), [(1, [0]), (2, [0, 5]), (3, [0, 4, 5]), (9, range(6))])
def test_files_that_are_dated_later_than_the_runs_own_go_first(tmp_path, keep, left):
    """They were written while the clock was ahead, and would else be kept for ever."""
    files = save_all(tmp_path)
    remove_old(files[0], keep)
    assert results_files(tmp_path) == [files[number] for number in left]


def test_a_name_is_claimed_by_one_run_alone(tmp_path):
    (tmp_path / f"{STEM}3_000000.json").touch()
    claimed = [claim_name(tmp_path, STARTED) for _ in range(9)]
    for each in claimed:
        os.close(each.descriptor)
        each.partial.rename(each.path)
    assert [each.path.name for each in claimed] == [
        f"{STEM}3_000000_{number}.json" for number in range(2, 11)
    ]
    assert results_files(tmp_path)[1:] == [each.path for each in claimed]


def test_the_partial_file_of_a_killed_run_is_removed_and_that_of_a_living_run_is_not(tmp_path):
    dead = tmp_path / f".{STEM}1_000000.partial"
    dead.touch()
    alive = claim_name(tmp_path, STARTED)
    (odd := tmp_path / ".integration_results_odd.partial").touch()
    days = [STARTED.replace(day=day) for day in (1, 3)]
    assert unfinished_runs(tmp_path) == [*zip(days, (False, True), strict=True)]
    remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {odd, alive.partial}
    os.close(alive.descriptor)
    remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {odd}


def test_what_only_looks_like_a_partial_file_is_neither_waited_for_nor_removed(tmp_path):
    pipe, folder, link, foreign = (
        tmp_path / f".integration_results_{name}.partial"
        for name in ("20260101_000000", "20260102_000000", "20260103_000000", "old")
    )
    os.mkfifo(pipe)
    folder.mkdir()
    foreign.touch()
    link.symlink_to(foreign)
    remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {pipe, folder, link, foreign}


def test_whatever_has_the_name_already_is_left_alone(tmp_path):
    taken = [tmp_path / f"{STEM}3_000000{suffix}.json" for suffix in ("", "_2", "_3", "_4")]
    taken[0].mkdir()
    os.mkfifo(taken[1])
    taken[2].symlink_to(tmp_path / "nowhere")
    partial = tmp_path / f".{STEM}3_000000_4.partial"
    os.mkfifo(partial)
    claimed = claim_name(tmp_path, STARTED)
    os.close(claimed.descriptor)
    assert claimed.path.name == f"{STEM}3_000000_5.json"


def test_where_nothing_can_be_locked_a_name_is_claimed_all_the_same(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    claimed = claim_name(tmp_path, STARTED)
    remove_stale(tmp_path)
    assert claimed.partial.exists()
    os.close(claimed.descriptor)


def test_a_name_that_another_run_takes_for_stale_is_let_go(tmp_path, monkeypatch):
    flock, looks = fcntl.flock, []

    def looked_at(descriptor, operation):
        looks.append(descriptor)
        if len(looks) == 1:
            raise BlockingIOError
        if len(looks) == 2:
            (tmp_path / f".{STEM}3_000000_2.partial").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", looked_at)
    claimed = claim_name(tmp_path, STARTED)
    os.close(claimed.descriptor)
    assert claimed.path.name == f"{STEM}3_000000_3.json"
    assert list(tmp_path.iterdir()) == [claimed.partial]


@contextmanager
def as_a_user_who_may_not_read(path):
    """Take the rights on *path* away; root, who may read everything, becomes nobody meanwhile."""
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.chown(path.parent, NOBODY, NOBODY)
    with as_nobody() if root else nullcontext():
        yield


def test_a_file_that_cannot_be_read_stops_nothing_and_stays():
    """As of a run by root, or of a restored backup."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for days, job in enumerate(("mine", "orders", "views", "mine")):
            own = save(folder, LAST + timedelta(days=days), delivered(1), job=job)
        locked = results_files(folder)[1]
        os.chown(own, *([NOBODY] * 2 if os.geteuid() == 0 else [-1, -1]))
        for path in set(results_files(folder)) - {locked}:
            path.chmod(0o644)
        with as_a_user_who_may_not_read(locked):
            with ResultsWriter(folder, STARTED), pytest.raises(PermissionError):
                locked.read_bytes()
            assert other_jobs(folder, "mine") == ["views"]
            assert tells_of_deliveries(folder, "mine")
            remove_old(own, 1)
        assert len(results_files(folder)) == 3
        assert locked.exists()


def test_what_another_folder_or_job_holds_is_told(tmp_path):
    assert other_jobs(tmp_path / "missing", "mine") == []
    save(tmp_path, rows=refused(1), job="mine")
    save(tmp_path, LAST + timedelta(days=1), delivered(1), job="orders")
    assert other_jobs(tmp_path, "mine") == ["orders"]
    assert not tells_of_deliveries(tmp_path, "mine")
    assert tells_of_deliveries(tmp_path, "orders")
