"""Log lines: who sees which, and that no value can forge one."""

import logging
import os
import re
import stat
import warnings
from pathlib import Path

import pytest

import logger_config
from logger_config import get_logger, setup_logger


@pytest.fixture(autouse=True)
def _no_handlers_left():
    yield
    setup_logger()


def test_the_console_has_info_the_file_has_everything(tmp_path, capsys):
    setup_logger("INFO", tmp_path / "logs" / "job.log")
    logger = get_logger("db_connection")
    logger.debug("detail")
    logger.info("step")
    logger.warning("odd")
    logger_config.get_file_logger().info("record")
    console = capsys.readouterr()
    assert console.out == "step\n"
    assert console.err == "WARNING: odd\n"
    lines = (tmp_path / "logs" / "job.log").read_text().splitlines()
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\w+) +iterable_sync.\w+: (\w+)"
    assert [re.findall(pattern, line) for line in lines] == [
        [("DEBUG", "detail")],
        [("INFO", "step")],
        [("WARNING", "odd")],
        [("INFO", "record")],
    ]


def test_libraries_stay_out(tmp_path, capsys):
    setup_logger("DEBUG", tmp_path / "job.log")
    logging.getLogger("urllib3.connectionpool").debug("https://... Api-Key")
    assert (tmp_path / "job.log").read_text() == capsys.readouterr().out == ""


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


BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize("control", BIDIRECTIONAL)
def test_nothing_turns_the_direction_of_a_line(control, capsys):
    setup_logger("INFO")
    get_logger("main").info("user: %s", f"a{control}b")
    assert capsys.readouterr().out == f"user: a\\u{ord(control):04x}b\n"


def test_a_value_cannot_forge_a_line_or_steer_the_terminal(tmp_path, capsys):
    setup_logger("INFO", tmp_path / "job.log")
    get_logger("main").info("user: %s", "a\n2026 forged\r\x1b[31m\x9b\u2028\ud800é👩")
    shown = capsys.readouterr().out
    assert len((tmp_path / "job.log").read_text().splitlines()) == 1
    assert shown.startswith(r"user: a\n2026 forged\x0d\x1b[31m\x9b\u2028")
    assert shown.rstrip("\n").endswith("é👩")


def test_setting_up_again_does_not_double_lines(tmp_path, capsys):
    for _ in range(3):
        setup_logger("INFO", tmp_path / "job.log")
    get_logger("main").info("once")
    assert capsys.readouterr().out == "once\n"
    assert len((tmp_path / "job.log").read_text().splitlines()) == 1


def test_the_file_rotates(tmp_path, monkeypatch):
    assert logger_config.MAX_BYTES == 10 * 1024 * 1024
    monkeypatch.setattr(logger_config, "MAX_BYTES", 1000)
    monkeypatch.setattr(logger_config, "LINES_BETWEEN_LOOKS", 2)
    setup_logger("ERROR", tmp_path / "job.log")
    for number in range(200):
        get_logger("main").info("line %d", number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["job.log", *(f"job.log.{number}" for number in range(1, 6))]


def test_a_log_file_that_is_no_regular_file_is_never_rotated(tmp_path, monkeypatch):
    monkeypatch.setattr(logger_config, "MAX_BYTES", 100)
    monkeypatch.setattr(logger_config, "LINES_BETWEEN_LOOKS", 2)
    path = tmp_path / "job.log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    setup_logger("ERROR", path)
    for number in range(100):
        get_logger("main").info("line %d", number)
    assert os.read(reader, 65536).count(b"line") == 100
    os.close(reader)
    assert [each.name for each in tmp_path.iterdir()] == ["job.log"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_log_file_that_nobody_reads_hangs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logger_config, "PATIENCE_S", 0.05)
    path = tmp_path / "job.log"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        setup_logger("INFO", path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    setup_logger("ERROR", path)
    for _ in range(2000):
        get_logger("main").info("x" * 100)
    os.close(reader)
    told = "ERROR: LOG_FILE is missing lines: nobody reads it. The job goes on\n"
    assert capsys.readouterr().err == told


def test_log_files_that_are_there_already_become_their_owners_alone(tmp_path):
    names = ("job.log", "job.log.1", "job.log.5", "job.log.old")
    for name in names:
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    setup_logger("INFO", tmp_path / "job.log")
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names}
    assert modes.pop("job.log.old") == 0o644
    assert set(modes.values()) == {0o600}


def test_the_mode_of_a_device_is_left_alone():
    before = os.stat("/dev/null").st_mode  # noqa: PTH116 - a device
    setup_logger("INFO", Path("/dev/null"))
    assert os.stat("/dev/null").st_mode == before  # noqa: PTH116 - a device
