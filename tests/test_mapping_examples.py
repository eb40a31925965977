"""The examples of docs/examples, run as they stand there; and what else columns may bring."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from db_connection import JOB_QUERY, load_query
from delivery import project_fields
from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.mapping import OWN_FIELDS
from records.exit_statuses import ExitStatus
from sandbox.database import run_script
from tests.test_main import HERE, both_modes, writes
from tests.test_main import job as job  # noqa: PLC0414 - a fixture
from tests.test_safety import forget_results

pytestmark = [pytest.mark.database, pytest.mark.program]

EXAMPLES = sorted((HERE / "docs" / "examples").glob("*.sql"))


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
    with database.connect() as connection:
        run_script(connection, text.partition("-- Query 2:")[0])
    # In the query's order.
    environ = settings | {"QUERY_FILE": str(path), "ITERABLE_WORKERS": "1"}
    assert job(*mode, **environ).returncode == ExitStatus.OK
    users, events = list(iterable.users.values()), list(iterable.events.values())
    profiles = [constants(UPDATE_USER) | fields for fields in said_to_get(text, "profile")]
    assert_same([user.data_fields for user in users], profiles)
    fields = [constants(TRACK_EVENT) | fields for fields in said_to_get(text, "event")]
    assert_same([event.data_fields for event in events], fields)
    (event,) = events
    assert event.event_name == ("order_paid" if "AS event_name" in text else "page_view")
    if not mode:
        # The project has the fields now, all of the right type; and there is nothing left to do.
        assert job("--check", **environ).returncode == ExitStatus.OK
        assert job(**environ).returncode == ExitStatus.OK
        assert len(writes(iterable)) == len(users) + len(events)


def assert_same(sent, expected):
    """Compare values and types: 1, 1.0 and True are equal, and to Iterable three types."""
    assert json.dumps(sent, sort_keys=True) == json.dumps(expected, sort_keys=True)


# --- What else columns may bring


def own_query(*columns):
    """Return a query of two customers of the example tables, with *columns* more."""
    more = "".join(f",\n{column}" for column in columns)
    return (
        "SELECT c.id AS customer_id, c.email, c.first_name, c.plan_type, c.id AS page_view_id, "
        "'pricing' AS page, CAST('2026-01-13 14:30:45' AS DATETIME) AS event_time, "
        f"NULL AS browser, NULL AS location{more} FROM customers AS c WHERE c.id < 3 ORDER BY c.id"
    )


def test_columns_that_cannot_be_sent_end_a_run_before_anything_is(job, iterable, tmp_path):
    environ = query_file(tmp_path, own_query("c.id AS `user.score:number`", "1 AS `user.`"))
    for words in (("--check",), ("--dry-run",), ("--bulk",), ()):
        forget_results(job)
        done = job(*words, **environ)
        assert done.returncode == ExitStatus.USAGE
        assert "user.score:number has the unknown type :number; use one of" in done.stderr
        assert "user. needs a field name after the dot" in done.stderr
    assert not writes(iterable)
    assert job.results["run"]["exit_status"] == ExitStatus.USAGE


@both_modes
def test_users_told_apart_by_user_id_have_their_own_verdicts(job, iterable, tmp_path, mode):
    iterable.change(project_type="hybrid")
    iterable.forget("U-1")
    sql = own_query("CONCAT('U-', c.id) AS user_id").replace("c.id < 3", "c.id < 4")
    sql = sql.replace("c.email,", "IF(c.id = 2, NULL, c.email) AS email,")
    sql = sql.replace("c.id AS customer_id", "c.id AS customer_id, IF(c.id = 3, 1, 0) AS x")
    sql = sql.replace("CONCAT('U-', c.id)", "IF(c.id = 3, REPEAT('u', 53), CONCAT('U-', c.id))")
    environ = query_file(tmp_path, sql) | {"ITERABLE_IDENTITY": "user_id"}
    assert job(*mode, **environ).returncode == ExitStatus.NOT_ALL_DELIVERED
    first, second, third = sorted(job.results["results"], key=lambda r: r["customer_id"])
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
    assert job(*mode, **environ, ITERABLE_CREATE_FIELDS=create).returncode == ExitStatus.OK
    made = create == "always"
    assert all(("x" in user.data_fields) is made for user in iterable.users.values())
    assert all(("y" in event.data_fields) is made for event in iterable.events.values())
    filtered = job.results["summary"]["filtered_fields"]
    assert ("x" in filtered.get("users_update", [])) is not made


def test_the_example_in_the_query_file_works(job, database, iterable, tmp_path):
    lines = re.findall(r"^--     (.*)$", (HERE / "phase2_queries.sql").read_text(), re.MULTILINE)
    names = re.findall(r"`[^`]+`", " ".join(lines))
    query = load_query(JOB_QUERY).replace("pv.location,", f"pv.location,\n{' '.join(lines)}")
    query = query.replace("browser, location\nFROM", f"browser, location, {', '.join(names)}\nFROM")
    assert job(**query_file(tmp_path, query)).returncode == ExitStatus.OK
    assert len(iterable.users) == 3
    assert {type(user.data_fields["is_new"]) for user in iterable.users.values()} == {bool}
    assert all(len(event.data_fields["day"]) == 10 for event in iterable.events.values())


@pytest.mark.parametrize("words", [["--check"], ["--dry-run"], []], ids=" ".join)
def test_it_is_shown_where_each_column_goes_and_told_once_which_goes_nowhere(job, tmp_path, words):
    done = job(*words, **query_file(tmp_path, own_query("c.id * 2 AS score")))
    assert done.returncode == ExitStatus.OK
    lines = [line.split() for line in done.stdout.splitlines()]
    assert (["first_name", "users/update", "first_name", "string"] in lines) is bool(words)
    told = "the column score is not sent; write AS `user.score` for the profile"
    assert f"{done.stdout}{done.stderr}".count(told) == 1


def test_rows_of_one_user_id_are_told_as_such(job, iterable, tmp_path):
    iterable.change(project_type="userID")
    environ = query_file(tmp_path, own_query("'U' AS user_id")) | {"ITERABLE_IDENTITY": "user_id"}
    done = job(**environ)
    assert done.returncode == ExitStatus.OK
    assert "1 row repeats an earlier row's user id; the first row's profile is sent" in done.stderr
    assert (len(iterable.users), len(iterable.events)) == (1, 2)
