"""The examples of docs/examples, run as they stand there; and what else columns may bring."""

import gc
import json
import re
from datetime import UTC, datetime, timedelta

import pytest

import main
from configuration.command_line import VERSION, parse_args, run_options
from db_connection import JOB_QUERY, load_query
from delivery import project_fields
from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.mapping import OWN_FIELDS
from logger_config import setup_logger
from records.exit_statuses import ExitStatus
from records.run import RunRecord
from sandbox.database import run_script
from tests.test_main import API_KEY, HERE, writes

# It is the whole program that is run, if within this process.
pytestmark = [pytest.mark.database, pytest.mark.program]

EXAMPLES = sorted((HERE / "docs" / "examples").glob("*.sql"))

both_modes = pytest.mark.parametrize("mode", [(), ("--bulk",)], ids=["per-user", "bulk"])


@pytest.fixture(autouse=True)
def process_as_before():
    """Undo what a run does to its process, which usually ends with it."""
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()
    setup_logger()


def environ_of(database, iterable, folder):
    """Return the settings of a job with its files in *folder*."""
    iterable.change(api_key=API_KEY)
    return {
        **database.settings,
        "ITERABLE_API_KEY": API_KEY,
        "ITERABLE_API_BASE_URL": iterable.url,
        "LOG_FILE": str(folder / "job.log"),
        "RESULTS_DIR": str(folder),
        "STATE_FILE": str(folder / "state.sqlite3"),
    }


@pytest.fixture
def job(database, iterable, tmp_path):
    """Return what runs the program within this process, and returns its exit status."""
    environ = environ_of(database, iterable, tmp_path)

    def run(*words, **more):
        args = parse_args(list(words))
        record = RunRecord(run_options(args), VERSION)
        setup_logger()
        status = ExitStatus.OK
        with main.noting_end(record):
            status = main.run_job(args, record, environ | more)
        return status or record.exit_status

    return run


def said_to_get(text, whom):
    """Return the fields that an example says each profile or each event gets."""
    (lines,) = re.findall(rf"^-- The {whom}s? gets? of it:\n((?:--  +.*\n)+)", text, re.MULTILINE)
    lines = lines.replace("<yesterday>", f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}")
    return json.loads(
        f"[{re.sub(r'}$', '},', lines.replace('--  ', ''), flags=re.MULTILINE)[:-2]}]"
    )


def constants(call):
    """Return the fields that every row gets with a call."""
    return {own.name: own.value for own in OWN_FIELDS if own.call == call and own.constant}


def make_tables(database, sql):
    with database.connect() as connection:
        run_script(connection, sql)


def query_file(folder, sql):
    path = folder / "own.sql"
    path.write_text(sql, encoding="utf-8")
    return {"QUERY_FILE": str(path)}


@both_modes
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_sent_as_it_says(job, database, iterable, path, mode):
    text = path.read_text(encoding="utf-8")
    settings = dict(re.findall(r"^--     ([A-Z_]+)=(.*)$", text, re.MULTILINE))
    by_user_id = settings.get("ITERABLE_IDENTITY") == "user_id"
    iterable.change(project_type="userID" if by_user_id else "email")
    make_tables(database, text.partition("-- Query 2:")[0])
    # In the query's order.
    environ = settings | {"QUERY_FILE": str(path), "ITERABLE_WORKERS": "1"}
    assert job(*mode, **environ) == ExitStatus.OK
    users, events = list(iterable.users.values()), list(iterable.events.values())
    profiles = [constants(UPDATE_USER) | fields for fields in said_to_get(text, "profile")]
    assert_same([user.data_fields for user in users], profiles)
    fields = [constants(TRACK_EVENT) | fields for fields in said_to_get(text, "event")]
    assert_same([event.data_fields for event in events], fields)
    (event,) = events
    assert event.event_name == ("order_paid" if "AS event_name" in text else "page_view")
    if not mode:
        # The project has the fields now, all of the right type; and there is nothing left to do.
        assert job("--check", **environ) == ExitStatus.OK
        assert job(**environ) == ExitStatus.OK
        assert len(writes(iterable)) == len(users) + len(events)


def assert_same(sent, expected):
    """Compare values and types: 1, 1.0 and True are equal, and to Iterable three types."""
    assert json.dumps(sent, sort_keys=True) == json.dumps(expected, sort_keys=True)


# --- What the query says of rows and of the job's own fields


# --- What else columns may bring


def own_query(*columns):
    """Return a query of two customers of the example tables, with *columns* more."""
    more = "".join(f",\n{column}" for column in columns)
    return (
        "SELECT c.id AS customer_id, c.email, c.first_name, c.plan_type, c.id AS page_view_id, "
        "'pricing' AS page, CAST('2026-01-13 14:30:45' AS DATETIME) AS event_time, "
        f"NULL AS browser, NULL AS location{more} FROM customers AS c WHERE c.id < 3 ORDER BY c.id"
    )


def said(capsys):
    """Return what the program has printed since it was asked last."""
    return "".join(capsys.readouterr())


def results_of(folder):
    *_, path = sorted(folder.glob("integration_results_*.json"))
    return json.loads(path.read_text())


def test_a_column_that_is_not_sent_is_told_once_a_run_and_by_check(job, tmp_path, capsys):
    environ = query_file(tmp_path, own_query("c.id * 2 AS score"))
    told = "the column score is not sent; write AS `user.score` for the profile"
    for words in (("--check",), ()):
        assert job(*words, **environ) == ExitStatus.OK
        assert said(capsys).count(told) == 1


def test_columns_that_cannot_be_sent_end_a_run_before_anything_is(job, iterable, tmp_path, capsys):
    environ = query_file(tmp_path, own_query("c.id AS `user.score:number`", "1 AS `user.`"))
    for words in (("--check",), ("--dry-run",), ("--bulk",), ()):
        assert job(*words, **environ) == ExitStatus.USAGE
        text = said(capsys)
        assert "user.score:number has the unknown type :number; use one of :string, :long" in text
        assert "user. needs a field name after the dot" in text
    assert not writes(iterable)
    assert results_of(tmp_path)["run"]["exit_status"] == ExitStatus.USAGE


@both_modes
def test_users_told_apart_by_user_id_have_their_own_verdicts(job, iterable, tmp_path, mode):
    iterable.change(project_type="hybrid")
    iterable.forget("U-1")
    sql = own_query("CONCAT('U-', c.id) AS user_id").replace("c.id < 3", "c.id < 4")
    sql = sql.replace("c.email,", "IF(c.id = 2, NULL, c.email) AS email,")
    sql = sql.replace("c.id AS customer_id", "c.id AS customer_id, IF(c.id = 3, 1, 0) AS x")
    sql = sql.replace("CONCAT('U-', c.id)", "IF(c.id = 3, REPEAT('u', 53), CONCAT('U-', c.id))")
    environ = query_file(tmp_path, sql) | {"ITERABLE_IDENTITY": "user_id"}
    assert job(*mode, **environ) == ExitStatus.NOT_ALL_DELIVERED
    first, second, third = sorted(results_of(tmp_path)["results"], key=lambda r: r["customer_id"])
    assert (first["user_id"], first["outcome"]) == ("U-1", "forgotten")
    assert (second["user_id"], second["email"], second["outcome"]) == ("U-2", None, "successful")
    assert (third["user_id"], third["outcome"]) == ("u" * 53, "total_failure")
    assert third["users_update"]["message"] == "user_id has more than 52 characters"
    assert [(user.email, user.user_id) for user in iterable.users.values()] == [(None, "U-2")]
    assert [event.user_id for event in iterable.events.values()] == ["U-2"]


@both_modes
@pytest.mark.parametrize(("project", "create"), [(False, "always"), (True, "never")])
def test_new_fields_are_created_as_the_setting_says(
    job, iterable, tmp_path, monkeypatch, mode, project, create
):
    monkeypatch.setattr(project_fields, "PATIENCE_S", 0)
    iterable.change(create_new_fields=project)
    environ = query_file(tmp_path, own_query("7 AS `user.x`", "8 AS `event.y`"))
    assert job(*mode, **environ, ITERABLE_CREATE_FIELDS=create) == ExitStatus.OK
    made = create == "always"
    assert all(("x" in user.data_fields) is made for user in iterable.users.values())
    assert all(("y" in event.data_fields) is made for event in iterable.events.values())
    filtered = results_of(tmp_path)["summary"]["filtered_fields"]
    assert ("x" in filtered.get("users_update", [])) is not made


def test_the_example_in_the_query_file_works(job, database, iterable, tmp_path):
    lines = re.findall(r"^--     (.*)$", (HERE / "phase2_queries.sql").read_text(), re.MULTILINE)
    names = re.findall(r"`[^`]+`", " ".join(lines))
    query = load_query(JOB_QUERY).replace("pv.location,", f"pv.location,\n{' '.join(lines)}")
    query = query.replace("browser, location\nFROM", f"browser, location, {', '.join(names)}\nFROM")
    assert job(**query_file(tmp_path, query)) == ExitStatus.OK
    assert len(iterable.users) == 3
    assert {type(user.data_fields["is_new"]) for user in iterable.users.values()} == {bool}
    assert all(len(event.data_fields["day"]) == 10 for event in iterable.events.values())


@pytest.mark.parametrize("words", [["--dry-run"], ["--demo"], []], ids=" ".join)
def test_a_dry_run_and_the_demo_show_where_each_column_goes(
    database, iterable, tmp_path, capsys, words
):
    environ = environ_of(database, iterable, tmp_path)
    environ |= query_file(tmp_path, own_query("c.id AS `user.score:double`"))
    record = RunRecord(run_options(parse_args(words)), VERSION)
    assert main.run_integration(None, environ, record) == ExitStatus.OK
    lines = [line.split() for line in said(capsys).splitlines()]
    assert (["column", "endpoint", "field", "type"] in lines) is bool(words)
    assert (["user.score:double", "users/update", "score", "double"] in lines) is bool(words)
    # The demo's results are no job's: its ledger is gone.
    assert bool(record.to_json()["run"]["job"]) is (words != ["--demo"])


def test_rows_of_one_user_id_are_told_as_such(job, iterable, tmp_path, capsys):
    iterable.change(project_type="userID")
    environ = query_file(tmp_path, own_query("'U' AS user_id")) | {"ITERABLE_IDENTITY": "user_id"}
    assert job(**environ) == ExitStatus.OK
    assert "1 row repeats an earlier row's user id; the first row's profile is sent" in said(capsys)
    assert (len(iterable.users), len(iterable.events)) == (1, 2)


# --- Types, from the column on
