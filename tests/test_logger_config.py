"""Log lines: who sees which, and that no value can forge one."""

import logging
import os
import re
import stat
import warnings
from pathlib import Path

import pytest

import logger_config
from logger_config import FILE_ONLY, get_logger, setup_logger
from tests.users import NOBODY, as_nobody, needs_root, open_folder


@pytest.fixture(autouse=True)
def _no_handlers_left():
    yield
    setup_logger()


def test_the_console_has_info_the_file_has_everything_each_once(tmp_path, capsys):
    for _ in range(3):  # setting up again doubles nothing
        setup_logger("INFO", tmp_path / "logs" / "job.log")
    logger = get_logger("db_connection")
    logger.debug("detail")
    logger.info("step")
    logger.warning("odd")
    get_logger(FILE_ONLY).info("record")
    logging.getLogger("urllib3.connectionpool").debug("https://... Api-Key")
    assert capsys.readouterr() == ("step\n", "WARNING: odd\n")
    lines = (tmp_path / "logs" / "job.log").read_text().splitlines()
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\w+) +iterable_sync.\w+: (\w+)"
    assert [re.findall(pattern, line) for line in lines] == [
        [("DEBUG", "detail")],
        [("INFO", "step")],
        [("WARNING", "odd")],
        [("INFO", "record")],
    ]


@pytest.mark.parametrize("quiet", [True, False])
def test_what_libraries_warn_of_goes_to_the_file_alone(tmp_path, capfd, quiet):
    logging.captureWarnings(capture=False)  # as at the start of a program
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        setup_logger("DEBUG", quiet=quiet)
        warnings.warn("before the file", stacklevel=1)
        setup_logger("DEBUG", tmp_path / "job.log", quiet=quiet)
        warnings.warn("old TLS", DeprecationWarning, stacklevel=1)
        logging.getLogger("mysql.connector").warning("odd: %s", "value")
        logging.captureWarnings(capture=False)
    assert capfd.readouterr() == ("", "")
    (line,) = (tmp_path / "job.log").read_text().splitlines()
    assert "DeprecationWarning: old TLS" in line
    assert "value" not in line


def test_a_value_cannot_forge_a_line_steer_the_terminal_or_turn_its_direction(tmp_path, capsys):
    setup_logger("INFO", tmp_path / "job.log")
    odd = "\n2026 forged\r\x1b[31m\x9b\u2028\ud800\u061c\u200e\u202e\u2066\u2069"
    get_logger("main").info("user: %s", f"a{odd}é👩")
    shown = capsys.readouterr().out
    assert len((tmp_path / "job.log").read_text().splitlines()) == 1
    escaped = r"\n2026 forged\r\x1b[31m\x9b\u2028\ud800\u061c\u200e\u202e\u2066\u2069"
    assert shown == f"user: a{escaped}é👩\n"


def test_the_file_rotates(tmp_path, monkeypatch):
    assert logger_config.MAX_BYTES == 10 * 1024 * 1024
    monkeypatch.setattr(logger_config, "MAX_BYTES", 1000)
    setup_logger("ERROR", tmp_path / "job.log")
    for number in range(200):
        get_logger("main").info("line %d", number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["job.log", *(f"job.log.{number}" for number in range(1, 6))]


def test_a_pipe_is_never_rotated_and_lost_lines_are_told_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logger_config, "MAX_BYTES", 100)
    path = tmp_path / "job.log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    setup_logger("ERROR", path)
    for number in range(100):
        get_logger("main").info("line %d", number)
    assert os.read(reader, 65536).count(b"line") == 100
    assert [each.name for each in tmp_path.iterdir()] == ["job.log"]
    os.close(reader)
    for _ in range(3):
        get_logger("main").info("lost")
    (told,) = capsys.readouterr().err.splitlines()
    assert told == "ERROR: LOG_FILE is missing lines: Broken pipe. The job goes on"


BOTH = ["INFO     iterable_sync.main: step", "WARNING  iterable_sync.main: odd"]


@pytest.mark.parametrize(
    ("path", "out", "err"),
    [
        ("/dev/stdout", BOTH, []),
        ("/dev/stderr", [], BOTH),
        ("/dev/null", ["step"], ["WARNING: odd"]),
    ],
)
def test_a_log_that_is_the_console_has_each_line_once(path, out, err, capsys):
    setup_logger("INFO", Path(path))
    get_logger("main").info("step")
    get_logger("main").warning("odd")
    shown = [re.sub(r"(?m)^\d{4}-\S+Z ", "", each).splitlines() for each in capsys.readouterr()]
    assert shown == [out, err]


@needs_root
def test_a_log_in_a_folder_that_may_not_be_written_goes_on_and_loses_no_line(monkeypatch, capsys):
    monkeypatch.setattr(logger_config, "MAX_BYTES", 1000)
    with open_folder() as folder:
        (path := folder / "job.log").touch()
        os.chown(path, NOBODY, NOBODY)
        with as_nobody():
            setup_logger("WARNING", path)
            for number in range(100):
                get_logger("main").info("line %d", number)
        lines = path.read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == [str(number) for number in range(100)]
    assert capsys.readouterr() == ("", "")


def test_a_log_file_that_is_there_already_becomes_its_owners_alone(tmp_path):
    (path := tmp_path / "job.log").touch()
    path.chmod(0o644)
    before = os.stat("/dev/null").st_mode  # noqa: PTH116 - a device
    for each in (path, Path("/dev/null")):
        setup_logger("INFO", each)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.stat("/dev/null").st_mode == before  # noqa: PTH116 - a device
