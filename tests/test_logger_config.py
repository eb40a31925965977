"""Log lines: who sees which, and that no value can forge one."""

import logging
import re
import warnings

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
