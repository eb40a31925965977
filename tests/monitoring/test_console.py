"""What a run says on its way and at its end: what happened, what it means, what to do."""

import io
import logging
import sys
from pathlib import Path

import pytest

from logger_config import get_logger, setup_logger
from monitoring import console
from monitoring.console import (
    KEY_ADVICE,
    NO_MORE_SENT,
    PAYLOADS_SHOWN,
    ROWS_ON_CONSOLE,
    RUN_AGAIN,
    RowLog,
    log_end,
    stop_advice,
)
from records.exit_statuses import StopReason
from records.outcomes import PLANNED, UNCHANGED
from records.run import RunOptions, RunRecord
from tests.results import (
    delivered,
    filtered,
    finished_run,
    half_delivered,
    not_attempted,
    refused,
)
from tests.rows import make_prepared, settled


class Terminal(io.StringIO):  # noqa: D101 - what its name says
    def isatty(self):
        return True


def tell(total, *parts, **options):
    """Tell what becomes of a run over *total* rows, part after part, with a log line after each."""
    run = RunRecord(RunOptions(**options), "1.0.0", rows_read=total)
    with RowLog(run) as log:
        for outcomes in parts:
            log.add(outcomes, run.count(outcomes))
            get_logger("main").info("a line")


def test_few_rows_have_their_lines_on_the_console_and_many_in_the_log_file(capsys, tmp_path):
    setup_logger("INFO", tmp_path / "job.log")
    tell(2, delivered(1), refused(1))
    assert capsys.readouterr() == (
        "Processing record 1/2\n✓ Successfully processed user: user0@example.com\na line\n"
        "Processing record 2/2\na line\n",
        "ERROR: ✗ Total failure for user: user@example.com (customer 0): "
        "users/update refused (client error 400 BadParams)\n",
    )
    many = ROWS_ON_CONSOLE + 1
    tell(many, delivered(1), half_delivered(1))
    tell(many, [*delivered(3), *refused(1)], bulk=True)
    assert capsys.readouterr() == ("a line\n" * 3, "")
    lines = (tmp_path / "job.log").read_text()
    assert lines.count("✓ Successfully processed user") == 2
    assert "✓ Successful: 3 users; record 4 of 51" in lines
    assert "⚠ Partial failure for user: half@example.com (customer h0): events/track unav" in lines


def test_off_a_terminal_a_line_now_and_then_tells_rate_time_left_and_failures(capsys, monkeypatch):
    setup_logger("INFO")
    tell(1000, delivered(1), delivered(1))
    assert "rows, " not in capsys.readouterr().out
    monkeypatch.setattr(console, "PROGRESS_EVERY_S", 0)
    # Rows that a stopped run did not reach are not done.
    tell(1000, [*delivered(99), *refused(1), *not_attempted(900)])
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("100 of 1000 rows, ")
    assert line.endswith(" s left, 1 failed")


def test_on_a_terminal_a_bar_shows_the_rows_and_lines_stand_on_lines_of_their_own(monkeypatch):
    terminal = Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, terminal)
    setup_logger("INFO")
    tell(100, [*delivered(30), *refused(1)], not_attempted(69))
    # What a terminal shows: each piece between carriage returns overwrites the one before.
    shown = terminal.getvalue().split("\r")
    line = shown.index("\x1b[Ka line\n")
    assert "0/100 [" in shown[line - 1]
    assert shown[-1].startswith(" 31%|")
    assert "31/100 [" in shown[-1]
    assert "1 failed" in shown[-1]
    terminal.truncate(0)
    tell(100, delivered(30), quiet=True)
    assert "%" not in terminal.getvalue()


def test_a_dry_run_prints_the_bodies_of_its_first_rows_only(capsys):
    rows = [settled(make_prepared(n), PLANNED, UNCHANGED) for n in range(5)]
    tell(5, [*delivered(1), *rows[:2]], rows[2:], dry_run=True)
    shown = [line for line in capsys.readouterr().out.splitlines() if "POST /api/" in line]
    bodies = [row.profile.body.decode() for row in rows[:PAYLOADS_SHOWN]]
    assert shown == [f"  POST /api/users/update {body}" for body in bodies]


@pytest.mark.parametrize(
    ("rows", "advice", "told"),
    [
        (delivered(3), "", []),
        (
            [*delivered(3), *refused(2)],
            "",
            ["{cause}. results.json says what to fix in each row. Fix it, then run again"],
        ),
        (
            [*refused(1), *half_delivered(1)],
            "",
            ["{cause}. results.json says what to fix in 1 of them; run again for the others"],
        ),
        (
            half_delivered(1),
            "",
            ["{cause}. No row needs fixing: run again once the cause is resolved"],
        ),
        (
            filtered(1),
            "",
            [
                "The project accepts no new fields: Iterable ignored candidate, plan_type in "
                "users/update and stored the rest. Create the fields in Iterable; the next run "
                "then sends the profiles that lack them"
            ],
        ),
        (
            [*delivered(1), *not_attempted(4)],
            "The advice",
            ["Not attempted: 4 of 5 users. Nothing was sent for them", "The advice"],
        ),
    ],
)
def test_the_end_of_a_run_says_what_became_of_its_rows_and_what_to_do(caplog, rows, advice, told):
    run = finished_run(rows)
    with caplog.at_level(logging.WARNING):
        log_end(run, Path("results.json"), advice)
    assert caplog.messages == [text.format(cause=run.cause) for text in told]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (StopReason.OUTAGE, f"Iterable seems to be down: why. {NO_MORE_SENT}. {RUN_AGAIN}"),
        (
            StopReason.DEADLINE,
            f"The time limit MAX_RUNTIME_SECONDS was reached. {NO_MORE_SENT}. {RUN_AGAIN}",
        ),
        (StopReason.SIGTERM, f"Stopped by a signal. {NO_MORE_SENT}. {RUN_AGAIN}"),
        (StopReason.KEY_REFUSED, f"why. {NO_MORE_SENT}. {KEY_ADVICE}"),
        (StopReason.ROW_COUNT, "why"),
    ],
)
def test_a_stop_says_what_happened_then_what_it_means_then_what_to_do(reason, told):
    assert stop_advice(reason, "why") == told
