"""The program as its user runs it: a process of its own, a real database, the local Iterable."""

import ast
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from datetime import UTC
from pathlib import Path

import pytest
import requests

import iterable_client
import main
from configuration import command_line
from iterable_api.payloads import Payloads
from sandbox.faults import Fault
from tests import schema
from tests.rows import PROFILE_FIELDS, bodies_of
from tests.test_db_connection import endless, running, wait_until
from tests.users import NOBODY, NOBODYS_NAME, needs_root

pytestmark = pytest.mark.program

HERE = Path(main.__file__).parent
API_KEY = "0123456789abcdef0123456789abcdef"
USERS = ["sarah.johnson@email.com", "olivia.brown@email.com", "mia.harris@email.com"]
# A bare environment, as cron's.
BARE = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}


class Job:
    """Runs main.py in its own process and shows what it left behind."""

    def __init__(self, environ, folder, program=HERE / "main.py"):
        self.environ = environ
        self.folder = folder
        self.program = program

    def start(self, *args, before=None, **environ):
        return subprocess.Popen(
            [sys.executable, self.program, *args],
            cwd=self.folder,
            env=BARE | self.environ | environ,
            preexec_fn=before,  # noqa: PLW1509 - no other thread is about to fork
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, *args, **environ):
        process = self.start(*args, **environ)
        out, err = process.communicate(timeout=50)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    @property
    def results(self):
        (path,) = self.folder.glob("results/integration_results_*.json")
        document = json.loads(path.read_text())
        schema.validate(document)
        rows = document["results"]
        counts = document["summary"]
        outcomes = (
            "successful",
            "partial_failures",
            "total_failures",
            "unchanged",
            "forgotten",
            "not_attempted",
            "planned",
        )
        assert counts["total"] == len(rows) == sum(counts[name] for name in outcomes)
        return document

    @property
    def log(self):
        return (self.folder / "logs" / "job.log").read_text()


@pytest.fixture
def job(database, iterable, tmp_path):
    iterable.change(api_key=API_KEY)
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


# What a run needs besides the files at the top.
PACKAGES = ("configuration", "delivery", "iterable_api", "monitoring", "records")


def copy_program(folder):
    """Copy the job, without its tests, sandbox and settings."""
    folder.mkdir()
    for path in [*HERE.glob("*.py"), *HERE.glob("*.sql")]:
        shutil.copy(path, folder)
    for package in PACKAGES:
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


# An answer with which Iterable refuses one call for good.
REFUSED = json.dumps({"code": "BadParams", "msg": "no", "params": None})


def add_pro_users(database, count):
    database.execute(
        "INSERT INTO customers (id, email, first_name, plan_type) VALUES "
        + ", ".join(f"({n}, 'user{n}@example.com', 'U{n}', 'pro')" for n in range(100, 100 + count))
    )
    database.execute(
        "INSERT INTO page_views (user_id, page, event_time) "
        "SELECT id, 'pricing', NOW() - INTERVAL 4 DAY FROM customers WHERE id >= 100"
    )


@pytest.mark.database
def test_the_three_users_are_delivered_exactly_as_specified(job, database, iterable):
    done = job()
    assert (done.returncode, done.stderr) == (0, "")
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


@pytest.mark.database
def test_the_console_tells_the_run_step_by_step(job):
    lines = job().stdout.splitlines()
    expected = [
        "Starting Iterable Integration - Phase 3",
        "[STEP 1] Loading environment variables...",
        "[STEP 2]",
        "[STEP 3]",
        "Found 3 pro user(s) with recent engagement",
        "[STEP 4]",
        "[STEP 5]",
        "Processing record 1/3",
        "✓ Successfully processed user: sarah.johnson@email.com",
        "Processing record 2/3",
        "✓ Successfully processed user: olivia.brown@email.com",
        "Processing record 3/3",
        "✓ Successfully processed user: mia.harris@email.com",
        "[STEP 6]",
        "Results saved to ",
        "=" * 60,
        "INTEGRATION SUMMARY",
        "=" * 60,
        "Total users processed: 3",
        "✓ Successful (both API calls): 3",
        "⚠ Partial failures (one call failed): 0",
        "✗ Total failures (both calls failed): 0",
        "6 requests in 0.",
    ]
    # Rows finish in any order.
    users = [line for line in lines if "✓ Successfully" in line]
    assert sorted(users) == sorted(line for line in expected if "✓ Successfully" in line)
    assert len(lines) == len(expected)
    pairs = zip(lines, expected, strict=True)
    assert all(line.startswith(start) or line in users for line, start in pairs), lines


@pytest.mark.database
def test_a_console_without_unicode_does_not_stop_the_job(job):
    done = job(PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert r"\u2713 Successful (both API calls): 3" in done.stdout


@pytest.mark.database
def test_the_results_file_says_what_happened_to_each_row(job):
    job()
    document = job.results
    assert sorted(row["email"] for row in document["results"]) == sorted(USERS)
    assert document["summary"]["requests"] == 6
    run = document["run"]
    assert (run["exit_status"], run["complete"], run["error"]) == (0, True, None)
    assert re.fullmatch(r"[0-9a-f]{64}", run["query_sha256"])


@pytest.mark.database
def test_running_again_makes_no_second_event(job, iterable):
    assert [job().returncode, job("--all").returncode] == [0, 0]
    assert [event.received for event in iterable.events.values()] == [2, 2, 2]


@pytest.mark.database
def test_the_query_in_the_file_is_the_one_that_runs(job, tmp_path, iterable):
    job.program = copy_program(tmp_path / "copy")
    queries = tmp_path / "copy" / "phase2_queries.sql"
    end = "ORDER BY event_time DESC, page_view_id DESC"
    assert queries.read_text().count(end) == 1
    queries.write_text(queries.read_text().replace(end, f"{end}\nLIMIT 1"))
    assert "Found 1 pro user(s)" in job().stdout
    assert list(iterable.users) == USERS[:1]


@pytest.mark.database
def test_settings_come_from_a_named_file(job, tmp_path):
    env_file = tmp_path / "job.env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in job.environ.items()))
    job.environ = {}
    assert job("--env-file", str(env_file)).returncode == 0
    assert job.results["summary"]["successful"] == 3


def test_without_settings_one_message_says_what_is_missing_and_how_to_try(tmp_path):
    done = Job({}, tmp_path, copy_program(tmp_path / "copy"))()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for name in ("DB_HOST", "DB_USER", "DB_PASSWORD", "DB_NAME", "ITERABLE_API_KEY"):
        assert f"{name} is missing" in line
    assert "--demo" in line


@pytest.mark.database
def test_one_users_failure_does_not_stop_the_others(job, iterable):
    iterable.set_faults(
        Fault("answer", email=USERS[0], endpoint="users/update", status=400, body=REFUSED),
        Fault("answer", email=USERS[1], endpoint="events/track", status=400, body=REFUSED),
    )
    done = job()
    assert done.returncode == 1
    assert {row["email"]: row["outcome"] for row in job.results["results"]} == dict(
        zip(USERS, ["total_failure", "partial_failure", "successful"], strict=True)
    )
    assert "✗ Total failure for user: sarah.johnson@email.com (customer 1)" in done.stderr
    assert "⚠ Partial failure for user: olivia.brown@email.com (customer 5)" in done.stderr
    assert "⚠ Partial failures (one call failed): 1" in done.stdout


@pytest.mark.database
@pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per-user", "bulk"])
def test_a_forgotten_person_is_no_failure_of_the_run(job, iterable, mode):
    iterable.forget(USERS[0])
    done = job(*mode)
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = {row["email"]: row["outcome"] for row in job.results["results"]}
    assert outcomes == dict(zip(USERS, ["forgotten", "successful", "successful"], strict=True))
    assert job.results["summary"]["forgotten"] == 1
    assert "Forgotten at the person's own request, not to be delivered: 1" in done.stdout


@pytest.mark.database
@pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per-user", "bulk"])
def test_fields_that_the_project_leaves_out_are_named(job, iterable, mode, tmp_path):
    job.program = scaled(
        copy_program(tmp_path / "copy"), "delivery/project_fields.py", "PATIENCE_S", 0.0
    )
    iterable.change(create_new_fields=False)
    done = job(*mode)
    assert done.returncode == 0
    names = sorted(PROFILE_FIELDS)
    told = f"The project takes no new fields: Iterable left {', '.join(names)} out of users/update."
    assert f"{told} The rest has arrived." in done.stderr
    assert job.results["summary"]["filtered_fields"]["users_update"] == names


@pytest.mark.database
@pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per-user", "bulk"])
@pytest.mark.parametrize(
    ("status", "body", "told"),
    [(403, '{"code": "Forbidden", "msg": "no"}', "403"), (403, "<html>sign in</html>", "Iterable")],
)
def test_a_run_that_is_turned_away_as_a_whole_stops_early_and_says_why(
    job, iterable, database, mode, status, body, told, tmp_path
):
    add_pro_users(database, 300)
    iterable.set_faults(Fault("answer", status=status, body=body))
    done = job(*mode, ITERABLE_WORKERS="5", ITERABLE_MAX_ATTEMPTS="1", BULK_BATCH_SIZE="50")
    assert done.returncode == 4
    assert told in done.stderr.splitlines()[-1]
    assert len(writes(iterable)) < 60
    assert {row["users_update"]["status"] for row in job.results["results"]} <= {
        "unavailable",
        "not_sent",
    }


@pytest.mark.database
def test_a_refused_key_ends_the_run_before_anything_is_written(job, iterable):
    done = job(ITERABLE_API_KEY="wrong-key-0123")
    assert done.returncode == 4
    assert writes(iterable) == []
    assert {row["outcome"] for row in job.results["results"]} == {"not_attempted"}
    assert job.results["run"]["complete"] is False
    assert "Check ITERABLE_API_KEY" in done.stderr
    assert "Not attempted: 3 of 3 users" in done.stderr


@pytest.mark.database
def test_nobody_to_deliver_is_no_failure(job, database, iterable):
    database.execute("UPDATE customers SET plan_type = 'free'")
    done = job()
    assert done.returncode == 0
    assert "Found 0 pro user(s)" in done.stdout
    assert job.results["summary"]["total"] == len(iterable.requests) == 0


@pytest.mark.database
def test_above_fifty_rows_the_records_go_to_the_log_file_only(job, database):
    add_pro_users(database, 48)
    done = job()
    assert done.returncode == 0
    assert "Processing record" not in done.stdout
    assert "Total users processed: 51" in done.stdout
    assert job.log.count("✓ Successfully processed user") == 51


@pytest.mark.database
def test_a_database_that_fails_ends_the_run_before_anything_is_sent(job, iterable):
    done = job(DB_PASSWORD="wrong-password")
    assert done.returncode == 3
    assert "Nothing was sent: cannot connect: check DB_USER and DB_PASSWORD" in done.stderr
    assert iterable.requests == []
    run = job.results["run"]
    assert (run["exit_status"], run["complete"]) == (3, False)
    assert "check DB_USER" in run["error"]


@pytest.mark.database
def test_secrets_and_api_messages_are_in_no_log_and_no_result(job, iterable):
    iterable.set_faults(
        Fault("answer", status=400, body='{"code":"BadParams","msg":"offending: Sarah"}', times=1),
        Fault("server_error", times=1),
    )
    done = job()
    everything = done.stdout + done.stderr + job.log
    assert "offending" not in everything
    everything += json.dumps(job.results)
    assert API_KEY not in everything
    assert job.environ["DB_PASSWORD"] not in everything


@pytest.mark.database
def test_what_a_run_writes_is_its_owners_alone(job):
    job()
    written = [path for path in job.folder.rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in written) == [".json", ".log", ".sqlite3"]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}


@pytest.mark.database
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
@pytest.mark.database
def test_root_is_told_to_run_as_the_user_whose_files_there_are(job, iterable, tmp_path):
    assert job().returncode == 0
    os.chown(tmp_path / "state" / "sync_state.sqlite3", NOBODY, NOBODY)
    before, sent = content_of(tmp_path), len(writes(iterable))
    for mode in ([], ["--check"]):
        done = job(*mode)
        assert done.returncode == 2
        command = [NOBODYS_NAME, "--", sys.executable, str(job.program), *mode]
        assert f"runuser -u {' '.join(command)}\n" in done.stderr
    assert (content_of(tmp_path), len(writes(iterable))) == (before, sent)


@pytest.mark.database
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_lets_the_row_in_flight_finish(job, iterable, number, status):
    iterable.change(latency_ms=200)
    process = job.start(ITERABLE_WORKERS="1")
    for line in process.stdout:
        if "[STEP 5]" in line:
            while not writes(iterable):
                time.sleep(0.01)
            process.send_signal(number)
            break
    process.communicate(timeout=20)
    assert process.returncode == status
    outcomes = [row["outcome"] for row in job.results["results"]]
    assert sorted(outcomes) == ["not_attempted", "not_attempted", "successful"]
    assert len(iterable.events) == 1


@pytest.mark.database
def test_a_signal_during_the_read_ends_the_run(job, tmp_path, iterable, database):
    if "seekdb" in database.version:
        pytest.skip("this server keeps a socket busy")
    job.program = copy_program(tmp_path / "copy")
    marker, server = secrets.token_hex(8), database.server.connection_options()
    query = f"-- Query 2: slow\n-- {marker}\n{endless(marker)};\n"
    (tmp_path / "copy" / "phase2_queries.sql").write_text(query)
    # The query itself is ended by its time limit.
    process = job.start(DB_QUERY_TIMEOUT_SECONDS="10")
    wait_until(lambda: running(server, marker), 20.0)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert (job.results["summary"]["total"], iterable.requests) == (0, [])


@pytest.mark.database
def test_a_bug_keeps_its_traceback_and_the_results_so_far(job, monkeypatch, capsys):
    monkeypatch.setenv("ITERABLE_WORKERS", "1")

    def broken(self, prepared):
        if prepared.email == USERS[1]:
            raise ZeroDivisionError
        return process_prepared(self, prepared)

    process_prepared = iterable_client.IterableClient.process_prepared
    monkeypatch.setattr(iterable_client.IterableClient, "process_prepared", broken)
    for name, value in job.environ.items():
        monkeypatch.setenv(name, value)
    umask = os.umask(0o077)
    try:
        assert main.main(["--env-file", os.devnull]) == 70
    finally:
        os.umask(umask)
    assert "ZeroDivisionError" in job.log
    rows = sorted(job.results["results"], key=lambda row: row["customer_id"])
    assert [row["outcome"] for row in rows] == ["successful", "total_failure", "not_attempted"]
    assert rows[1]["users_update"]["status"] == "unknown"


def test_the_demo_needs_nothing_and_leaves_only_its_results(tmp_path, monkeypatch):
    program = copy_program(tmp_path / "copy")
    shutil.copytree(HERE / "sandbox", tmp_path / "copy" / "sandbox")
    (tmp_path / "temp").mkdir()
    done = Job({"TMPDIR": str(tmp_path / "temp")}, tmp_path, program)("--demo")
    if "no database server" in done.stderr:
        pytest.skip("no database server on this machine")
    assert (done.returncode, done.stderr) == (0, "")
    assert [email in done.stdout for email in USERS] == [True] * 3
    assert ".env.example" in done.stdout.splitlines()[-1]
    (results,) = (tmp_path / "copy").glob("*.json")
    assert json.loads(results.read_text())["summary"]["successful"] == 3
    assert list((tmp_path / "temp").iterdir()) == []
    assert not list((tmp_path / "copy").glob("*.log"))


# --- Advice fits its case


@pytest.mark.database
def test_a_dry_run_with_a_bad_row_says_what_to_fix_before_anything_is_sent(job, database):
    database.execute("UPDATE customers SET email = 'a b@email.com' WHERE id = 5")
    done = job("--dry-run")
    assert done.returncode == 1
    assert "Would be sent: 2. This was a dry run" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("WARNING: 1 of 3 rows cannot be sent. Fix what ")
    assert last.endswith(".json names for each before you send anything")
    quiet = job("--dry-run", "--quiet").stderr
    assert "exit status 1: 1 of 3 rows cannot be sent, the first is customer 5: " in quiet


@pytest.mark.database
@pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per-user", "bulk"])
def test_a_short_run_without_dns_names_dns_and_no_row(job, mode):
    url = "https://no-such-host.invalid"
    done = job(*mode, ITERABLE_API_BASE_URL=url, ITERABLE_MAX_ATTEMPTS="1")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"WARNING: {url}: DNS ")
    assert "check " in lines[0]
    assert lines[-1].startswith("WARNING: 3 of 3 rows were not delivered. No row needs fixing: ")
    assert "DNS " in lines[-1]
    assert lines[-1].endswith("Run again when that is over")


@pytest.mark.database
def test_rows_to_fix_and_rows_to_send_again_are_told_apart(job, database, iterable):
    database.execute("UPDATE customers SET email = 'a b@email.com' WHERE id = 5")
    iterable.set_faults(Fault("server_error", email=USERS[0]))
    done = job(ITERABLE_MAX_ATTEMPTS="1")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("WARNING: 2 of 3 rows were not delivered. ")
    assert last.endswith(".json names what to fix in 1 of them; run again for the others")


@pytest.mark.database
def test_a_field_of_another_type_is_told_with_what_to_change_in_query_2(job, iterable):
    body = b'{"email": "ann@example.com", "dataFields": {"first_name": 7}}'
    headers = {"Api-Key": API_KEY, "Content-Type": "application/json"}
    url = f"{iterable.url}/api/users/update"
    requests.post(url, data=body, headers=headers, timeout=10).raise_for_status()
    done = job()
    assert done.returncode == 1
    assert (
        "WARNING: The project has the profile field first_name as long and the job sends a string: "
        "Iterable refuses every row with it, and cannot change the type of a field. In Query 2, "
        "write NULL AS `user.first_name` and send it as `user.<another name>`"
    ) in done.stderr


@pytest.mark.database
def test_a_run_warns_of_a_zone_that_is_not_that_of_the_data(job, database):
    database.execute("UPDATE page_views SET event_time = NOW() + INTERVAL 2 HOUR")
    query = job.folder / "own.sql"
    text = (HERE / "phase2_queries.sql").read_text()
    query.write_text(text[text.index("-- Query 2:") : text.index("-- Query 3:")])
    done = job(QUERY_FILE=str(query))
    assert done.returncode == 0
    assert "event_times lie ahead of now in +00:00, so this seems not to be the zone" in done.stderr


# --- Which Python


def run_with(*options, **environ):
    """Run main.py with *options* for Python and for itself."""
    command = [sys.executable, *options]
    env = BARE | environ
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_an_old_python_can_read_that_it_is_too_old():
    ast.parse((HERE / "main.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    code = f"""if True:
        import runpy, sys
        sys.version_info = (3, 8, 10, "final", 0)
        runpy.run_path({str(HERE / "main.py")!r}, run_name="__main__")
    """
    done = run_with("-c", code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("main.py: the job needs Python 3.11 or newer, and this is 3.")


def test_the_linter_knows_the_least_python():
    tools = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["ruff"]["target-version"] == "py311"
    assert tools["mypy"]["python_version"] == "3.11"
    assert "| Python | 3.11 |" in (HERE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", ["-I", "-P"])
def test_a_python_that_leaves_out_the_programs_folder_runs_it_all_the_same(tmp_path, option):
    program = copy_program(tmp_path / "copy")
    done = run_with(option, program)
    assert (done.returncode, done.stderr.count("DB_HOST is missing")) == (2, 1)


@pytest.mark.parametrize("mode", [[], ["--check"], ["--demo"], ["--report"]], ids=str)
def test_packages_that_are_missing_are_told_in_one_line(tmp_path, mode):
    program = copy_program(tmp_path / "copy")
    shutil.copytree(HERE / "sandbox", tmp_path / "copy" / "sandbox")
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
    ],
)
def test_the_command_line(tmp_path, args, status, shown):
    done = Job({}, tmp_path)(*args)
    assert done.returncode == status
    assert shown in done.stdout + done.stderr
