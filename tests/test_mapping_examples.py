"""The examples of docs/examples, run as they stand there; and what else columns may bring."""

import gc
import json
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

import main
from configuration.command_line import VERSION, parse_args, run_options
from delivery import project_fields
from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.field_types import RowError, encoder
from iterable_api.mapping import OWN_FIELDS, Identity, RowMapping
from logger_config import setup_logger
from records.columns import ColumnError
from records.exit_statuses import ExitStatus
from records.query_file import JOB_QUERY, load_query
from records.run import RunRecord
from sandbox.database import run_script
from tests.test_db_connection import connection_to
from tests.test_main import API_KEY, HERE, writes

# It is the whole program that is run, if within this process.
pytestmark = [pytest.mark.database, pytest.mark.program]

EXAMPLES = sorted((HERE / "docs" / "examples").glob("*.sql"))

both_modes = pytest.mark.parametrize("mode", [(), ("--bulk",)], ids=["per-user", "bulk"])
mode_and_identity = pytest.mark.parametrize(
    ("mode", "identity"), [((), Identity.USER_ID), (("--bulk",), Identity.EMAIL)]
)


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


@mode_and_identity
def test_the_night_after_somebody_leaves_sends_one_false_and_nothing_else(
    job, database, iterable, tmp_path, mode, identity
):
    # The runs look at the fields more often than three times a second.
    iterable.change(project_type="hybrid", limits=False)
    (path,) = [path for path in EXAMPLES if path.stem == "6_left"]
    make_tables(database, path.read_text(encoding="utf-8").partition("-- Query 2:")[0])
    environ = {"QUERY_FILE": str(path), "ITERABLE_IDENTITY": identity}
    assert job(*mode, **environ) == ExitStatus.OK
    before = len(writes(iterable))
    database.execute("UPDATE subscribers SET plan = 'basic' WHERE name = 'Eva'")
    for _ in range(2):
        assert job(*mode, **environ) == ExitStatus.OK
    (request,) = writes(iterable)[before:]
    (body,) = json.loads(request.body)["users"] if mode else [json.loads(request.body)]
    assert body["dataFields"]["first_name"] == "Eva"
    assert body["dataFields"]["recent_page_view"] is False
    assert {row["events_track"]["status"] for row in results_of(tmp_path)["results"]} == {
        "no_event"
    }


def assert_same(sent, expected):
    """Compare values and types: 1, 1.0 and True are equal, and to Iterable three types."""
    assert json.dumps(sent, sort_keys=True) == json.dumps(expected, sort_keys=True)


# --- What the query says of rows and of the job's own fields


EVERYTHING_SAID = """
    SELECT
        c.id AS Customer_ID,
        c.email AS EMAIL,
        c.first_name AS `USER.first_name`,
        c.plan_type AS `user.plan_type`,
        IF(c.id IN (1, 4), NULL, c.id) AS PAGE_VIEW_ID,
        'pricing' AS `Event.page`,
        NULL AS `event.browser`,
        NULL AS `event.location`,
        IF(c.id = 2, CAST('2026-01-13 14:30:45' AS DATETIME), NULL) AS event_time,
        c.id = 2 AS `user.recent_page_view`,
        IF(c.id = 1, NULL, 'maybe') AS `user.candidate`,
        c.id AS `event.candidate:LONG`
    FROM customers AS c
    WHERE c.id < 5
    ORDER BY c.id
"""


@mode_and_identity
def test_the_query_says_which_rows_have_an_event_and_the_jobs_own_fields(
    job, database, iterable, tmp_path, capsys, mode, identity
):
    iterable.change(project_type="hybrid")
    iterable.forget("4" if identity is Identity.USER_ID else "ava.brown@email.com")
    database.execute("UPDATE customers SET email = 'ava.brown@email.com' WHERE id = 4")
    database.execute("UPDATE customers SET first_name = 'Ida', plan_type = 'pro'")
    environ = query_file(tmp_path, EVERYTHING_SAID)
    environ |= {"ITERABLE_IDENTITY": identity, "ITERABLE_WORKERS": "1"}
    assert job(*mode, **environ) == ExitStatus.NOT_ALL_DELIVERED
    text = said(capsys)
    assert "Found 4 row(s)" in text
    assert "Total rows processed: 4\n✓ Successful (all API calls): 2" in text
    rows = sorted(results_of(tmp_path)["results"], key=lambda row: row["customer_id"])
    assert [(row["outcome"], row["events_track"]["status"]) for row in rows] == [
        ("successful", "no_event"),
        ("successful", "delivered"),
        ("total_failure", "not_sent"),
        ("forgotten", "no_event"),
    ]
    assert rows[2]["users_update"]["message"] == "event_time is not a date and time"
    assert [row["events_track"]["event_id"] is None for row in rows] == [True, False, True, True]
    ida = {"first_name": "Ida", "plan_type": "pro"}
    assert_same(
        [user.data_fields for user in iterable.users.values()],
        [ida | {"recent_page_view": False}, ida | {"recent_page_view": True, "candidate": "maybe"}],
    )
    (event,) = iterable.events.values()
    of_query = {"page": "pricing", "timestamp": "2026-01-13 14:30:45", "candidate": 2}
    fields = constants(TRACK_EVENT) | of_query
    assert_same(event.data_fields, fields)
    before = len(writes(iterable))
    job(*mode, "--dry-run", **environ)
    assert results_of(tmp_path)["summary"]["unchanged"] == 2
    assert len(writes(iterable)) == before


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


@pytest.mark.parametrize(("project", "identity"), [("email", "user_id"), ("userID", "email")])
def test_a_project_of_the_other_kind_stops_the_run_with_the_reason(
    job, database, iterable, capsys, project, identity
):
    iterable.change(project_type=project)
    database.execute("UPDATE customers SET plan_type = 'pro'")
    database.execute("UPDATE page_views SET page = 'pricing', event_time = NOW()")
    assert job(ITERABLE_IDENTITY=identity) == ExitStatus.STOPPED
    assert "change ITERABLE_IDENTITY" in said(capsys)
    assert not iterable.users


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
    assert (["column", "call", "field", "type"] in lines) is bool(words)
    assert (["user.score:double", "users/update", "score", "double"] in lines) is bool(words)
    # The demo's results are no job's: its ledger is gone.
    assert bool(record.job) is (words != ["--demo"])


@both_modes
def test_events_of_a_blocked_name_come_first_and_do_not_stop_the_run(job, iterable, tmp_path, mode):
    iterable.disallow("sold")
    sql = own_query("IF(c.id < 9, 'sold', 'viewed') AS event_name").replace("c.id < 3", "c.id < 12")
    environ = query_file(tmp_path, sql) | {"ITERABLE_WORKERS": "1"}
    assert job(*mode, **environ) == ExitStatus.NOT_ALL_DELIVERED
    assert results_of(tmp_path)["summary"]["successful"] == 3
    assert len(iterable.events) == 3


def test_rows_of_one_user_id_are_told_as_such(job, iterable, tmp_path, capsys):
    iterable.change(project_type="userID")
    environ = query_file(tmp_path, own_query("'U' AS user_id")) | {"ITERABLE_IDENTITY": "user_id"}
    assert job(**environ) == ExitStatus.OK
    assert "1 row repeats an earlier row's user id; the first row's profile is sent" in said(capsys)
    assert (len(iterable.users), len(iterable.events)) == (1, 2)


@both_modes
def test_an_empty_array_makes_no_field_and_nobody_waits_for_it(job, iterable, tmp_path, mode):
    environ = query_file(tmp_path, own_query("'[]' AS `user.tags:json`", "NULL AS `user.none`"))
    assert job(*mode, **environ) == ExitStatus.OK
    assert job(*mode, **environ) == ExitStatus.OK
    assert results_of(tmp_path)["summary"]["unchanged"] == 2
    assert [user.data_fields["tags"] for user in iterable.users.values()] == [[], []]


# --- Types, from the column on


def make_column(database, column_type, *values):
    """Make the table ``kinds`` with a column ``x``, and *values*, which are SQL, from number 1."""
    with database.connect() as connection:
        run_script(
            connection,
            "SET SESSION sql_mode = ''; "  # or it takes no zero date
            f"CREATE TABLE kinds (id INT AUTO_INCREMENT PRIMARY KEY, x {column_type} NULL)",
        )
        for value in values:
            run_script(connection, f"INSERT INTO kinds (x) VALUES ({value})")


def query_of_kinds(*columns):
    """Return a query that has *columns* of the table ``kinds``, a row for each value."""
    return own_query(*columns).replace(
        "FROM customers AS c WHERE c.id < 3", "FROM customers AS c JOIN kinds AS k USING (id)"
    )


def sent_of(database, suffix):
    """Return the columns, and what a run sends of each value of ``kinds``, or why it does not."""
    query = query_of_kinds(f"k.x AS `user.x{suffix}`")
    with connection_to(database.settings) as connection:
        spool = connection.get_pro_users_recent_engagement(query)
    with closing(spool):
        mapping = RowMapping(spool.columns)
        (field,) = mapping.fields
        place = mapping.places[field.column.name]
        rows = [row for chunk in spool.chunks() for row in chunk]
    found = []
    for row in rows:
        try:
            encode = encoder(field.type, field.column, UTC)
            found.append(json.loads(encode(row[place] or b"") or "null"))
        except RowError as error:
            found.append(str(error).partition(" ")[2])
    return found


NO_OBJECT = "is JSON, but neither an object nor an array"
NO_DATE = "is not a date such as 2026-01-13 or 2026-01-13 14:30:45"
TOO_LARGE = "is beyond 2^53 and would be rounded; send it as :string"
TOO_LONG = "has more digits than a double can hold; round it, or send it as :string"
ZERO_TIME = "'0000-00-00 00:00:00'"

# A column's type, a value in SQL, a suffix, and what is sent. What each suffix makes of each kind
# of column, tests/iterable_api/test_field_types.py has.
KINDS = [
    ("VARCHAR(50)", "'Zoë'", "", "Zoë"),
    ("CHAR(20)", "'1'", ":long", 1),
    ("TEXT", "'2026-01-13 14:30:45'", ":date", "2026-01-13 14:30:45 +00:00"),
    ("LONGTEXT", """'{"a": [1, 2.5]}'""", ":json", {"a": [1, 2.5]}),
    ("ENUM('a', 'true')", "'true'", ":boolean", True),
    ("SET('c', 'b', 'a')", "'a,c'", "", "c,a"),
    ("INT", "-7", "", -7),
    ("INT(5) ZEROFILL", "1234", "", 1234),
    ("INT(5) ZEROFILL", "1234", ":string", "01234"),
    ("SMALLINT", "1", ":boolean", True),
    ("MEDIUMINT", "0", ":double", 0.0),
    ("BIGINT", "9007199254740992", "", 2**53),
    ("BIGINT UNSIGNED", str(2**64 - 1), "", TOO_LARGE),
    ("BIGINT UNSIGNED", str(2**64 - 1), ":string", str(2**64 - 1)),
    ("YEAR", "2026", "", 2026),
    ("TINYINT", "-128", ":long", -128),
    ("BOOLEAN", "TRUE", ":boolean", True),
    ("TINYINT(3) ZEROFILL", "1", ":string", "001"),
    ("BIT(1)", "b'0'", ":boolean", False),
    ("BIT(9)", "b'100000001'", ":long", 257),
    ("BIT(64)", str(2**64 - 1), ":long", TOO_LARGE),
    ("DECIMAL(10, 2)", "12.5", "", 12.5),
    ("DECIMAL(10, 2)", "12.5", ":string", "12.50"),
    ("DECIMAL(30, 2)", "12345678901234567.89", "", TOO_LONG),
    ("FLOAT", "0.1", "", 0.1),  # is written with six digits
    ("DOUBLE", "0.30000000000000004", "", 0.1 + 0.2),
    ("DATE", "'2026-01-13'", "", "2026-01-13"),
    ("DATE", "'0000-00-00'", ":string", "0000-00-00"),
    ("DATETIME", ZERO_TIME, "", NO_DATE),
    ("DATETIME(6)", "'2026-01-13 14:30:45.987654'", "", "2026-01-13 14:30:45 +00:00"),
    ("TIMESTAMP(3)", "'2026-01-13 14:30:45.5'", ":string", "2026-01-13 14:30:45.500"),
    ("TIME(3)", "'-26:03:04.5'", "", "-26:03:04.500"),
    ("VARBINARY(20)", "X'5A6FC3AB'", ":string", "Zoë"),
    ("BINARY(4)", "'ab'", ":string", "ab\0\0"),
    ("BLOB", "X'FF'", ":string", "is not valid UTF-8 text"),
]


@pytest.mark.parametrize(("column_type", "value", "suffix", "sent"), KINDS)
def test_each_type_of_column_is_sent_or_refused(database, column_type, value, suffix, sent):
    make_column(database, column_type, value)
    (found,) = sent_of(database, suffix)
    assert (found, type(found)) == (sent, type(sent))


@pytest.mark.parametrize("column_type", ["TINYINT", "BOOLEAN", "BIT(1)", "BLOB", "GEOMETRY"])
def test_some_types_need_a_suffix(database, column_type):
    make_column(database, column_type)
    with pytest.raises(ColumnError):
        sent_of(database, "")


def test_json_is_sent_as_objects_and_arrays(database):
    documents = ['{"a": [1, null, "é"]}', "[]", "null", "7", '{"n": 9007199254740993}']
    make_column(database, "JSON", *(f"'{document}'" for document in documents))
    expected = [{"a": [1, None, "é"]}, [], NO_OBJECT, TOO_LARGE]
    database.execute("DELETE FROM kinds WHERE id = 3")
    assert sent_of(database, ":json") == expected
    assert sent_of(database, ":string")[1:3] == ["[]", "7"]


@both_modes
def test_a_zero_date_refuses_its_row_and_as_a_string_it_is_sent(
    job, database, iterable, tmp_path, mode
):
    make_column(database, "DATE", "'0000-00-00'", "'2026-01-13'", "NULL")
    environ = query_file(tmp_path, query_of_kinds("k.x AS `event.born`"))
    # In their order: the first value of a new field decides its type.
    environ |= {"ITERABLE_WORKERS": "1"}
    assert job(*mode, **environ) == ExitStatus.NOT_ALL_DELIVERED
    rows = sorted(results_of(tmp_path)["results"], key=lambda row: row["customer_id"])
    assert [row["outcome"] for row in rows] == ["total_failure", "successful", "successful"]
    call = rows[0]["users_update"]
    assert (call["message"], call["fault"]) == (f"event.born {NO_DATE}", "row")
    sent = [event.data_fields.get("born") for event in iterable.events.values()]
    assert sent == ["2026-01-13", None]
    environ |= query_file(tmp_path, query_of_kinds("k.x AS `event.text:string`"))
    assert job(*mode, **environ) == ExitStatus.OK
    texts = {event.data_fields.get("text") for event in iterable.events.values()}
    assert texts == {"0000-00-00", "2026-01-13", None}


def test_ids_of_a_zerofill_column_are_numbers_in_the_results(job, database, iterable, tmp_path):
    make_column(database, "INT(5) ZEROFILL", "42")
    query = query_of_kinds("k.x AS `user.x:string`").replace("c.id AS customer", "k.x AS customer")
    assert job(**query_file(tmp_path, query)) == ExitStatus.OK
    (row,) = results_of(tmp_path)["results"]
    assert row["customer_id"] == 42
    assert [user.data_fields["x"] for user in iterable.users.values()] == ["00042"]
