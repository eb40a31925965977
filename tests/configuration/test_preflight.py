"""--check tells at once all that is wrong and what to do about it, and changes nothing."""

import subprocess
import sys

import pytest

from configuration import preflight
from configuration.command_line import parse_args
from configuration.preflight import all_findings
from configuration.preflight_finding import Mark, clock_finding
from configuration.settings import HERE
from logger_config import setup_logger
from records.exit_statuses import ExitStatus
from tests.test_main import API_KEY, BARE
from tests.test_main import job as job  # noqa: PLC0414 - a fixture


@pytest.mark.database
def test_a_run_that_would_work_is_told_line_by_line_and_nothing_is_changed(job, iterable, tmp_path):
    found = list(all_findings(None, job.environ))
    assert [finding.what for finding in found] == [
        "Settings",
        "RESULTS_DIR",
        "LOG_FILE",
        "STATE_FILE",
        "Database",
        "Database clock",
        "Query 2",
        "Query 2's plan",
        "Iterable",
        "Profile fields",
    ]
    assert {finding.mark for finding in found} <= {Mark.GOOD, Mark.NOTE}
    assert not list(tmp_path.iterdir())
    assert [(request.method, request.path) for request in iterable.requests] == [
        ("GET", "/api/users/getFields"),
    ]


@pytest.mark.database
@pytest.mark.program
def test_all_that_is_wrong_is_told_at_once_without_a_secret(job, tmp_path):
    done = job(
        "--check",
        RESULTS_DIR="/proc/results",
        DB_PASSWORD="wrong-password",
        ITERABLE_API_KEY="wrong-key",
        HEARTBEAT_URL="https://hc-ping.com/secret-uuid",
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("ERROR: ✗ RESULTS_DIR: /proc/results cannot be written")
    assert lines[1].startswith("ERROR: ✗ Database: cannot connect: check DB_USER and DB_PASSWORD")
    assert lines[2].startswith("ERROR: ✗ Iterable: refused the API key")
    assert lines[3].startswith(
        "ERROR: Not ready for a run. 3 checks failed, the first: RESULTS_DIR"
    )
    assert "✓ LOG_FILE" in done.stdout
    for secret in ("wrong-password", "wrong-key", "secret-uuid", API_KEY):
        assert secret not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.program
def test_the_demo_can_be_checked_without_settings():
    done = subprocess.run(
        [sys.executable, HERE / "main.py", "--check", "--demo"],
        env=BARE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nReady for a run\n")


def test_every_problem_of_the_settings_is_told_and_the_rest_waits_for_them(environ):
    wrong = environ | {"DB_PORT": "many", "LOG_LEVEL": "LOUD"}
    del wrong["DB_HOST"]
    found = list(all_findings(None, wrong))
    bad = [str(finding) for finding in found if finding.mark is Mark.BAD]
    assert len(bad) == 3
    assert all(f"✗ Settings: {n}" in "\n".join(bad) for n in ("DB_HOST", "DB_PORT", "LOG_LEVEL"))
    assert len(found) == 4


@pytest.mark.parametrize(
    ("changes", "status", "first"),
    [
        ({"RESULTS_DIR": "/proc/x"}, ExitStatus.USAGE, "RESULTS_DIR: /proc/x"),
        ({}, ExitStatus.DATABASE, "Database: cannot connect"),
    ],
)
def test_the_status_is_the_first_failures_and_a_quiet_check_can_name_it(
    environ, changes, status, first
):
    setup_logger(quiet=True)
    wrong = environ | {"ITERABLE_API_KEY": "wrong"} | changes
    with pytest.raises(preflight.NotReadyError, match=f"checks failed, the first: {first}") as bad:
        preflight.check(None, wrong)
    assert bad.value.status is status


@pytest.mark.parametrize("other", ["--dry-run", "--report"])
def test_check_is_not_for_a_command_line_that_asks_for_something_else(other, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--check", other])
    assert "not allowed with argument --check" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ahead_s", "mark", "text"),
    [
        (59, Mark.GOOD, "agrees with the station's"),
        (-59, Mark.GOOD, "agrees with the station's"),
        (61, Mark.WARNING, "61 s ahead of the station's; wind it"),
        (-7200, Mark.WARNING, "7,200 s behind the station's; wind it"),
    ],
)
def test_a_clock_that_is_off_by_more_than_a_minute_is_a_warning(ahead_s, mark, text):
    finding = clock_finding("My watch", ahead_s, "the station's", "wind it")
    assert (finding.mark, finding.what, finding.text) == (mark, "My watch", text)
