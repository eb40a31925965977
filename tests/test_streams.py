"""Closed and broken streams: none changes what is delivered, nor the exit status, in any mode."""

import fcntl
import json
import os
import pty
import subprocess
import sys
import termios
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.test_main import HERE, USERS, Job, copy_program, writes
from tests.test_main import job as job  # noqa: PLC0414 - a fixture
from tests.test_safety import wait_until

pytestmark = [pytest.mark.database, pytest.mark.program]

PATIENCE = 20


@contextmanager
def broken_pipe():
    """Yield the writing end of a pipe whose other end is closed, as behind ``| head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", 0) as file:
        yield file


full_disk = partial(Path("/dev/full").open, "wb", 0)
# What a new process does before anything else.
close_all = partial(os.closerange, 0, 3)
SINKS = pytest.mark.parametrize("sink", [nullcontext, broken_pipe, full_disk])
MODES: list[list[str]] = [[], ["--dry-run"], ["--check"], ["--report"], ["--help"], ["--version"]]


@SINKS
def test_streams_that_take_nothing_change_nothing(job, iterable, sink):
    with sink() as file:
        before = None if file else close_all
        for mode in MODES:
            process = job.start(*mode, before=before, stdout=file, stderr=file)
            assert process.wait(PATIENCE) == 0, mode
    assert sorted(iterable.users) == sorted(USERS)
    assert "Successful (both API calls): 3" in job.log


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_one_closed_stream_changes_nothing(job, iterable, descriptor):
    process = job.start(before=partial(os.close, descriptor), stdout=DEVNULL, stderr=DEVNULL)
    assert process.wait(PATIENCE) == 0
    assert sorted(iterable.users) == sorted(USERS)


def test_the_demo_minds_no_stream_either(tmp_path):
    program = copy_program(tmp_path / "copy", "sandbox")
    kept = {"stdout": DEVNULL, "stderr": DEVNULL}
    status = Job({}, tmp_path, program).start("--demo", before=close_all, **kept).wait(40)
    if status == 2:
        pytest.skip("no database server on this machine")
    assert status == 0
    (results,) = (tmp_path / "copy").glob("*.json")
    assert json.loads(results.read_text())["summary"]["successful"] == 3


@SINKS
def test_a_failure_keeps_its_status_when_nobody_hears_of_it(job, tmp_path, sink):
    bare = Job({}, tmp_path, copy_program(tmp_path / "copy"))
    with sink() as file:
        unheard = {"stdout": file, "stderr": file, "before": None if file else close_all}
        for mode in ("--quiet", "--nonsense"):
            assert bare.start(mode, **unheard).wait(PATIENCE) == 2
        assert job.start(**unheard, DB_PASSWORD="wrong-password").wait(PATIENCE) == 3
    assert "check DB_USER and DB_PASSWORD" in job.log


def test_a_terminal_that_is_closed_ends_the_run_as_a_hangup_does(job, iterable):
    iterable.change(latency_ms=300)
    outside, inside = pty.openpty()

    def in_front_of_it():
        os.setsid()
        fcntl.ioctl(inside, termios.TIOCSCTTY, 0)
        os.dup2(inside, 0)

    process = job.start(before=in_front_of_it, stdout=inside, stderr=inside, ITERABLE_WORKERS="1")
    os.close(inside)
    wait_until(lambda: writes(iterable))
    os.close(outside)
    assert process.wait(PATIENCE) == 143
    assert job.results["summary"]["successful"] == 1
    assert "Stopped by a signal" in job.log


def test_no_message_goes_into_a_file_of_the_run(job):
    """A closed standard error leaves its number to the next file that is opened."""
    script = (
        "import logger_config, os, sys; logger_config.open_console(); "
        "file = open(sys.argv[1], 'w'); sys.stderr.write('message'); os.write(2, b'message'); "
        "assert file.fileno() > 2; assert sys.stdin is None or sys.stdin.read() == ''"
    )
    path = job.folder / "file"
    command = [sys.executable, "-c", script, path]
    done = subprocess.run(command, cwd=HERE, preexec_fn=close_all, check=False)
    assert (done.returncode, path.read_text()) == (0, "")
