"""The files of deploy/: the crontab as cron would run it, the units as systemd reads them."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from configuration.settings import HERE, VARIABLES
from tests.test_main import API_KEY, copy_program

pytestmark = pytest.mark.program

DEPLOY = HERE / "deploy"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
# Where the files of deploy/ say that the job is installed.
INSTALLED = "/srv/iterable-sync"
UNITS = ("iterable-sync.service", "iterable-sync.timer")
# systemd's own scale, from 0 for an airtight service to 100 for one without any protection.
MOST_EXPOSED = 15


def entries(unit, name):
    """Return the values of every line NAME=value of a unit."""
    text = (DEPLOY / unit).read_text()
    return re.findall(rf"^{name}=(.*)$", text, flags=re.MULTILINE)


def cron_jobs():
    """Return the command of every job in the crontab."""
    return re.findall(r"^(?:[\d*/,-]+ ){5}(.+)$", (DEPLOY / "crontab").read_text(), re.MULTILINE)


@pytest.fixture
def installed(tmp_path):
    """Install the job in a folder of the test, with a .venv/bin/python like the real one."""
    main = copy_program(tmp_path / "srv")
    python = main.parent / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -B "$@"\n')
    python.chmod(0o755)
    return main.parent


@pytest.fixture
def settings(database, iterable):
    iterable.change(api_key=API_KEY)
    return {
        **database.settings,
        "ITERABLE_API_KEY": API_KEY,
        "ITERABLE_API_BASE_URL": iterable.url,
    }


def write_env(path, values):
    path.write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))
    path.chmod(0o600)


def run_bare(command, cwd, **environ):
    """Run a shell's *command* with nothing but *environ*."""
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def files_in(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.database
def test_cron_runs_the_job_with_nothing_to_mail(installed, settings, tmp_path):
    write_env(installed / ".env", settings)
    home = tmp_path / "elsewhere"
    home.mkdir()
    (command,) = cron_jobs()
    done = run_bare(
        command.replace(INSTALLED, str(installed)),
        home,
        HOME=str(home),
        LOGNAME="iterable-sync",
        SHELL="/bin/sh",
        PATH="/usr/bin:/bin",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (results,) = installed.glob("integration_results_*.json")
    assert json.loads(results.read_text())["summary"]["successful"] == 3
    assert (installed / "iterable_integration.log").exists()
    assert (installed / "report.html").exists()
    assert list(home.iterdir()) == []


def test_cron_does_not_read_the_command_as_something_else():
    assert (DEPLOY / "crontab").read_text().endswith("\n"), "cron skips a line without an end"
    for command in cron_jobs():
        assert "%" not in command, "cron reads % as the end of the line"


@pytest.mark.database
def test_the_service_runs_on_its_credentials_and_writes_only_to_its_own_folders(
    installed, settings, tmp_path
):
    folders = {letter: tmp_path / letter for letter in "dSL"}
    for folder in folders.values():
        folder.mkdir()
    credentials = {
        "db-password": settings.pop("DB_PASSWORD"),
        "iterable-api-key": settings.pop("ITERABLE_API_KEY"),
    }
    for name, secret in credentials.items():
        (folders["d"] / name).write_text(f"{secret}\n")
        (folders["d"] / name).chmod(0o400)
    write_env(folders["d"] / "settings.env", settings)
    loaded = {value.partition(":")[0] for value in entries(UNITS[0], "LoadCredential")}
    assert loaded == {path.name for path in folders["d"].iterdir()}

    def in_place(text):
        text = re.sub(r"%([dSL])", lambda found: str(folders[found[1]]), text)
        return text.replace(INSTALLED, str(installed))

    before = files_in(installed)
    environ = dict(in_place(value).split("=", 1) for value in entries(UNITS[0], "Environment"))
    assert environ.keys() <= set(VARIABLES)
    (command,) = entries(UNITS[0], "ExecStart")
    done = run_bare(in_place(command), "/", PATH="/usr/bin:/bin", **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files_in(installed) == before
    (results,) = folders["S"].glob("iterable-sync/results/integration_results_*.json")
    assert json.loads(results.read_text())["summary"]["successful"] == 3
    assert (folders["L"] / "iterable-sync" / "iterable_integration.log").exists()
    # The same by hand, as deploy/README.md has it, and the report afterwards.
    (by_hand,) = re.findall(r"-- (/bin/sh -c '.*?' sh) \"\$@\"; }", README, flags=re.DOTALL)
    paths = {name: environ[name] for name in ("RESULTS_DIR", "STATE_FILE", "LOG_FILE")}
    place = {"CREDENTIALS_DIRECTORY": str(folders["d"]), "PATH": "/usr/bin:/bin"}
    done = run_bare(f"{in_place(by_hand)} --check", "/", **place, **paths)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nReady for a run\n")
    (report,) = entries(UNITS[0], "ExecStopPost")
    done = run_bare(in_place(report.removeprefix("-")), "/", PATH="/usr/bin:/bin", **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert results.with_name("report.html").exists()


def test_by_hand_the_job_has_the_services_user_secrets_and_paths():
    for name in ("User", "LoadCredential", "StateDirectory", "LogsDirectory"):
        assert re.findall(rf"-p {name}=(\S+)", README) == entries(UNITS[0], name)
    there = {"%S": "/var/lib", "%L": "/var/log"}
    paths = [
        re.sub("%[SL]", lambda found: there[found[0]], each)
        for each in entries(UNITS[0], "Environment")
        if "%d" not in each
    ]
    assert re.findall(r"-E (\S+)", README) == paths


def test_the_service_has_time_to_finish_its_rows_when_it_is_stopped():
    (seconds,) = entries(UNITS[0], "TimeoutStopSec")
    assert int(seconds) > 10


@pytest.fixture
def analyze(installed, tmp_path):
    """Run systemd-analyze on copies of units that name the program of this test."""
    tool = shutil.which("systemd-analyze")
    if not tool:
        told = "THE UNITS ARE NOT CHECKED: there is no systemd-analyze; Debian's is in 'systemd'"
        (pytest.fail if os.environ.get("EXPECT_SYSTEMD") else pytest.skip)(told)
    for unit in UNITS:
        text = (DEPLOY / unit).read_text()
        (tmp_path / unit).write_text(text.replace(INSTALLED, str(installed)))

    def run(*args):
        done = subprocess.run(
            [tool, "--no-pager", *args],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout

    return run


def test_systemd_understands_every_line_of_the_units(analyze):
    status, said = analyze("verify", "--man=no", "--recursive-errors=no", *UNITS)
    # It may have something to say about other units of the machine.
    assert [line for line in said.splitlines() if "iterable-sync" in line] == []
    assert status == 0, said


def test_the_service_can_reach_little_of_the_machine(analyze):
    service, _ = UNITS
    status, said = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", service)
    assert status == 0, said
