"""The files of deploy/: the crontab as cron runs it, the units, the image and the manifest."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from configuration.settings import HERE, VARIABLES
from tests.needed import skip_or_fail
from tests.test_main import copy_program
from tests.test_main import job as job  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.program

DEPLOY = HERE / "deploy"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
CRONTAB = (DEPLOY / "crontab").read_text(encoding="utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
MANIFEST = [*yaml.safe_load_all((DEPLOY / "cronjob.yaml").read_text(encoding="utf-8"))]
CONFIG_MAP, _, CRON_JOB = MANIFEST
# Where the files of deploy/ say that the job is installed.
INSTALLED = "/srv/iterable-sync"
UNITS = ("iterable-sync.service", "iterable-sync.timer")
# systemd's own scale, from 0 for an airtight service to 100 for one without any protection.
MOST_EXPOSED = 15
# What the rows in flight get after SIGTERM.
GRACE_S = 10
SECRETS = {"db-password": "DB_PASSWORD", "iterable-api-key": "ITERABLE_API_KEY"}


def entries(unit, name):
    """Return the values of every line NAME=value of a unit."""
    return re.findall(rf"^{name}=(.*)$", (DEPLOY / unit).read_text(), flags=re.MULTILINE)


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
def settings(job):
    """Return the settings that say where a run reads and sends."""
    return {name: job.environ[name] for name in job.environ if name.startswith(("DB_", "ITERABLE"))}


def write_env(path, values):
    path.write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))
    path.chmod(0o600)


def run_bare(command, cwd, **environ):
    """Return what a shell's *command* says with little more than *environ*; it must succeed."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def assert_delivered(folder):
    (results,) = folder.glob("integration_results_*.json")
    assert json.loads(results.read_text())["summary"]["successful"] == 3


@pytest.mark.database
def test_cron_runs_the_job_with_nothing_to_mail(installed, settings, tmp_path):
    write_env(installed / ".env", settings)
    home = tmp_path / "elsewhere"
    home.mkdir()
    (command,) = re.findall(r"^(?:[\d*/,-]+ ){5}(.+)$", CRONTAB, re.MULTILINE)
    assert "%" not in command, "cron reads % as the end of the line"
    assert CRONTAB.endswith("\n"), "cron skips a line without an end"
    assert run_bare(command.replace(INSTALLED, str(installed)), home, HOME=str(home)) == ""
    assert_delivered(installed)
    assert (installed / "iterable_integration.log").exists()
    assert (installed / "report.html").exists()
    assert list(home.iterdir()) == []


@pytest.mark.database
def test_the_service_runs_on_its_credentials_and_writes_only_to_its_own_folders(
    installed, settings, tmp_path
):
    folders = {letter: tmp_path / letter for letter in "dSL"}
    for folder in folders.values():
        folder.mkdir()
    for name, variable in SECRETS.items():
        (folders["d"] / name).write_text(settings.pop(variable))
        (folders["d"] / name).chmod(0o400)
    write_env(folders["d"] / "settings.env", settings)
    loaded = {value.partition(":")[0] for value in entries(UNITS[0], "LoadCredential")}
    assert loaded == {path.name for path in folders["d"].iterdir()}

    def in_place(text):
        text = re.sub(r"%([dSL])", lambda found: str(folders[found[1]]), text)
        return text.replace(INSTALLED, str(installed)).removeprefix("-")

    before = {*installed.rglob("*")}
    environ = dict(in_place(value).split("=", 1) for value in entries(UNITS[0], "Environment"))
    assert environ.keys() <= set(VARIABLES)
    (command,), (report,) = entries(UNITS[0], "ExecStart"), entries(UNITS[0], "ExecStopPost")
    assert run_bare(in_place(command), "/", **environ) == ""
    assert {*installed.rglob("*")} == before
    results = folders["S"] / "iterable-sync" / "results"
    assert_delivered(results)
    assert (folders["L"] / "iterable-sync" / "iterable_integration.log").exists()
    # The same by hand, as deploy/README.md has it, and the report afterwards.
    (by_hand,) = re.findall(r"-- (/bin/sh -c '.*?' sh) \"\$@\"; }", README, flags=re.DOTALL)
    paths = {name: environ[name] for name in ("RESULTS_DIR", "STATE_FILE", "LOG_FILE")}
    place = {"CREDENTIALS_DIRECTORY": str(folders["d"])}
    said = run_bare(f"{in_place(by_hand)} --check", "/", **place, **paths)
    assert said.endswith("\nReady for a run\n")
    assert run_bare(in_place(report), "/", **environ) == ""
    assert (results / "report.html").exists()


def test_by_hand_the_job_has_the_services_user_secrets_and_paths():
    for name in ("User", "LoadCredential", "StateDirectory", "LogsDirectory"):
        assert re.findall(rf"-p {name}=(\S+)", README) == entries(UNITS[0], name)
    paths = [each for each in entries(UNITS[0], "Environment") if "%d" not in each]
    there = " ".join(paths).replace("%S", "/var/lib").replace("%L", "/var/log")
    assert re.findall(r"-E (\S+)", README) == there.split()


def test_systemd_understands_every_line_of_the_units_and_the_service_is_confined(
    installed, tmp_path
):
    tool = shutil.which("systemd-analyze")
    if not tool:
        skip_or_fail("EXPECT_SYSTEMD", "THE UNITS ARE NOT CHECKED: systemd-analyze is missing")
    for unit in UNITS:
        text = (DEPLOY / unit).read_text()
        (tmp_path / unit).write_text(text.replace(INSTALLED, str(installed)))
    service, timer = UNITS
    verify = f"verify --man=no --recursive-errors=no {service} {timer}"
    confined = f"security --offline=true --threshold={MOST_EXPOSED} {service}"
    said, _ = [run_bare(f"{tool} --no-pager {each} 2>&1", tmp_path) for each in (verify, confined)]
    # It may have something to say about other units of the machine.
    assert "iterable-sync" not in said
    (seconds,) = entries(service, "TimeoutStopSec")
    assert int(seconds) > GRACE_S


@pytest.mark.database
def test_the_image_holds_what_a_run_needs_and_logs_to_standard_output(settings, tmp_path):
    # The steps of the Dockerfile, but for its base, its user and its packages.
    first, *copied = re.findall(r"^[^#].*", (HERE / ".dockerignore").read_text(), re.MULTILINE)
    assert first == "*"
    for name in (name[1:] for name in copied if name.startswith("!")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy
        copy(HERE / name, tmp_path / name)
    assert "\nCOPY . /srv/iterable-sync\n" in DOCKERFILE
    own = dict(re.findall(r"^(?:ENV|   ) ([A-Z_]+)=(\S+)", DOCKERFILE, re.MULTILINE))
    assert own.items() <= CONFIG_MAP["data"].items()
    words = [json.loads(line) for line in re.findall(r"^(?:ENTRYPOINT|CMD) (.*)", DOCKERFILE, re.M)]
    command = " ".join(map(shlex.join, words)).replace("/venv/bin/python", f"{sys.executable} -B")
    # As in the manifest: settings from the map, secrets in files.
    for name, variable in SECRETS.items():
        (tmp_path / name).write_text(settings.pop(variable))
    environ = {
        name: re.sub(r"/(var/lib|run/secrets|srv)/iterable-sync", str(tmp_path), text)
        for name, text in (CONFIG_MAP["data"] | settings).items()
    }
    command = command.replace(INSTALLED, str(tmp_path))
    lines = run_bare(command, "/", **environ).splitlines()
    assert_delivered(tmp_path / "results")
    assert (tmp_path / "sync_state.sqlite3").exists()
    assert [line for line in lines if not re.match(r"\d{4}-.* (DEBUG|INFO) ", line)] == []


def test_the_cron_job_never_runs_twice_and_leaves_the_run_time_to_stop():
    for document in MANIFEST:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    settings, job = CONFIG_MAP["data"], CRON_JOB["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert CRON_JOB["spec"]["concurrencyPolicy"] == "Forbid"
    assert int(settings["MAX_RUNTIME_SECONDS"]) + GRACE_S < job["activeDeadlineSeconds"]
    assert pod["terminationGracePeriodSeconds"] > GRACE_S
    assert f"\nUSER {pod['securityContext']['runAsUser']}\n" in DOCKERFILE
    assert settings.keys() - {"CREDENTIALS_DIRECTORY"} <= set(VARIABLES)
    assert not {"DB_PASSWORD", "ITERABLE_API_KEY"} & settings.keys()
    (container,) = pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for name in ("STATE_FILE", "RESULTS_DIR"):
        assert settings[name].startswith(mounted["state"] + "/")
    for name in ("DB_PASSWORD_FILE", "ITERABLE_API_KEY_FILE"):
        assert settings[name].startswith(mounted["secrets"] + "/")
