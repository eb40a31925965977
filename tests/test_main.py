"""The whole job as its user runs it: a real database, the local Iterable."""

import ast
import contextlib
import gc
import importlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from datetime import UTC
from pathlib import Path
from subprocess import PIPE
from unittest import mock

import pytest

import iterable_client
import main
from configuration import command_line
from iterable_api.payloads import Payloads
from logger_config import setup_logger
from sandbox.faults import Fault
from tests import schema
from tests.rows import bodies_of
from tests.test_db_connection import running, wait_until
from tests.users import NOBODY, NOBODYS_NAME, needs_root

pytestmark = pytest.mark.program

HERE = Path(main.__file__).parent
API_KEY = "0123456789abcdef0123456789abcdef"
USERS = ["sarah.johnson@email.com", "olivia.brown@email.com", "mia.harris@email.com"]
# A bare environment, as cron's.
BARE = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
# What a run needs besides the files at the top.
PACKAGES = ("configuration", "delivery", "iterable_api", "monitoring", "records")
# An answer with which Iterable refuses one call for good.
REFUSED = json.dumps({"code": "BadParams", "msg": "no", "params": None})
OUTCOMES = ("successful", "partial_failures", "total_failures", "unchanged", "forgotten")

both_modes = pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per-user", "bulk"])


class Job:
    """Runs main.py and shows what it left behind.

    ``start()`` and ``alone()`` run ``program`` as a process of its own. A plain call runs
    ``main.main()`` in this process, in a quarter of the time.
    """

    def __init__(self, environ, folder, program=HERE / "main.py"):
        self.environ = environ
        self.folder = folder
        self.program = program
        self._scaled = []

    def scale(self, file, constant, value):
        """Change a constant of the program, so that no test waits for real."""
        self._scaled.append((file, constant, value))

    def start(self, *args, before=None, stdout=PIPE, stderr=PIPE, **environ):
        if self._scaled and self.program == HERE / "main.py":
            self.program = copy_program(self.folder / "scaled")
            for each in self._scaled:
                scaled(self.program, *each)
        return subprocess.Popen(
            [sys.executable, self.program, *args],
            cwd=self.folder,
            env=BARE | self.environ | environ,
            preexec_fn=before,  # noqa: PLW1509 - no other thread is about to fork
            stdout=stdout,
            stderr=stderr,
            text=True,
            encoding="utf-8",
        )

    def alone(self, *args, **environ):
        process = self.start(*args, **environ)
        out, err = process.communicate(timeout=50)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def __call__(self, *args, **environ):
        if self.program != HERE / "main.py":
            return self.alone(*args, **environ)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.callback(gc.unfreeze)
            stack.callback(os.umask, os.umask(0o022))
            stack.callback(setup_logger, quiet=True)
            whole = BARE | self.environ | environ
            stack.enter_context(mock.patch.dict(os.environ, whole, clear=True))
            stack.enter_context(contextlib.chdir(self.folder))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            for file, constant, value in self._scaled:
                module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
                if isinstance(value, dict):  # other modules have the same one
                    stack.enter_context(mock.patch.dict(getattr(module, constant), value))
                else:
                    stack.enter_context(mock.patch.object(module, constant, value))
            status = main.main(list(args))
        return subprocess.CompletedProcess(args, status, out.getvalue(), err.getvalue())

    @property
    def results(self):
        (path,) = self.folder.glob("results/integration_results_*.json")
        document = json.loads(path.read_text())
        schema.validate(document)
        counts = document["summary"]
        counted = sum(counts[name] for name in (*OUTCOMES, "not_attempted", "planned"))
        assert counts["total"] == len(document["results"]) == counted
        return document

    @property
    def outcomes(self):
        """Return by email what became of each row."""
        return {row["email"]: row["outcome"] for row in self.results["results"]}

    @property
    def log(self):
        return (self.folder / "logs" / "job.log").read_text()


@pytest.fixture
def job(database, iterable, tmp_path):
    # Runs follow each other faster than a project lets ask for its fields.
    iterable.change(api_key=API_KEY, limits=False)
    environ = {
        **database.settings,
        "ITERABLE_API_KEY": API_KEY,
        "ITERABLE_API_BASE_URL": iterable.url,
        "LOG_LEVEL": "INFO",
        "LOG_FILE": str(tmp_path / "logs" / "job.log"),
        "RESULTS_DIR": str(tmp_path / "results"),
        "STATE_FILE": str(tmp_path / "state" / "sync_state.sqlite3"),
    }
    yield Job(environ, tmp_path)
    # What no test has read is held against the schema all the same.
    for path in tmp_path.rglob("integration_results_*.json"):
        if path.stat().st_size:
            schema.validate(json.loads(path.read_text()))


def copy_program(folder, *more):
    """Copy the job, without its tests and settings; *more*: other folders of it."""
    folder.mkdir()
    for path in [*HERE.glob("*.py"), *HERE.glob("*.sql")]:
        shutil.copy(path, folder)
    for package in (*PACKAGES, *more):
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE / package, folder / package, ignore=no_caches)
    return folder / "main.py"


def scaled(program, file, constant, value):
    """Change a constant in a copy of the program, so that no test waits for real."""
    path = program.parent / file
    text, changed = re.subn(
        rf"^{constant} = .*$", f"{constant} = {value}", path.read_text(), flags=re.M
    )
    assert changed == 1
    path.write_text(text)
    return program


def content_of(folder):
    """Return what each file below *folder* holds, and its mode."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mode) for path in files}


def writes(iterable):
    """Return the requests that were to change something; a run asks for the fields, too."""
    return [request for request in iterable.requests if request.method == "POST"]


def add_pro_users(database, count):
    database.execute(
        "INSERT INTO customers (id, email, first_name, plan_type) VALUES "
        + ", ".join(f"({n}, 'user{n}@example.com', 'U{n}', 'pro')" for n in range(100, 100 + count))
    )
    database.execute(
        "INSERT INTO page_views (user_id, page, event_time) "
        "SELECT id, 'pricing', NOW() - INTERVAL 4 DAY FROM customers WHERE id >= 100"
    )


# --- What a run does


def test_the_three_users_are_delivered_exactly_as_specified(job, database, iterable):
    # A console without Unicode is no hindrance.
    done = job.alone(PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u2713 Successful (both API calls): 3" in done.stdout
    payloads, expected = Payloads(database.name, UTC), []
    columns = "customer_id email first_name plan_type page_view_id page event_time browser location"
    for values in database.run_file("phase2_queries.sql")[2]:
        row = dict(zip(columns.split(), values, strict=True))
        user, event = bodies_of(payloads, row)
        expected += [("/api/users/update", user), ("/api/events/track", event)]
    sent = [(r.path, json.loads(r.body)) for r in writes(iterable)]
    assert sorted(sent, key=repr) == sorted(expected, key=repr)
    assert [user["email"] for _, user in expected[::2]] == USERS
    assert all(event.user_existed for event in iterable.events.values())


def test_the_console_and_the_results_tell_the_run_step_by_step(job, iterable):
    iterable.set_faults(Fault("server_error", endpoint="users/update", times=1))
    lines = job().stdout.splitlines()
    expected = [
        "Starting Iterable Integration - Phase 3",
        "[STEP 1] Loading environment variables...",
        "[STEP 2] Connecting to database...",
        "[STEP 3] Executing Phase 2 Query 2...",
        "Found 3 pro user(s) with recent engagement",
        "[STEP 4] Initializing Iterable API client...",
        "[STEP 5] Processing user records...",
        "Processing record 1/3",
        "✓ Successfully processed user: ",
        "Processing record 2/3",
        "✓ Successfully processed user: ",
        "Processing record 3/3",
        "✓ Successfully processed user: ",
        "[STEP 6] Saving results...",
        "Results saved to ",
        "=" * 60,
        "INTEGRATION SUMMARY",
        "=" * 60,
        "Total users processed: 3",
        "✓ Successful (both API calls): 3",
        "⚠ Partial failures (one call failed): 0",
        "✗ Total failures (both calls failed): 0",
        "Requests: 7 in ",
    ]
    # Rows finish in any order.
    named = [line.rpartition(" ")[2] for line in lines if "✓ Succ" in line and "@" in line]
    assert sorted(named) == sorted(job.outcomes) == sorted(USERS)
    pairs = zip(lines, expected, strict=True)
    assert all(line.startswith(start) for line, start in pairs), lines
    run, summary = job.results["run"], job.results["summary"]
    assert (run["exit_status"], run["complete"], run["error"]) == (0, True, None)
    assert re.fullmatch(r"[0-9a-f]{64}", run["query_sha256"])
    assert (summary["requests"], summary["retries"]) == (7, 1)
    assert summary["endpoints"]["users/update"]["answers"] == {"200": 3, "500": 1}


def test_settings_come_from_a_named_file_of_which_others_are_kept_out(job, tmp_path):
    env_file = tmp_path / "job.env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in job.environ.items()))
    env_file.chmod(0o644)
    job.environ = {}
    done = job("--env-file", str(env_file))
    assert done.returncode == 0
    assert job.results["summary"]["successful"] == 3
    assert f"Other users can read {env_file}, which holds secrets" in done.stderr


def test_one_users_failure_does_not_stop_the_others(job, iterable, database):
    add_pro_users(database, 1)
    iterable.forget("user100@example.com")
    iterable.set_faults(
        Fault("answer", email=USERS[0], endpoint="users/update", status=400, body=REFUSED),
        Fault("answer", email=USERS[1], endpoint="events/track", status=400, body=REFUSED),
    )
    done = job()
    assert done.returncode == 1
    expected = ["total_failure", "partial_failure", "successful", "forgotten"]
    assert job.outcomes == dict(zip([*USERS, "user100@example.com"], expected, strict=True))
    assert "✗ Total failure for user: sarah.johnson@email.com (customer 1)" in done.stderr
    assert "⚠ Partial failure for user: olivia.brown@email.com (customer 5)" in done.stderr
    assert "⚠ Partial failures (one call failed): 1" in done.stdout
    assert "Forgotten in Iterable at the user's request, not sent: 1" in done.stdout


@both_modes
def test_a_run_that_a_gateway_turns_away_as_a_whole_stops_early_and_says_so(
    job, iterable, database, mode
):
    add_pro_users(database, 300)
    iterable.set_faults(Fault("answer", status=403, body="<html>sign in</html>"))
    done = job(*mode, ITERABLE_WORKERS="5", ITERABLE_MAX_ATTEMPTS="1", BULK_BATCH_SIZE="50")
    assert done.returncode == 4
    assert "Iterable" in done.stderr.splitlines()[-1]
    assert len(writes(iterable)) < 60
    statuses = {row["users_update"]["status"] for row in job.results["results"]}
    assert statuses <= {"unavailable", "not_sent"}


def test_a_refused_key_ends_the_run_before_anything_is_written(job, iterable):
    done = job(ITERABLE_API_KEY="wrong-key-0123")
    assert done.returncode == 4
    assert writes(iterable) == []
    assert job.outcomes == dict.fromkeys(USERS, "not_attempted")
    assert job.results["run"]["complete"] is False
    assert "Check ITERABLE_API_KEY" in done.stderr
    assert "Not attempted: 3 of 3 users" in done.stderr


def test_nobody_to_deliver_is_no_failure(job, database, iterable):
    database.execute("UPDATE customers SET plan_type = 'free'")
    done = job()
    assert done.returncode == 0
    assert "Found 0 pro user(s)" in done.stdout
    assert job.results["summary"]["total"] == len(iterable.requests) == 0


def test_a_database_that_fails_ends_the_run_before_anything_is_sent(job, iterable):
    done = job(DB_PASSWORD="wrong-password")
    assert done.returncode == 3
    assert "Nothing was sent: cannot connect: check DB_USER and DB_PASSWORD" in done.stderr
    assert iterable.requests == []
    run = job.results["run"]
    assert (run["exit_status"], run["complete"]) == (3, False)
    assert "check DB_USER" in run["error"]


def test_secrets_and_the_bodies_of_answers_are_in_no_log_and_no_result(job, iterable, database):
    database.execute("UPDATE customers SET email = 'dead@nowhere' WHERE id = 1")
    iterable.set_faults(
        Fault("answer", status=400, email=USERS[1], body='{"code":"BadParams","msg":"see: Sarah"}'),
        Fault("gateway", status=503, endpoint="events/track", times=1),
    )
    done = job()
    logged = done.stdout + done.stderr + job.log
    assert "from users/update: status 400, code InvalidEmailAddressError" in job.log
    assert "5xx server error from events/track: status 503, code none" in job.log
    assert not [each for each in ("see: ", '"msg"', "Invalid email") if each in logged]
    everything = logged + json.dumps(job.results)
    assert API_KEY not in everything
    assert job.environ["DB_PASSWORD"] not in everything


def test_what_a_run_writes_or_finds_is_its_owners_alone(job):
    job()
    written = [path for path in job.folder.rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in written) == [".json", ".log", ".sqlite3"]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    folders = {path.parent.stat().st_mode & 0o777 for path in written}
    assert folders == {0o700}
    kept = [path for path in written if path.suffix != ".json"]
    for path in kept:
        path.chmod(0o644)
    assert job().returncode == 0
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


@pytest.mark.parametrize("name", ["RESULTS_DIR", "LOG_FILE", "STATE_FILE"])
def test_a_place_that_cannot_be_written_is_found_before_the_first_request(
    job, iterable, tmp_path, name
):
    (tmp_path / "file").touch()
    done = job(**{name: str(tmp_path / "file" / "below")})
    assert done.returncode == 2
    assert name in done.stderr
    assert iterable.requests == []


@needs_root
def test_root_neither_runs_nor_checks_among_the_files_of_another_user(job, iterable, tmp_path):
    assert job().returncode == 0
    os.chown(tmp_path / "state" / "sync_state.sqlite3", NOBODY, NOBODY)
    before, sent = content_of(tmp_path), len(writes(iterable))
    for mode in ([], ["--check"]):
        done = job(*mode)
        assert done.returncode == 2
        assert f"As {NOBODYS_NAME}: runuser -u {NOBODYS_NAME} -- " in done.stderr
    assert (content_of(tmp_path), len(writes(iterable))) == (before, sent)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_lets_the_row_in_flight_finish(job, iterable, number, status):
    iterable.change(latency_ms=700)
    process = job.start(ITERABLE_WORKERS="1")
    wait_until(lambda: writes(iterable), 20)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == status
    assert sorted(job.outcomes.values()) == ["not_attempted", "not_attempted", "successful"]
    assert len(iterable.events) == 1


def test_a_signal_during_the_read_ends_the_run(job, tmp_path, iterable, database):
    if "seekdb" in database.version:
        pytest.skip("this server keeps a socket busy")
    marker, server = secrets.token_hex(8), database.server.connection_options()
    (tmp_path / "slow.sql").write_text(f"SELECT SLEEP(30) AS `{marker}`")
    process = job.start(QUERY_FILE=str(tmp_path / "slow.sql"))
    wait_until(lambda: running(server, marker), 20.0)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert (job.results["summary"]["total"], iterable.requests) == (0, [])


def test_a_bug_keeps_its_traceback_and_the_results_so_far(job, monkeypatch):
    def broken(self, rows):
        if rows[0].email == USERS[1]:
            raise ZeroDivisionError
        process_rows(self, rows)

    process_rows = iterable_client.IterableClient.process_rows
    monkeypatch.setattr(iterable_client.IterableClient, "process_rows", broken)
    assert job(ITERABLE_WORKERS="1").returncode == 70
    assert "ZeroDivisionError" in job.log
    rows = sorted(job.results["results"], key=lambda row: row["customer_id"])
    assert [row["outcome"] for row in rows] == ["successful", "total_failure", "not_attempted"]
    assert rows[1]["users_update"]["status"] == "unknown"


def test_an_interrupt_outside_of_a_run_is_no_bug(job, monkeypatch):
    monkeypatch.setattr("configuration.check.check", mock.Mock(side_effect=KeyboardInterrupt))
    done = job("--check")
    assert (done.returncode, done.stderr) == (130, "ERROR: Interrupted before anything was sent\n")


def test_the_demo_needs_nothing_and_leaves_only_its_results(tmp_path):
    program = copy_program(tmp_path / "copy", "sandbox")
    (tmp_path / "temp").mkdir()
    done = Job({"TMPDIR": str(tmp_path / "temp")}, tmp_path, program)("--demo")
    if "no database server" in done.stderr:
        pytest.skip("no database server on this machine")
    assert (done.returncode, done.stderr) == (0, "")
    assert [email in done.stdout for email in USERS] == [True] * 3
    assert ".env.example" in done.stdout.splitlines()[-1]
    (results,) = (tmp_path / "copy").glob("*.json")
    document = json.loads(results.read_text())
    # They are no job's: its ledger is gone.
    assert (document["summary"]["successful"], document["run"]["job"]) == (3, "")
    assert "column endpoint field type" in " ".join(done.stdout.split())
    assert list((tmp_path / "temp").iterdir()) == []
    assert not list((tmp_path / "copy").glob("*.log"))


# --- Advice fits its case


def test_a_dry_run_with_a_bad_row_says_what_to_fix_before_anything_is_sent(job, database):
    database.execute("UPDATE customers SET email = 'a b@email.com' WHERE id = 5")
    done = job("--dry-run")
    assert done.returncode == 1
    assert "Would be sent: 2. This was a dry run" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("WARNING: 1 of 3 rows cannot be sent, the first is customer 5: ")
    assert last.endswith(".json for what to fix in each row, before you send anything")


@both_modes
def test_a_short_run_without_dns_names_dns_and_no_row(job, mode):
    url = "https://no-such-host.invalid"
    done = job(*mode, ITERABLE_API_BASE_URL=url, ITERABLE_MAX_ATTEMPTS="1")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"WARNING: {url}: DNS ")
    assert "check " in lines[0]
    assert lines[-1].startswith("WARNING: 3 of 3 rows were not delivered, the first is ")
    assert "DNS " in lines[-1]
    assert lines[-1].endswith("No row needs fixing: run again once the cause is resolved")


# --- Which Python


def run_with(*options):
    """Run main.py with *options* for Python and for itself."""
    command = [sys.executable, *options]
    return subprocess.run(command, capture_output=True, text=True, env=BARE, check=False)


def test_an_old_python_can_read_that_it_is_too_old():
    ast.parse((HERE / "main.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    code = f"""if True:
        import runpy, sys
        sys.version_info = (3, 8, 10, "final", 0)
        runpy.run_path({str(HERE / "main.py")!r}, run_name="__main__")
    """
    done = run_with("-c", code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("main.py: the job needs Python 3.11 or newer, but this is 3.")


@pytest.mark.parametrize(("option", "mode"), [("-I", []), ("-P", []), ("-B", ["--quiet"])])
def test_without_settings_one_line_says_what_is_missing_and_how_to_try(tmp_path, option, mode):
    """Also where Python leaves out the program's folder."""
    done = run_with(option, copy_program(tmp_path / "copy"), *mode)
    assert done.returncode == 2
    assert (done.stdout == "") is bool(mode)
    (line,) = done.stderr.splitlines()
    assert "DB_HOST is missing" in line
    assert "--demo" in line


@pytest.mark.parametrize("mode", [[], ["--check"], ["--demo"], ["--report"]], ids=str)
def test_packages_that_are_missing_are_told_in_one_line(tmp_path, mode):
    program = copy_program(tmp_path / "copy", "sandbox")
    done = run_with("-S", program, *mode)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ERROR: No module named ")
    assert line.endswith(f"{sys.executable} -m pip install -r requirements.txt")
    assert not list(tmp_path.rglob("*.json"))
    assert run_with("-S", program, "--help").returncode == 0


@pytest.mark.parametrize(
    ("args", "status", "shown"),
    [
        (["--version"], 0, command_line.VERSION),
        (["--help"], 0, "--env-file PATH"),
        (["--no-such-flag"], 2, "unrecognized arguments"),
        (["--check", "--report"], 2, "argument --report: not allowed with argument --check"),
        (["--dry-run", "--check"], 2, "argument --check: not allowed with argument --dry-run"),
        (["--limit", "0"], 2, "argument --limit: must be a whole number, 1 or more"),
    ],
)
def test_the_command_line(tmp_path, args, status, shown):
    done = Job({}, tmp_path).alone(*args)
    assert done.returncode == status
    assert shown in done.stdout + done.stderr
