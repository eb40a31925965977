"""--check takes a run's own steps, tells at once all that is wrong, and sends and makes nothing."""

import fcntl
import os
import sys

import pytest

from configuration.check import FIRST_ROWS, check
from configuration.steps import run_notes
from configuration.wiring import open_ledger
from iterable_api.payloads import JOB_MAPPING
from iterable_client import IterableClient
from logger_config import setup_logger
from records.exit_statuses import ExitStatus, RunError
from records.outcomes import CallOutcome, CallStatus
from records.run import RunOptions, RunRecord
from sandbox.faults import Fault
from tests.configuration.conftest import settings_of
from tests.results import save
from tests.rows import make_prepared, settled
from tests.test_main import API_KEY, Job, content_of
from tests.test_main import job as job  # noqa: PLC0414 - a fixture
from tests.users import NOBODY, as_nobody, needs_root, open_folder

COLUMNS = {
    **dict.fromkeys(("customer_id", "page_view_id"), "c.id"),
    "email": "c.email",
    "event_time": "CAST('2026-01-13 14:30:45' AS DATETIME)",
    **dict.fromkeys(("first_name", "plan_type", "page", "browser", "location"), "NULL"),
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
            sys.stderr.write(str(error))
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
    told = ["The settings", "STATE_FILE", "LOG_FILE", "RESULTS_DIR", "", "Query 2: 3 of the first"]
    good = [line.removeprefix("✓ ") for line in lines if line.startswith("✓ ")]
    pairs = zip(good, [*told, f"{iterable.url} accepts the API key"], strict=True)
    assert all(line.startswith(start) for line, start in pairs), good
    assert ["first_name", "users/update", "first_name", "string"] in map(str.split, lines)
    assert lines[-1] == "Ready for a run"
    assert not list(tmp_path.iterdir())
    (request,) = iterable.requests
    assert (request.method, request.path) == ("GET", "/api/users/getFields")


@pytest.mark.program
def test_the_demo_can_be_checked_without_settings(tmp_path):
    done = Job({}, tmp_path)("--check", "--demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nReady for a run\n")


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
    assert lines[-1].startswith("Not ready for a run. 4 checks failed, the first: STATE_FILE /proc")
    # A run goes on without its metrics.
    (warning,) = warnings_in(lines)
    assert warning.startswith("METRICS_FILE ")


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
        f"LOG_FILE {path} cannot be rotated and keeps growing: make its folder writable"
    ]


def test_a_log_that_another_job_has_locked_is_not_called_good(checked, tmp_path):
    path = tmp_path / "shared.log"
    with path.open("w") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        status, lines = checked(LOG_FILE=str(path))
    assert status is ExitStatus.BUSY
    assert failures_in(lines)[0].startswith(f"Another job is writing to LOG_FILE {path}")
    assert not any(line.startswith("✓ LOG_FILE") for line in lines)
    assert path.read_text() == ""


def test_a_run_under_way_is_told_once_and_is_not_disturbed(checked, environ):
    settings = settings_of(environ)
    settings.log_file.parent.mkdir()
    settings.log_file.touch()
    with open_ledger(settings):
        before = content_of(settings.state_file.parent)
        status, lines = checked()
        assert content_of(settings.state_file.parent) == before
    assert status is ExitStatus.BUSY
    told = [line.partition(":")[0] for line in failures_in(lines)]
    assert told == ["Another run is in progress", "cannot connect"]
    # The run in progress holds the log, too.
    assert not any(line.startswith("✓ LOG_FILE") for line in lines)


def test_entries_that_no_longer_count_are_told_and_no_file_is_changed(checked, environ, tmp_path):
    settings = settings_of(environ)
    settings.log_file.parent.mkdir()
    settings.log_file.write_text("older lines\n")
    settings.log_file.chmod(0o600)
    done = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
    with open_ledger(settings) as ledger:
        ledger.begin_run(run_notes(settings, JOB_MAPPING))
        ledger.record([settled(make_prepared(), done, done)], sure=True)
    before = content_of(tmp_path)
    _, lines = checked(SOURCE_NAME="another")
    (warning,) = warnings_in(lines)
    assert warning.startswith("STATE_FILE: outdated entries: up to 2. Changed ")
    assert [line.startswith("cannot connect") for line in failures_in(lines)] == [True]
    assert content_of(tmp_path) == before


def test_exposed_secrets_and_another_jobs_results_are_warnings(checked, tmp_path):
    env_file = tmp_path / "env"
    env_file.touch()
    env_file.chmod(0o644)
    (tmp_path / "results").mkdir()
    save(tmp_path / "results", job="orders.sqlite3")
    exposed, mixed = warnings_in(checked(env_file=env_file)[1])
    assert exposed.startswith(f"Other users can read {env_file}, which holds secrets")
    assert "also holds results of another job (STATE_FILE orders.sqlite3)" in mixed


# --- Query 2


def test_a_query_that_is_not_there_and_a_server_that_is_not_are_told_both(checked):
    status, lines = checked("DO 1")
    assert status is ExitStatus.DATABASE
    query, server = failures_in(lines)
    assert "must begin with SELECT" in query
    assert "cannot connect" in server


@pytest.mark.database
def test_only_the_first_hundred_rows_are_read(checked, database):
    endless = query_of().replace(" ORDER BY c.id", ", page_views a, page_views b, page_views d")
    bounds = {"MIN_ROWS": "2000", "MAX_ROWS": "1000000"}
    status, lines = checked(endless, **bounds, **database.settings)
    assert (status, failures_in(lines)) == (ExitStatus.OK, [])
    assert f"✓ Query 2: {FIRST_ROWS} of the first {FIRST_ROWS} rows can be sent" in lines


@pytest.mark.database
@pytest.mark.parametrize(
    ("query", "bounds", "told"),
    [
        ("SELECT 1 AS customer_id, 2 AS mail", {}, "Query 2 must return email, first_name, "),
        (None, {"MIN_ROWS": "4"}, "Query 2 returned fewer rows (3) than MIN_ROWS (4); nothing"),
        (None, {"MAX_ROWS": "2"}, "Query 2 returned more rows (3) than MAX_ROWS (2); nothing"),
    ],
)
def test_columns_and_a_number_of_rows_that_cannot_be_are_told(
    checked, database, query, bounds, told
):
    status, lines = checked(query, **bounds, **database.settings)
    (failure,) = failures_in(lines)
    assert (status, failure.startswith(told)) == (ExitStatus.DATABASE, True)


@pytest.mark.database
def test_the_whole_mapping_is_shown_and_what_may_not_be_meant(checked, database):
    # A zone in which the clock shows two hours less, and a column without a prefix.
    query = query_of(", 7 AS `user.visits`, 8 AS x", event_time="NOW() + INTERVAL 2 HOUR")
    status, lines = checked(query, **database.settings)
    assert status is ExitStatus.OK
    assert ["user.visits", "users/update", "visits", "long"] in map(str.split, lines)
    unused, zone = warnings_in(lines)
    assert unused.startswith("Query 2: the column x is not sent")
    assert zone.startswith("DB_TIME_ZONE: 15 event_times are in the future in +00:00, so this is")


@pytest.mark.database
@pytest.mark.parametrize("tolerated", [0, 2])
def test_rows_that_would_be_refused_are_named(checked, database, tolerated):
    query = query_of(email="IF(c.id > 2, c.email, '')")
    status, lines = checked(query, MAX_REFUSED_ROWS=str(tolerated), **database.settings)
    assert warnings_in(lines) == [
        f"Query 2: the row of customer {number} would be refused: email is empty"
        for number in (1, 2)
    ]
    assert status is (ExitStatus.OK if tolerated else ExitStatus.NOT_ALL_DELIVERED)
    told = "Query 2: 13 of the first 15 rows can be sent, and MAX_REFUSED_ROWS is 0"
    assert failures_in(lines) == ([] if tolerated else [told])


# --- Iterable


@pytest.mark.parametrize(
    ("fault", "failures", "told"),
    [
        (Fault("unauthorized", variant="code_success"), 2, "Iterable refused the API key. Check"),
        (Fault("unauthorized", variant="bad_jwt"), 2, "use a server-side key without JWT"),
        (Fault("redirect"), 2, "redirected, not followed; check ITERABLE_API_BASE_URL"),
        (Fault("garbage"), 2, "answered 200, but not by Iterable"),
        # A run may work without the fields.
        (Fault("rate_limited"), 1, " does not list the project's fields right now (rate"),
        (Fault("answer", body='{"msg":"","code":"Success","params":null}'), 1, ": answered 200; "),
    ],
)
def test_an_iterable_that_does_not_list_its_fields_is_told(
    checked, iterable, fault, failures, told
):
    iterable.set_faults(fault)
    _, lines = checked()
    project = [*failures_in(lines), *warnings_in(lines)]
    assert (len(failures_in(lines)), len(project)) == (failures, 2)
    assert told in project[1]


def test_fields_of_another_type_are_told_with_what_to_write_in_query_2(checked, iterable):
    with IterableClient(API_KEY, iterable.url) as client:
        client.update_user("ann@example.com", {"first_name": 7, "candidate": True, "age": 3})
    _, lines = checked()
    _, own, constant = failures_in(lines)
    assert "first_name has the type long in the project, and the job sends a string: " in own
    assert "candidate has the type boolean in the project, and the job sends a st" in constant
