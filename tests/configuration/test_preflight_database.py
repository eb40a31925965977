"""--check on the database: the login, the clock, Query 2 and its execution plan."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from configuration import preflight_database
from configuration.preflight_database import (
    COLUMNS,
    EXPLAIN,
    EXPLAIN_COLUMNS,
    INDEX,
    TableAccess,
    database_clock_finding,
    database_findings,
    execution_plan,
    execution_plan_finding,
    query_findings,
)
from configuration.preflight_finding import Mark
from configuration.settings import HERE
from configuration.wiring import database_connection
from records import least_versions, query_file
from records.exit_statuses import ExitStatus
from records.query_file import JOB_QUERY, load_query
from tests.configuration.conftest import settings_of


@pytest.fixture
def connection(database, environ):
    with database_connection(settings_of(environ | database.settings), 30) as connection:
        yield connection


@pytest.mark.database
def test_a_login_and_its_clock_are_told(database, environ):
    login, clock, *_ = database_findings(settings_of(environ | database.settings))
    assert login.mark is clock.mark is Mark.GOOD
    user, name = database.settings["DB_USER"], database.name
    assert login.text.startswith(f"{user} may log in to {name} at {database.settings['DB_HOST']}")
    assert f"server {database.version}; session read-only, times in +00:00" in login.text
    assert clock.text == "agrees with this machine's"


def test_a_query_that_is_not_there_and_a_server_that_is_not_are_told_both(environ, monkeypatch):
    monkeypatch.setattr(query_file, "QUERIES_FILE", Path("/nowhere/queries.sql"))
    found = list(database_findings(settings_of(environ)))
    assert [(finding.what, finding.mark, finding.status) for finding in found] == [
        ("Query 2", Mark.BAD, ExitStatus.DATABASE),
        ("Database", Mark.BAD, ExitStatus.DATABASE),
    ]
    assert "cannot be read" in found[0].text
    assert "cannot connect" in found[1].text


@pytest.mark.database
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT 1 AS customer_id, 2 AS email", "must return browser, event_time, first_name"),
        ("SELECT * FROM no_such_table", "a table is missing"),
        ("SELECT nothing FROM customers", "a column is missing"),
        ("SELECT FROM", "check the query's syntax"),
        ("SELECT ? AS customer_id", "it has a ? where a value must be"),
        ("SELECT 1 AS email, 2 AS email", "returns email twice"),
    ],
)
def test_a_query_that_would_fail_is_told_by_the_server(connection, query, told):
    (finding,) = query_findings(connection, query)
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.DATABASE)
    assert told in finding.text


@pytest.mark.database
def test_a_server_that_is_too_old_is_a_warning(database, environ, monkeypatch):
    monkeypatch.setattr(least_versions, "MYSQL", (99, 0))
    monkeypatch.setattr(least_versions, "MARIADB", (99, 0))
    _, old, *rest = database_findings(settings_of(environ | database.settings))
    if database.server.kind != "seekdb":
        assert old.mark is Mark.WARNING
        assert "Query 2 as it comes needs MySQL 99.0 or MariaDB 99.0, or newer" in old.text
    assert rest[-2].text.startswith("can be run")


@pytest.mark.database
def test_query_2_is_looked_at_without_being_run(connection):
    slow = load_query(JOB_QUERY).replace("ROW_NUMBER()", "SLEEP(5) + ROW_NUMBER()")
    finding = next(query_findings(connection, f"{slow} -- the end"))
    assert finding.mark is Mark.GOOD
    assert finding.text == "can be run and returns its 9 columns"


@pytest.mark.database
@pytest.mark.parametrize(
    ("found", "changed"),
    [
        ("SELECT customer_id", "SELECT SQL_NO_CACHE customer_id"),
        ("SELECT customer_id", "SELECT SQL_BUFFER_RESULT STRAIGHT_JOIN customer_id"),
        ("page_view_id DESC", "page_view_id DESC LIMIT 1 LOCK IN SHARE MODE"),
        ("page_view_id DESC", "page_view_id DESC -- the end"),
    ],
)
def test_a_query_that_a_run_takes_is_good(database, connection, found, changed):
    if "SHARE" in changed and database.server.kind == "seekdb":
        pytest.skip("this server has no such lock")
    query = changed.join(load_query(JOB_QUERY).rsplit(found, 1))
    connection.get_pro_users_recent_engagement(query).close()
    first, *_ = query_findings(connection, query)
    assert (first.mark, first.text) == (Mark.GOOD, "can be run and returns its 9 columns")


@pytest.mark.database
@pytest.mark.parametrize("identity", ["email", "user_id"])
@pytest.mark.parametrize(
    ("column_type", "suffix", "told"),
    [
        ("TINYINT", "", "user.vip is TINYINT, which can be a number or a boolean: write AS"),
        ("BOOLEAN", "", "write AS `user.vip:long` or AS `user.vip:boolean`"),
        ("BIT(8)", "", "user.vip is BIT, which can be a number or a boolean: write AS `user.vip:l"),
        ("BIT(8)", ":string", "user.vip:string is BIT and cannot be sent as :string; it is BIT"),
        ("INT", ":integer", "user.vip:integer has the unknown type :integer; use one of :string"),
        ("BLOB", "", "user.vip holds bytes: use BIN_TO_UUID() in Query 2"),
        ("TINYINT", ":long", "sends user.vip:long as long"),
        ("BOOLEAN", ":boolean", "sends user.vip:boolean as boolean"),
        ("BIT(8)", ":long", "sends user.vip:long as long"),
        ("DECIMAL(10, 2)", ":string", "sends user.vip:string as string"),
        ("DECIMAL(10, 2)", "", "sends user.vip as double"),
        ("DATETIME(6)", "", "sends user.vip as date"),
    ],
)
def test_where_a_column_goes_or_why_it_cannot_is_told(
    database, environ, tmp_path, column_type, suffix, told, identity
):
    database.execute(f"ALTER TABLE customers ADD vip {column_type} NULL")
    query = tmp_path / "own.sql"
    query.write_text(
        "SELECT 1 AS customer_id, c.email, NULL AS first_name, NULL AS plan_type, "
        "1 AS page_view_id, NULL AS page, NOW() AS event_time, NULL AS browser, NULL AS location, "
        f"c.vip AS `user.vip{suffix}` FROM customers AS c"
    )
    changes = {"QUERY_FILE": str(query), "ITERABLE_IDENTITY": identity}
    settings = settings_of(environ | database.settings, **changes)
    *_, finding = [each for each in database_findings(settings) if each.what == COLUMNS]
    assert told in finding.text
    if told.startswith("sends"):
        assert finding.mark is Mark.GOOD
    else:
        assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.USAGE)


@pytest.mark.parametrize("rows", ["15 (9%)", 15, "15", b"15", "15.7"])
def test_a_number_of_rows_is_read_however_the_server_shows_it(rows):
    shown = dict.fromkeys(EXPLAIN_COLUMNS) | {
        "table": "pv", "type": "ref|filter", "key": "a|b", "rows": rows
    }  # fmt: skip
    (table,) = execution_plan([shown])
    assert (table.rows, table.index, table.whole) == (15, "a|b", False)


@pytest.mark.parametrize("odd", [None, "", "many", "-", -1, b"\xff", {"a": 1}])
@pytest.mark.parametrize("column", sorted(EXPLAIN_COLUMNS - {"id"}))
def test_whatever_a_server_shows_of_its_plan_nothing_breaks(column, odd):
    row = {"id": 1, "table": "pv", "type": "ALL", "key": None, "rows": 10, "Extra": ""}
    tables = execution_plan([row | {column: odd}, row])
    assert execution_plan_finding(tables, "SELECT 1").mark is Mark.GOOD


@pytest.mark.database
def test_rows_that_mariadb_filters_by_an_index_are_understood(database, connection):
    if database.server.kind != "mariadb":
        pytest.skip("only MariaDB shows the filter among the rows")
    database.execute(
        "CREATE TABLE views (id INT PRIMARY KEY AUTO_INCREMENT, a INT, b INT, c CHAR(200), "
        "KEY (a), KEY (b))"
    )
    # Spread, so that a filter pays.
    database.execute(
        "INSERT INTO views (a, b, c) SELECT seq % 20, (seq * 7919) % 30, 'x' FROM seq_1_to_20000"
    )
    database.execute("ANALYZE TABLE views")
    query = "SELECT * FROM views WHERE a = 3 AND b BETWEEN 2 AND 4"
    plan = connection.execute_query(f"{EXPLAIN} {query}")
    assert "%" in str(plan[0]["rows"])
    (table,) = execution_plan(plan)
    assert 100 < table.rows < 10_000


@pytest.mark.database
@pytest.mark.parametrize("left", ["ix_page_views_user", None])
def test_many_rows_of_page_views_read_without_their_index_are_a_warning(
    database, connection, monkeypatch, left
):
    if database.server.kind == "seekdb":
        pytest.skip("this server shows its execution plans in a form of its own")
    query = load_query(JOB_QUERY)
    database.execute("ALTER TABLE page_views DROP FOREIGN KEY fk_page_views_user")
    for index in {"ix_page_views_recent", "ix_page_views_user"} - {left}:
        database.execute(f"ALTER TABLE page_views DROP INDEX {index}")
    database.execute("ANALYZE TABLE customers, page_views")  # the server guesses by what it knew
    tables = execution_plan(connection.execute_query(f"{EXPLAIN} {query}"))
    assert execution_plan_finding(tables, query).mark is Mark.GOOD  # 40 rows can be read anyhow
    monkeypatch.setattr(preflight_database, "MANY_ROWS", 10)
    warning = execution_plan_finding(tables, query)
    assert warning.mark is Mark.WARNING
    assert f"Create the index {INDEX} as database_setup.sql does" in warning.text
    assert f"KEY {INDEX} " in (HERE / "database_setup.sql").read_text()


@pytest.mark.database
def test_the_execution_plan_names_the_indexes(database, connection):
    _, finding = query_findings(connection, load_query(JOB_QUERY))
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
    table = TableAccess("pv", index="", rows=10**6)
    assert execution_plan_finding([table], f"SELECT 1 FROM {tables} WHERE 1").mark is Mark.WARNING
    assert execution_plan_finding([table], "SELECT 1 FROM customers AS pv").mark is Mark.GOOD


@pytest.mark.parametrize(
    ("ahead_s", "mark", "told"),
    [
        (-58, Mark.GOOD, "agrees"),
        (-62, Mark.WARNING, "62 s behind this machine's; Query 2 counts its seven days by it"),
        (7200, Mark.WARNING, "7,200 s ahead of this machine's; Query 2"),
    ],
)
def test_a_database_clock_that_is_off_is_a_warning(ahead_s, mark, told):
    finding = database_clock_finding(datetime.now(UTC) + timedelta(seconds=ahead_s))
    assert finding.mark is mark
    assert told in finding.text
