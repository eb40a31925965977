"""The examples of docs/examples, run as they stand there; and what else columns may bring."""

import gc
import json
import re

import pytest

import main
from configuration.command_line import VERSION, parse_args, run_options
from delivery import field_check
from logger_config import setup_logger
from records.exit_statuses import ExitStatus
from records.query_file import JOB_QUERY, load_query
from records.run import RunRecord
from sandbox.database import run_script
from tests.configuration.conftest import update_user
from tests.test_main import API_KEY, HERE, writes

# It is the whole program that is run, if within this process.
pytestmark = [pytest.mark.database, pytest.mark.program]

EXAMPLES = sorted((HERE / "docs" / "examples").glob("*.sql"))


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
    """Return the fields that an example says the profile or the event gets."""
    (lines,) = re.findall(rf"^-- The {whom} gets:\n((?:--  +.*\n)+)", text, re.MULTILINE)
    return json.loads(lines.replace("--  ", ""))


def make_tables(database, sql):
    with database.connect() as connection:
        run_script(connection, sql)


def query_file(folder, sql):
    path = folder / "own.sql"
    path.write_text(sql, encoding="utf-8")
    return {"QUERY_FILE": str(path)}


def test_there_are_five_examples():
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("mode", [(), ("--bulk",)], ids=["per-user", "bulk"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_sent_as_it_says(job, database, iterable, path, mode):
    text = path.read_text(encoding="utf-8")
    settings = dict(re.findall(r"^--     ([A-Z_]+)=(.*)$", text, re.MULTILINE))
    by_user_id = settings.get("ITERABLE_IDENTITY") == "user_id"
    iterable.change(project_type="userID" if by_user_id else "email")
    make_tables(database, text.partition("-- Query 2:")[0])
    environ = settings | {"QUERY_FILE": str(path)}
    assert job(*mode, **environ) == ExitStatus.OK
    (user,) = iterable.users.values()
    (event,) = iterable.events.values()
    assert_same(user.data_fields, said_to_get(text, "profile"))
    assert_same(event.data_fields, said_to_get(text, "event"))
    assert event.event_name == ("order_paid" if "AS event_name" in text else "page_view")
    if not mode:
        # The project has the fields now, all of the right type; and there is nothing left to do.
        assert job("--check", **environ) == ExitStatus.OK
        assert job(**environ) == ExitStatus.OK
        assert len(writes(iterable)) == 2


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


def said(capsys):
    """Return what the program has printed since it was asked last."""
    return "".join(capsys.readouterr())


def results_of(folder):
    *_, path = sorted(folder.glob("integration_results_*.json"))
    return json.loads(path.read_text())


def test_a_column_that_is_not_sent_is_told_once_a_run_and_by_check(job, tmp_path, capsys):
    environ = query_file(tmp_path, own_query("c.id * 2 AS score"))
    told = "the column score is not sent; AS `user.score` puts it into the profile"
    for words in (("--check",), ()):
        assert job(*words, **environ) == ExitStatus.OK
        assert said(capsys).count(told) == 1


def test_columns_that_cannot_be_sent_end_a_run_before_anything_is(job, iterable, tmp_path, capsys):
    environ = query_file(tmp_path, own_query("c.id AS `user.score:number`", "1 AS `user.`"))
    for words in (("--check",), ()):
        assert job(*words, **environ) == ExitStatus.USAGE
        text = said(capsys)
        assert "user.score:number ends with no type" in text
        assert "user. has no field's name behind the dot" in text
    assert not writes(iterable)
    assert results_of(tmp_path)["run"]["exit_status"] == ExitStatus.USAGE


def test_a_value_that_does_not_fit_refuses_its_row_alone(job, iterable, tmp_path):
    environ = query_file(tmp_path, own_query("c.first_name AS `user.x:integer`"))
    environ |= query_file(
        tmp_path, own_query("IF(c.id = 1, 'seven', '7') AS `user.x:integer`", "7 AS `event.n`")
    )
    assert job(**environ) == ExitStatus.NOT_ALL_DELIVERED
    bad, good = sorted(results_of(tmp_path)["results"], key=lambda row: row["customer_id"])
    assert bad["users_update"]["message"] == "user.x:integer is not a number"
    assert bad["users_update"]["fault"] == "row"
    assert good["outcome"] == "successful"
    assert [user.data_fields["x"] for user in iterable.users.values()] == [7]


def test_a_field_of_the_wrong_type_is_caught_by_check(job, iterable, tmp_path, capsys):
    environ = query_file(tmp_path, own_query("c.id AS `user.score`", "c.id AS `user.rank`"))
    update_user(iterable, {"score": "high", "rank": 1.5})
    assert job("--check", **environ) == ExitStatus.STOPPED
    told = "the project has score as string and the job sends a long: every row would be refused"
    text = said(capsys)
    assert told in text
    assert "or another name in Query 2, or its type behind a colon" in text
    assert "rank as double" not in text  # which takes whole numbers


def test_bytes_that_are_no_text_are_told_by_check(job, tmp_path, capsys):
    sql = own_query().replace("c.id AS page_view_id", "UNHEX(SHA2(c.id, 256)) AS page_view_id")
    assert job("--check", **query_file(tmp_path, sql)) == ExitStatus.OK
    assert "use BIN_TO_UUID(page_view_id) in Query 2, on MariaDB HEX(page_view_id)" in said(capsys)


def test_an_event_time_that_is_no_time_is_told_by_check(job, tmp_path, capsys):
    sql = own_query().replace("CAST('2026-01-13 14:30:45' AS DATETIME)", "'yesterday'")
    assert job("--check", **query_file(tmp_path, sql)) == ExitStatus.NOT_ALL_DELIVERED
    assert "event_time is text, no date and time: every row would be refused" in said(capsys)


@pytest.mark.parametrize("mode", [(), ("--bulk",)], ids=["per-user", "bulk"])
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


def test_one_destination_never_takes_one_kind_of_identity_for_the_other(job, iterable, tmp_path):
    iterable.change(project_type="hybrid")
    environ = query_file(tmp_path, own_query("c.email AS user_id"))
    assert job(**environ) == ExitStatus.OK
    environ["ITERABLE_IDENTITY"] = "user_id"
    assert job(**environ) == ExitStatus.OK
    assert results_of(tmp_path)["summary"]["successful"] == 2
    assert len(iterable.users) == 4


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("mode", [(), ("--bulk",)], ids=["per-user", "bulk"])
def test_events_of_a_blocked_name_hold_up_no_others(job, iterable, tmp_path, mode, counted):
    iterable.change(disallowed_counted=counted)
    iterable.disallow("sold")
    environ = query_file(tmp_path, own_query("IF(c.id = 1, 'sold', 'viewed') AS event_name"))
    assert job(*mode, **environ) == ExitStatus.NOT_ALL_DELIVERED
    rows = sorted(results_of(tmp_path)["results"], key=lambda row: row["customer_id"])
    assert [row["outcome"] for row in rows] == ["partial_failure", "successful"]
    assert rows[0]["events_track"]["fault"] == "project"
    assert [event.event_name for event in iterable.events.values()] == ["viewed"]


@pytest.mark.parametrize("mode", [(), ("--bulk",)], ids=["per-user", "bulk"])
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("create", ["always", "never"])
def test_new_fields_are_created_as_the_setting_says(
    job, iterable, tmp_path, monkeypatch, mode, project, create
):
    monkeypatch.setattr(field_check, "PATIENCE_S", 0)
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
    environ |= query_file(tmp_path, own_query("c.id AS `user.score:decimal`"))
    record = RunRecord(run_options(parse_args(words)), VERSION)
    assert main.run_integration(None, environ, record) == ExitStatus.OK
    lines = [line.split() for line in said(capsys).splitlines()]
    assert (["column", "call", "field", "type"] in lines) is bool(words)
    assert (["user.score:decimal", "users/update", "score", "double"] in lines) is bool(words)
    # The demo's results are no job's: its ledger is gone.
    assert bool(record.job) is (words != ["--demo"])


@pytest.mark.parametrize("mode", [(), ("--bulk",)], ids=["per-user", "bulk"])
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
    assert "1 rows have the user id of a row before them" in said(capsys)
    assert (len(iterable.users), len(iterable.events)) == (1, 2)


@pytest.mark.parametrize("mode", [(), ("--bulk",)], ids=["per-user", "bulk"])
def test_an_empty_array_makes_no_field_and_nobody_waits_for_it(job, iterable, tmp_path, mode):
    environ = query_file(tmp_path, own_query("'[]' AS `user.tags:json`", "NULL AS `user.none`"))
    assert job(*mode, **environ) == ExitStatus.OK
    assert job(*mode, **environ) == ExitStatus.OK
    assert results_of(tmp_path)["summary"]["unchanged"] == 2
    assert [user.data_fields["tags"] for user in iterable.users.values()] == [[], []]


@pytest.mark.parametrize("bulk", [True, False])
def test_a_part_of_an_object_that_the_project_leaves_out_is_sent_again(
    job, iterable, tmp_path, monkeypatch, bulk
):
    monkeypatch.setattr(field_check, "PATIENCE_S", 0)
    iterable.change(limits=False)  # there are four looks at the fields within a second
    mode = ["--bulk"] if bulk else []
    query = own_query(
        """IF(c.id = 2, '{"a": 1, "b": {"c": 2}}', '{"a": 1}') AS `user.prefs:json`"""
    )
    assert job(*mode, **query_file(tmp_path, query.replace("c.id = 2", "FALSE"))) == ExitStatus.OK
    iterable.change(create_new_fields=False)
    environ = query_file(tmp_path, query)
    for _ in range(2):
        assert job(*mode, **environ) == ExitStatus.OK
        summary = results_of(tmp_path)["summary"]
        assert "prefs.b" in summary["filtered_fields"]["users_update"]
    assert (summary["successful"], summary["unchanged"]) == (1, 1)


@pytest.mark.parametrize(
    ("expression", "sent"),
    [
        ("CAST('0000-05-01' AS DATE) AS `user.x`", None),
        ("9007199254740993 AS `user.x`", "is beyond 2^53"),
        ("CAST(REPEAT('9', 40) AS DECIMAL(65, 10)) AS `user.x`", "more digits than a number keeps"),
        ("UNHEX('ff') AS `user.x:text`", "is not valid UTF-8 text"),
        ("REPEAT('[', 200) AS `user.x:json`", "is nested too deep"),
        ("TIMEDIFF('10:00:00', '12:00:00') AS `user.x`", "-02:00:00"),
    ],
)
def test_what_a_server_gives_is_sent_left_out_or_refused(job, iterable, tmp_path, expression, sent):
    sql = own_query(expression).replace("c.id < 3", "c.id < 2")
    status = job(**query_file(tmp_path, sql))
    (row,) = results_of(tmp_path)["results"]
    if status == ExitStatus.NOT_ALL_DELIVERED:
        assert sent in row["users_update"]["message"]
    else:
        (user,) = iterable.users.values()
        assert user.data_fields.get("x") == sent
