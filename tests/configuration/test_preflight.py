"""--check tells at once all that is wrong and what to do about it, and changes nothing."""

import re
import resource
import stat
import subprocess
import sys

import pytest

from configuration import preflight
from configuration.command_line import ExitStatus, parse_args
from configuration.preflight import INDEX, Mark, all_findings, plan_finding
from configuration.settings import HERE, load_environment_variables
from db_connection import DatabaseError, PlanStep, load_query
from delivery.stopping import Stop
from iterable_client import UserFields
from logger_config import last_problem, setup_logger
from main import database_connection, iterable_client
from records.delivery_ledger import DeliveryLedger
from sandbox.faults import Fault
from tests.test_main import API_KEY, BARE
from tests.test_main import job as job  # noqa: PLC0414 - a fixture

database_test = pytest.mark.database
# For what has to fail before a database is asked for.
NOWHERE = {
    "DB_HOST": "127.0.0.1",
    "DB_PORT": "1",
    "DB_USER": "u",
    "DB_PASSWORD": "",
    "DB_NAME": "d",
}


@pytest.fixture
def environ(iterable, tmp_path):
    """Return settings without a database, whose files are in a folder of their own."""
    iterable.change(api_key=API_KEY)
    return {
        **NOWHERE,
        "ITERABLE_API_KEY": API_KEY,
        "ITERABLE_API_BASE_URL": iterable.url,
        "RESULTS_DIR": str(tmp_path / "results"),
        "LOG_FILE": str(tmp_path / "logs" / "job.log"),
        "STATE_FILE": str(tmp_path / "state" / "ledger.sqlite3"),
    }


def settings_of(environ, **changes):
    return load_environment_variables(None, environ | changes)


def of_iterable(environ, **changes):
    return list(preflight.iterable_findings(settings_of(environ, **changes), iterable_client))


def of_files(environ, **changes):
    """Return the findings of the files by their name."""
    found = preflight.file_findings(settings_of(environ, **changes), None)
    return {finding.what: finding for finding in found}


def connection_to(database, tmp_path):
    return database_connection(
        settings_of(
            {**database.settings, "ITERABLE_API_KEY": "k", "STATE_FILE": str(tmp_path / "s")},
            ITERABLE_API_BASE_URL="https://api.iterable.com",
        ),
        30,
    )


# --- As a whole


@database_test
def test_a_good_house_is_told_line_by_line_and_nothing_is_left_behind_or_changed(
    job, iterable, tmp_path
):
    found = list(all_findings(None, job.environ, database_connection, iterable_client))
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
        "This machine's clock",
        "Profile fields",
    ]
    assert {finding.mark for finding in found} <= {Mark.GOOD, Mark.NOTE}
    assert not list(tmp_path.iterdir())
    assert [(request.method, request.path) for request in iterable.requests] == [
        ("GET", "/api/users/getFields")
    ]


@database_test
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
    assert lines[2].startswith("ERROR: ✗ Iterable: refused the API key. Check")
    assert lines[3].startswith(
        "ERROR: Not ready for a run. 3 checks failed, the first: RESULTS_DIR"
    )
    assert "✓ LOG_FILE" in done.stdout
    for secret in ("wrong-password", "wrong-key", "secret-uuid", API_KEY):
        assert secret not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_the_readme_shows_what_the_demo_is_told():
    done = subprocess.run(
        [sys.executable, HERE / "main.py", "--check", "--demo"],
        env=BARE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("main.py --check --demo")[2].partition("```text\n")[2]
    names = re.compile(r"^. ([^:]+):", re.MULTILINE)
    assert names.findall(shown.partition("```")[0]) == names.findall(done.stdout)
    assert done.stdout.endswith("\nReady for a run\n")


def test_every_problem_of_the_settings_is_told_and_the_rest_waits_for_them(environ):
    wrong = environ | {"DB_PORT": "many", "LOG_LEVEL": "LOUD"}
    del wrong["DB_HOST"]
    found = list(all_findings(None, wrong, database_connection, iterable_client))
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
    assert preflight.check(None, wrong, database_connection, iterable_client) == status
    assert f"checks failed, the first: {first}" in last_problem()


@pytest.mark.parametrize("other", ["--dry-run", "--report"])
def test_check_is_not_for_a_command_line_that_asks_for_something_else(other, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--check", other])
    assert "not allowed with argument --check" in capsys.readouterr().err


# --- Files


def test_files_that_cannot_be_written_are_named_each(environ, tmp_path):
    (tmp_path / "file").touch()
    found = of_files(
        environ,
        RESULTS_DIR=str(tmp_path / "file" / "results"),
        LOG_FILE=str(tmp_path),
        STATE_FILE="/proc/ledger.sqlite3",
        METRICS_FILE=str(tmp_path / "missing" / "job.prom"),
    )
    for name in ("RESULTS_DIR", "LOG_FILE", "STATE_FILE"):
        assert (found[name].mark, found[name].status) == (Mark.BAD, ExitStatus.USAGE)
        assert "cannot be written: " in found[name].text
    # A run goes on without its metrics.
    assert found["METRICS_FILE"].mark is Mark.WARNING


def test_files_that_are_there_stay_as_they_are(environ, tmp_path):
    for name in ("results", "logs", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "logs" / "job.log").write_text("older lines\n")
    settings = settings_of(environ)
    DeliveryLedger(settings.state_file, settings.iterable_api_base_url, API_KEY).close()
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    assert {finding.mark for finding in of_files(environ).values()} == {Mark.GOOD}
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("free", "last_size", "mark"),
    [
        (49_000_000, 0, Mark.BAD),
        (51_000_000, 0, Mark.GOOD),
        (300_000_000, 100_000_000, Mark.BAD),
        (401_000_000, 100_000_000, Mark.GOOD),
    ],
)
def test_the_disk_must_have_room_for_a_run_like_the_last(tmp_path, free, last_size, mark):
    finding = preflight.room_finding(tmp_path, free, last_size)
    assert finding.mark is mark
    assert f"{free // 1_000_000} MB" in finding.text


def test_the_last_results_say_how_much_room_is_needed(environ, tmp_path):
    (tmp_path / "results").mkdir()
    with (tmp_path / "results" / "integration_results_20260101_000000.json").open("wb") as file:
        file.truncate(10**13)  # a length, and nothing in it
    assert "a run may need 40000.0 GB" in of_files(environ)["RESULTS_DIR"].text


def test_a_run_under_way_is_a_warning(environ):
    settings = settings_of(environ)
    with DeliveryLedger(settings.state_file, settings.iterable_api_base_url, API_KEY):
        finding = of_files(environ)["STATE_FILE"]
    assert finding.mark is Mark.WARNING
    assert "another run is under way" in finding.text


def test_a_state_file_that_is_no_ledger_is_told(environ, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.sqlite3").write_text("no database at all, but long enough" * 50)
    finding = of_files(environ)["STATE_FILE"]
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.USAGE)
    assert "move it away" in finding.text


def test_secrets_that_others_may_read_are_a_warning(environ, tmp_path):
    env_file = tmp_path / "env"
    env_file.write_text("")
    env_file.chmod(0o644)
    first, *_ = preflight.file_findings(settings_of(environ), env_file)
    assert (first.mark, first.what) == (Mark.WARNING, str(env_file))
    assert "chmod 600" in first.text
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o644


def test_more_workers_than_open_files_are_a_warning(environ):
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, allowed[1]))
    try:
        assert "ulimit -n 380" in of_files(environ)["ITERABLE_WORKERS"].text
        assert "ITERABLE_WORKERS" not in of_files(environ, ITERABLE_WORKERS="100")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)


# --- Database


@database_test
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT 1 AS customer_id, 2 AS email", "must return browser, event_time, first_name"),
        ("SELECT * FROM no_such_table", "a table is missing"),
        ("SELECT nothing FROM customers", "a column is missing"),
        ("SELECT FROM", "check the query's syntax"),
    ],
)
def test_a_query_that_would_fail_is_told_by_the_server(database, tmp_path, query, told):
    with connection_to(database, tmp_path) as connection:
        with pytest.raises(DatabaseError) as error:
            connection.check_query(query)
        assert told in str(error.value)


@database_test
def test_query_2_is_looked_at_without_being_run(database, tmp_path):
    slow = load_query(2).replace("ROW_NUMBER()", "SLEEP(5) + ROW_NUMBER()") + " -- the end"
    with connection_to(database, tmp_path) as connection:
        connection.check_query(slow)


@database_test
@pytest.mark.parametrize("left", ["ix_page_views_user", None])
def test_many_rows_of_page_views_read_without_their_index_are_a_warning(
    database, tmp_path, monkeypatch, left
):
    if database.server.kind == "seekdb":
        pytest.skip("this server shows its plans in a form of its own")
    query = load_query(2)
    database.execute("ALTER TABLE page_views DROP FOREIGN KEY fk_page_views_user")
    for index in {"ix_page_views_recent", "ix_page_views_user"} - {left}:
        database.execute(f"ALTER TABLE page_views DROP INDEX {index}")
    database.execute("ANALYZE TABLE customers, page_views")  # the server guesses by what it knew
    with connection_to(database, tmp_path) as connection:
        steps = connection.plan(query)
    assert plan_finding(steps, query).mark is Mark.GOOD  # 40 rows can be read anyhow
    monkeypatch.setattr(preflight, "MANY_ROWS", 10)
    warning = plan_finding(steps, query)
    assert warning.mark is Mark.WARNING
    assert f"Create the index {INDEX} as database_setup.sql does" in warning.text
    assert f"KEY {INDEX} " in (HERE / "database_setup.sql").read_text()


@database_test
def test_the_plan_names_the_indexes(database, tmp_path):
    with connection_to(database, tmp_path) as connection:
        finding = plan_finding(connection.plan(load_query(2)), load_query(2))
    if database.server.kind == "seekdb":
        assert "a form of its own" in finding.text
    else:
        assert finding.mark is Mark.GOOD
        assert "pv by index ix_page_views_" in finding.text


@pytest.mark.parametrize(
    "tables",
    ["page_views AS PV", "`page_views` pv", "page_views\n  pv", "db.page_views as `pv`"],
)
def test_page_views_is_known_by_the_querys_own_name(tables):
    step = PlanStep(table="pv", key="", rows=10**6)
    assert plan_finding([step], f"SELECT 1 FROM {tables} WHERE 1").mark is Mark.WARNING
    assert plan_finding([step], "SELECT 1 FROM customers AS pv").mark is Mark.GOOD


@pytest.mark.parametrize(
    ("ahead_s", "mark", "told"),
    [
        (59, Mark.GOOD, "agrees"),
        (61, Mark.WARNING, "61 s behind this machine's"),
        (-7200, Mark.WARNING, "7,200 s ahead of this machine's"),
    ],
)
def test_a_database_clock_that_is_off_is_a_warning(ahead_s, mark, told):
    finding = preflight.database_clock_finding(ahead_s)
    assert finding.mark is mark
    assert told in finding.text


# --- Iterable


@pytest.mark.parametrize(
    ("fault", "told", "requests"),
    [
        (
            Fault("unauthorized", variant="code_success"),
            "refused the API key. Check ITERABLE_API_KEY",
            1,
        ),
        (Fault("redirect"), "is not Iterable's API (HTTP 302)", 1),
        (Fault("gateway", status=503), "is down, or a proxy before it (HTTP 503)", 2),
        (Fault("garbage"), "is not Iterable's API (HTTP 200)", 1),
        (Fault("answer", body='{"fields": []}'), "is not Iterable's API (HTTP 200)", 1),
        (Fault("answer", status=404), "is not Iterable's API (HTTP 404)", 1),
        (Fault("reset_before"), "ended the connection without an answer", 2),
        (Fault("hang"), "no answer within ITERABLE_TIMEOUT_SECONDS", 1),
    ],
)
def test_an_iterable_that_does_not_answer_as_it_should_is_told(
    environ, iterable, fault, told, requests
):
    iterable.set_faults(fault)
    finding, *_ = of_iterable(environ, ITERABLE_TIMEOUT_SECONDS="0.3")
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.STOPPED)
    assert told in finding.text
    assert len(iterable.requests) == requests


@pytest.mark.parametrize("kind", ["server_error", "rate_limited", "reset_before"])
def test_a_passing_failure_is_tried_again(environ, iterable, kind):
    iterable.set_faults(Fault(kind, times=1))
    assert of_iterable(environ)[0].mark is Mark.GOOD


def test_an_iterable_too_busy_to_answer_is_a_warning(environ, iterable):
    iterable.set_faults(Fault("rate_limited"))
    (finding,) = of_iterable(environ)
    assert finding.mark is Mark.WARNING
    assert "the API key was not checked" in finding.text


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:1", "cannot be reached"),
        ("https://no-such-host.invalid", "has a name that DNS does not know"),
    ],
)
def test_an_iterable_that_cannot_be_reached_is_told(environ, url, told):
    (finding,) = of_iterable(environ, ITERABLE_API_BASE_URL=url)
    assert finding.text.startswith(f"{url} {told}")


def test_a_certificate_that_nobody_trusts_keeps_the_key_here(environ, tls_server):
    (finding,) = of_iterable(environ, ITERABLE_API_BASE_URL=tls_server.url)
    assert "failed TLS" in finding.text
    assert not tls_server.received


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://api.iterable.com", "a key of the EU one needs https://api.eu.iterable.com"),
        ("https://api.eu.iterable.com", "a key of the US one needs https://api.iterable.com"),
    ],
)
def test_a_refused_key_may_be_the_other_data_centres(url, told):
    assert preflight.no_answer_finding(UserFields(None, 401), url).text.endswith(told)


@pytest.mark.parametrize(
    ("skew_s", "told"),
    [
        (3600, "behind Iterable's"),
        (-3600, "ahead of Iterable's"),
    ],
)
def test_a_clock_that_is_not_iterables_is_a_warning(environ, iterable, skew_s, told):
    iterable.change(clock_skew_s=skew_s)
    _, clock, _ = of_iterable(environ)
    assert clock.mark is Mark.WARNING
    assert told in clock.text
    seconds = int(re.sub(r"\D", "", clock.text.partition(" s ")[0]))
    assert seconds == pytest.approx(3600, abs=5)


def test_without_a_date_no_clocks_are_compared(environ, iterable):
    iterable.change(send_date=False)
    assert of_iterable(environ)[1].mark is Mark.NOTE


def test_fields_of_another_type_are_told_because_every_row_would_be_refused(environ, iterable):
    fields = {"first_name": 7, "candidate": True, "plan_type": "pro", "age": 3}
    client = iterable_client(settings_of(environ), Stop())
    assert client.update_user("ann@example.com", fields).http_status == 200
    client.close()
    _, _, *found = of_iterable(environ)
    assert [(finding.mark, finding.status) for finding in found] == [(Mark.BAD, 4)] * 2
    assert "holds first_name as long and the job sends a string" in found[0].text
    assert "holds candidate as boolean and the job sends a string" in found[1].text


def test_fields_that_a_run_has_made_are_of_the_right_type(environ, iterable):
    sent = {"first_name": "Ann", "plan_type": "pro", "recent_page_view": True, "candidate": "yes"}
    client = iterable_client(settings_of(environ), Stop())
    for names in (["first_name"], sent):
        client.update_user("ann@example.com", {name: sent[name] for name in names})
        text = of_iterable(environ)[2].text
        assert ("will be created" in text) == (names != sent)
    client.close()
    assert text.split(" of the")[0].split(", ") == list(sent)
    assert preflight.sent_types() == {name: iterable_type(value) for name, value in sent.items()}


def iterable_type(value):
    return "boolean" if isinstance(value, bool) else "string"
