"""How far a run has come, on a terminal and off one."""

import io
import sys
from collections import Counter

import monitoring.progress
from logger_config import get_logger, setup_logger
from monitoring.progress import Progress
from records.outcomes import RowStatus

GOOD, BAD = RowStatus.SUCCESSFUL, RowStatus.PARTIAL_FAILURE


class Terminal(io.StringIO):  # noqa: D101 - what its name says
    def isatty(self):
        return True


def new_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    setup_logger("INFO")
    return terminal


def test_off_a_terminal_a_line_now_and_then_tells_rate_time_left_and_failures(capsys, monkeypatch):
    monkeypatch.setattr(monitoring.progress, "LINE_EVERY_S", 0)
    setup_logger("INFO")
    progress = Progress(1000, bar=False)
    progress.add(Counter({GOOD: 99, BAD: 1}))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("100 of 1000 rows, ")
    assert line.endswith(" s left, 1 failed")


def test_off_a_terminal_there_is_no_more_than_a_line_in_thirty_seconds(capsys):
    setup_logger("INFO")
    progress = Progress(1000, bar=False)
    for _ in range(100):
        progress.add(Counter([GOOD]))
    progress.close()
    assert capsys.readouterr().out == ""


def test_a_bar_shows_the_rows_and_the_failures(monkeypatch):
    terminal = new_terminal(monkeypatch)
    progress = Progress(10, bar=True)
    progress.add(Counter({GOOD: 9, BAD: 1}))
    progress.close()
    assert "10/10 rows" in terminal.getvalue()
    assert "1 failed" in terminal.getvalue()


def test_rows_that_a_stopped_run_did_not_reach_are_not_done(monkeypatch, capsys):
    monkeypatch.setattr(monitoring.progress, "LINE_EVERY_S", 0)
    setup_logger("INFO")
    progress = Progress(5000, bar=False)
    progress.add(Counter({GOOD: 1532, RowStatus.NOT_ATTEMPTED: 3468}))
    assert capsys.readouterr().out.startswith("1532 of 5000 rows, ")
    terminal = new_terminal(monkeypatch)
    progress = Progress(5000, bar=True)
    progress.add(Counter({GOOD: 1532}))
    progress.add(Counter({RowStatus.NOT_ATTEMPTED: 3468}))
    progress.close()
    last = terminal.getvalue().rstrip().rpartition("\r")[2]
    assert last.startswith(" 31% ")
    assert "1532/5000 rows" in last


def test_log_lines_stand_on_lines_of_their_own_beside_the_bar(monkeypatch):
    terminal = new_terminal(monkeypatch)
    progress = Progress(10, bar=True)
    progress.add(Counter([GOOD]))
    get_logger("main").info("a line")
    progress.add(Counter([GOOD]))
    progress.close()
    get_logger("main").info("another line")
    # What a terminal shows: each piece between carriage returns overwrites the one before.
    shown = terminal.getvalue().split("\r")
    clear = "\x1b[K"
    assert f"{clear}a line\n" in shown
    assert shown[shown.index(f"{clear}a line\n") + 1].startswith(" 20% ")
    assert shown[-1] == f"{clear}another line\n"
