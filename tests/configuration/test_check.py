"""--check takes a run's own steps, tells at once all that is wrong, and sends and makes nothing."""

import errno
import fcntl
import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import trustme

from configuration.check import FIRST_ROWS, check
from configuration.command_line import parse_args
from configuration.env_file import SettingsError
from configuration.lost_entries import run_notes
from configuration.settings import HERE
from configuration.wiring import open_ledger
from iterable_api.payloads import JOB_MAPPING
from logger_config import setup_logger
from records.exit_statuses import ExitStatus, RunError
from records.outcomes import CallOutcome, CallStatus, outcome_of
from records.run import RunOptions, RunRecord
from sandbox.faults import Fault
from tests import tunnels
from tests.configuration.conftest import LEDGER_HELD, LOG_HELD, settings_of, update_user
from tests.results import delivered, save
from tests.rows import make_prepared
from tests.test_main import API_KEY, BARE, content_of
from tests.test_main import job as job  # noqa: PLC0414 - a fixture
from tests.users import NOBODY, as_nobody, needs_root, open_folder

COLUMNS = {
    "customer_id": "c.id",
    "email": "c.email",
    "first_name": "NULL",
    "plan_type": "NULL",
    "page_view_id": "c.id",
    "page": "NULL",
    "event_time": "CAST('2026-01-13 14:30:45' AS DATETIME)",
    "browser": "NULL",
    "location": "NULL",
}


@pytest.fixture
def checked(environ, tmp_path, capsys):
    """Return what checks a run: its exit status, and the lines that are said."""

    def run_check(query=None, env_file=None, **changes):
        """Check with *changes* of the variables; *query* takes the place of Query 2."""
        if query:
            (tmp_path / "own.sql").write_text(query)
            changes["QUERY_FILE"] = str(tmp_path / "own.sql")
        setup_logger()
        capsys.readouterr()
        try:
            status = check(env_file, environ | changes, RunRecord(RunOptions(), "1.0.0"))
        except RunError as error:
            status = error.status
        out, err = capsys.readouterr()
        return status, (out + err).splitlines()

    return run_check


def failures_in(lines):
    return [line.removeprefix("ERROR: ✗ ") for line in lines if line.startswith("ERROR: ✗ ")]


def warnings_in(lines):
    return [line.removeprefix("WARNING: ") for line in lines if line.startswith("WARNING: ")]


def query_of(more="", **columns):
    """Return a Query 2 over all customers; *columns* replace what is selected."""
    selected = ", ".join(f"{value} AS {name}" for name, value in (COLUMNS | columns).items())
    return f"SELECT {selected}{more} FROM customers AS c ORDER BY c.id"


# --- As a whole


@pytest.mark.database
@pytest.mark.program
def test_a_run_that_would_work_is_told_step_by_step_and_nothing_is_made_or_sent(
    job, iterable, tmp_path
):
    done = job("--check")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    told = [
        "The settings",
        "STATE_FILE",
        "LOG_FILE",
        "RESULTS_DIR",
        "",
        "Query 2: 3 of the first 3",
    ]
    good = [line.removeprefix("✓ ") for line in lines if line.startswith("✓ ")]
    pairs = zip(good, [*told, f"{iterable.url} accepts the API key"], strict=True)
    assert all(line.startswith(start) for line, start in pairs), good
    assert ["first_name", "users/update", "first_name", "string"] in map(str.split, lines)
    assert lines[-1] == "Ready for a run"
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
    told = [
        "✗ RESULTS_DIR /proc/results cannot be written",
        "✗ cannot connect: check DB_USER and DB_PASSWORD",
        "✗ Iterable refused the API key. Check ITERABLE_API_KEY",
        "Not ready for a run. 3 checks failed, the first: RESULTS_DIR /proc/results cannot",
    ]
    pairs = zip(lines, told, strict=True)
    assert all(line.startswith(f"ERROR: {start}") for line, start in pairs), lines
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


def test_settings_that_cannot_be_used_end_a_check_as_they_end_a_run(environ):
    with pytest.raises(SettingsError, match=r"DB_PORT must be .*; LOG_LEVEL must be"):
        check(None, environ | {"DB_PORT": "x", "LOG_LEVEL": "x"}, RunRecord(RunOptions(), "1"))


@pytest.mark.parametrize("other", ["--dry-run", "--report"])
def test_check_is_not_for_a_command_line_that_asks_for_something_else(other, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--check", other])
    assert "not allowed with argument --check" in capsys.readouterr().err


# --- Files


def test_files_that_cannot_be_written_are_named_each(checked, tmp_path):
    (tmp_path / "file").touch()
    status, lines = checked(
        RESULTS_DIR=str(tmp_path / "file" / "results"),
        LOG_FILE=str(tmp_path),
        STATE_FILE="/proc/ledger.sqlite3",
        METRICS_FILE=str(tmp_path / "missing" / "job.prom"),
    )
    assert status is ExitStatus.USAGE
    told = [line.split()[0] for line in failures_in(lines) if "cannot be written: " in line]
    assert told == ["STATE_FILE", "LOG_FILE", "RESULTS_DIR"]
    # A run goes on without its metrics.
    (warning,) = warnings_in(lines)
    assert warning.startswith("METRICS_FILE ")


def test_files_that_are_there_stay_as_they_are(checked, environ, tmp_path):
    for name in ("results", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "logs" / "job.log").write_text("older lines\n")
    (tmp_path / "logs" / "job.log").chmod(0o600)
    open_ledger(settings_of(environ)).close()
    before = content_of(tmp_path)
    _, lines = checked()
    assert [line.startswith("cannot connect") for line in failures_in(lines)] == [True]
    assert content_of(tmp_path) == before


def test_a_file_system_without_locks_is_told_before_there_is_a_state_file(
    checked, environ, monkeypatch
):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    status, lines = checked()
    path = settings_of(environ).state_file
    assert status is ExitStatus.USAGE
    assert failures_in(lines)[0].startswith(f"STATE_FILE {path} cannot be locked: No locks avail")
    assert not any(line.startswith("✓ STATE_FILE") for line in lines)


@needs_root
def test_a_log_that_cannot_be_rotated_is_a_warning(checked):
    with open_folder() as folder:
        path = folder / "job.log"
        path.touch(mode=0o600)
        os.chown(path, NOBODY, NOBODY)
        with as_nobody():
            _, lines = checked(LOG_FILE=str(path))
    assert f"✓ LOG_FILE {path} can be written" in lines
    assert warnings_in(lines) == [
        f"LOG_FILE {path} cannot be rotated (Permission denied): it grows until its folder may be "
        "written"
    ]


def test_a_log_that_another_job_has_locked_is_not_called_good(checked, tmp_path, held):
    path = tmp_path / "shared.log"
    held(LOG_HELD, path)
    status, lines = checked(LOG_FILE=str(path))
    assert status is ExitStatus.BUSY
    assert failures_in(lines)[0].startswith(f"LOG_FILE {path} is being written by another job")
    assert not any(line.startswith("✓ LOG_FILE") for line in lines)
    assert len(path.read_text().splitlines()) == 1


def test_a_run_under_way_is_told_once_and_is_not_disturbed(checked, environ, held):
    settings = settings_of(environ)
    settings.log_file.parent.mkdir()
    held(LEDGER_HELD, settings.state_file)
    held(LOG_HELD, settings.log_file)
    before = content_of(settings.state_file.parent)
    status, lines = checked()
    assert status is ExitStatus.BUSY
    assert [line.partition(":")[0] for line in failures_in(lines)] == [
        "Another run is under way",
        "cannot connect",
    ]
    assert not any(line.startswith("✓ LOG_FILE") for line in lines)
    assert content_of(settings.state_file.parent) == before


def test_a_state_file_that_is_no_ledger_is_told_in_the_runs_words(checked, environ):
    path = settings_of(environ).state_file
    path.parent.mkdir()
    path.write_text("no database at all, but long enough" * 50)
    status, lines = checked()
    assert status is ExitStatus.USAGE
    first, *rest = failures_in(lines)
    assert first.startswith(f"STATE_FILE {path} cannot be used (file is not a database)")
    assert not any("STATE_FILE" in line for line in rest)


def test_entries_that_no_longer_count_are_told_and_nothing_is_noted(checked, environ):
    settings = settings_of(environ)
    done = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
    with open_ledger(settings) as ledger:
        ledger.begin_run(run_notes(settings, JOB_MAPPING))
        ledger.record([outcome_of(make_prepared(), done, done)], sure=True)
    for _ in range(2):
        _, lines = checked(SOURCE_NAME="another")
        (warning,) = warnings_in(lines)
        assert warning.startswith("STATE_FILE: 1 entry no longer counts: changed since the last")
    with open_ledger(settings) as ledger:
        assert (ledger.count(), ledger.noted("SOURCE_NAME")) == (2, settings.source)


def test_an_absent_ledger_beside_results_of_deliveries_is_told(checked, environ):
    settings = settings_of(environ)
    settings.results_dir.mkdir()
    save(settings.results_dir, rows=delivered(2), job=settings.job)
    _, lines = checked()
    (warning,) = warnings_in(lines)
    assert "is empty, but results in" in warning


def test_secrets_that_others_may_read_and_another_jobs_results_are_warnings(
    checked, environ, tmp_path
):
    env_file = tmp_path / "env"
    env_file.write_text("")
    env_file.chmod(0o644)
    (tmp_path / "results").mkdir()
    save(tmp_path / "results", job="orders.sqlite3")
    _, lines = checked(env_file=env_file)
    exposed, mixed = warnings_in(lines)
    assert exposed == f"{env_file} holds secrets and others may read it: chmod 600 it"
    assert "results of another job too, that of STATE_FILE orders.sqlite3" in mixed
    assert env_file.stat().st_mode & 0o777 == 0o644


# --- Query 2


@pytest.mark.database
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT 1 AS customer_id, 2 AS mail", "must return email, first_name"),
        ("SELECT * FROM no_such_table", "a table is missing"),
        ("SELECT ? AS customer_id", "check the query's syntax"),
        ("DELETE FROM customers", "must begin with SELECT or WITH"),
    ],
)
def test_a_query_that_fails_is_told_as_a_run_tells_it(checked, database, query, told):
    status, lines = checked(query, **database.settings)
    assert status is ExitStatus.DATABASE
    (failure,) = failures_in(lines)
    assert told in failure


def test_a_query_that_is_not_there_and_a_server_that_is_not_are_told_both(checked):
    status, lines = checked("SELECT 1; SELECT 2")
    assert status is ExitStatus.DATABASE
    query, server = failures_in(lines)
    assert "must be one statement" in query
    assert "cannot connect" in server


@pytest.mark.database
def test_query_2_runs_within_its_time_limit(checked, database):
    if database.server.kind == "seekdb":
        pytest.skip("this server does not enforce max_execution_time")
    views = ", ".join(f"page_views AS v{number}" for number in range(8))
    slow = query_of(page=f"(SELECT SUM(v0.id + v7.id) FROM {views})")
    status, lines = checked(slow, DB_QUERY_TIMEOUT_SECONDS="1", **database.settings)
    assert status is ExitStatus.DATABASE
    assert "the query ran longer than DB_QUERY_TIMEOUT_SECONDS" in failures_in(lines)[0]


@pytest.mark.database
def test_only_the_first_hundred_rows_are_read(checked, database):
    endless = query_of().replace(" ORDER BY c.id", ", page_views a, page_views b, page_views d")
    bounds = {"MIN_ROWS": "2000", "MAX_ROWS": "1000000"}
    status, lines = checked(endless, **bounds, **database.settings)
    assert (status, failures_in(lines)) == (ExitStatus.OK, [])
    assert f"✓ Query 2: {FIRST_ROWS} of the first {FIRST_ROWS} rows can be sent" in lines


@pytest.mark.database
@pytest.mark.parametrize(("bound", "value"), [("MIN_ROWS", "4"), ("MAX_ROWS", "2")])
def test_a_number_of_rows_that_cannot_be_is_told(checked, database, bound, value):
    status, lines = checked(**{bound: value}, **database.settings)
    assert status is ExitStatus.DATABASE
    assert failures_in(lines) == [
        f"Query 2 found 3 rows and {bound} is {value}; nothing was sent",
    ]


@pytest.mark.database
def test_the_whole_mapping_is_shown_and_what_is_not_sent(checked, database):
    status, lines = checked(query_of(", 7 AS `user.visits`, 8 AS x"), **database.settings)
    assert status is ExitStatus.OK
    assert ["user.visits", "users/update", "visits", "long"] in map(str.split, lines)
    (warning,) = warnings_in(lines)
    assert warning.startswith("Query 2: the column x is not sent")


@pytest.mark.database
def test_a_column_that_cannot_be_sent_is_told(checked, database):
    status, lines = checked(query_of(", CAST(1 AS BINARY) AS `user.x`"), **database.settings)
    assert status is ExitStatus.USAGE
    assert "user.x holds bytes: use BIN_TO_UUID() in Query 2" in failures_in(lines)[0]


@pytest.mark.database
@pytest.mark.parametrize("tolerated", [0, 2])
def test_rows_that_would_be_refused_are_named(checked, database, tolerated):
    query = query_of(email="IF(c.id > 2, c.email, '')")
    status, lines = checked(query, MAX_REFUSED_ROWS=str(tolerated), **database.settings)
    count = database.execute("SELECT COUNT(*) FROM customers")[0][0]
    assert warnings_in(lines) == [
        f"Query 2: the row of customer {number} would be refused: email is empty"
        for number in (1, 2)
    ]
    text = f"Query 2: {count - 2} of the first {count} rows can be sent"
    if tolerated:
        assert (status, failures_in(lines)) == (ExitStatus.OK, [])
    else:
        assert status is ExitStatus.NOT_ALL_DELIVERED
        assert failures_in(lines) == [f"{text}, and MAX_REFUSED_ROWS is 0"]


@pytest.mark.database
def test_a_zone_that_is_not_that_of_the_data_is_told(checked, database):
    database.execute("UPDATE page_views SET event_time = NOW()")
    # A zone in which the clock shows two hours less.
    _, lines = checked(query_of(event_time="NOW() + INTERVAL 2 HOUR"), **database.settings)
    (warning,) = warnings_in(lines)
    assert warning.startswith("DB_TIME_ZONE: ")
    assert "ahead of now in +00:00, so this seems not to be the zone of the data" in warning


# --- Iterable


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault("unauthorized", variant="code_success"), "Iterable refused the API key. Check"),
        (Fault("unauthorized", variant="bad_jwt"), "use a server-side key without JWT"),
        (Fault("redirect"), "redirected, not followed; check ITERABLE_API_BASE_URL"),
        (Fault("gateway", status=503), "answered 503"),
        (Fault("garbage"), "answered 200, but not by Iterable"),
        (Fault("hang"), "no answer within 0.3 s; check the proxy or firewall"),
    ],
)
def test_an_iterable_that_does_not_answer_as_it_should_is_told(checked, iterable, fault, told):
    iterable.set_faults(fault)
    _, lines = checked(ITERABLE_TIMEOUT_SECONDS="0.3")
    server, project = failures_in(lines)
    assert server.startswith("cannot connect")
    assert told in project


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault("rate_limited"), " is too busy to tell the project's fields; try again later"),
        (Fault("answer", body='{"msg":"","code":"Success","params":null}'), ": answered 200; "),
    ],
)
def test_a_project_that_does_not_tell_its_fields_is_a_warning(checked, iterable, fault, told):
    """A run may work without."""
    iterable.set_faults(fault)
    _, lines = checked()
    (warning,) = warnings_in(lines)
    assert warning.startswith(f"{iterable.url}{told}")


def test_fields_of_another_type_are_told_with_what_to_write_in_query_2(checked, iterable):
    update_user(iterable, {"first_name": 7, "candidate": True, "plan_type": "pro", "age": 3})
    _, lines = checked()
    _, own, constant = failures_in(lines)
    assert "has the profile field first_name as long and the job sends a string: Iterable" in own
    assert "write NULL AS `user.first_name` and send it as `user.<another name>`, or if" in own
    assert "has the profile field candidate as boolean and the job sends a string" in constant


def test_the_way_by_a_proxy_and_a_private_authority_is_taken(checked, iterable, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = urlsplit(iterable.url).port
    with tunnels.with_tls(port, authority) as url, tunnels.proxy() as proxy:
        way = {
            "ITERABLE_API_BASE_URL": url,
            "ITERABLE_CA_FILE": str(tmp_path / "ca.pem"),
            "ITERABLE_PROXY": proxy.url.replace("//", "//me:sEcReT@"),
        }
        _, lines = checked(**way)
        assert any(line.startswith(f"✓ {url} accepts the API key") for line in lines)
        assert API_KEY.encode() not in b"".join(proxy.heads + proxy.relayed)
        proxy.answer = b"HTTP/1.1 407 sEcReT\r\n\r\n"
        told = failures_in(checked(**way)[1])[-1]
        assert "the proxy answered 407; check ITERABLE_PROXY, its user and password" in told
        assert "sEcReT" not in told
        told = failures_in(checked(**way | {"ITERABLE_CA_FILE": "", "ITERABLE_PROXY": ""})[1])[-1]
        assert "ITERABLE_CA_FILE must name its CA" in told
