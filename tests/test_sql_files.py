"""database_setup.sql and phase2_queries.sql, on a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import datetime, timedelta

import mysql.connector
import pytest

from db_connection import load_query
from iterable_api.mapping import JOB_COLUMNS
from sandbox.database import run_script
from tests.conftest import ROOT, Database

pytestmark = pytest.mark.database

WINNERS = ["sarah.johnson@email.com", "olivia.brown@email.com", "mia.harris@email.com"]
SARAH, OLIVIA, MIA = WINNERS

BECOMES_PRO = "UPDATE customers SET plan_type = 'pro' WHERE email = %s"
VIEWS_MOVE_UP = "UPDATE page_views SET event_time = event_time + INTERVAL 5 DAY WHERE user_id = %s"
SEES_PRICING = "UPDATE page_views SET page = 'pricing' WHERE user_id = %s"
NOT_PRO = (
    *("michael.chen", "emily.davis", "sophia.garcia", "ava.thomas", "isabella.lewis"),
    "charlotte.young",
)
NEW_VIEW = "INSERT INTO page_views (user_id, page) VALUES (%s, 'settings')"


def delivered(database: Database) -> list[str]:
    return [email for _, email, *_ in database.execute(load_query(2))]


def test_query_2_has_three_rows_in_this_order(database):
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(load_query(2))
        assert cursor.column_names == JOB_COLUMNS
        rows = cursor.fetchall()
    assert [row[:6] + row[7:] for row in rows] == [
        (1, SARAH, "Sarah", "pro", 4, "pricing", "Chrome", "New York"),
        (5, OLIVIA, "Olivia", "pro", 6, "settings", "Firefox", "San Francisco"),
        (11, MIA, "Mia", "pro", 12, "settings", "Safari", "Chicago"),
    ]


def test_the_set_up_can_run_again_and_resets_what_was_changed_and_the_keys_hold(database):
    database.execute("DELETE FROM page_views WHERE user_id = 1")
    database.execute("INSERT INTO customers (email) VALUES ('somebody@example.com')")
    database.run_file("database_setup.sql")
    assert database.execute("SELECT COUNT(*) FROM customers") == [(15,)]
    assert database.execute("SELECT COUNT(*) FROM page_views") == [(40,)]
    assert delivered(database) == WINNERS
    with pytest.raises(mysql.connector.Error, match="foreign key"):
        database.execute(NEW_VIEW, (4711,))
    with pytest.raises(mysql.connector.Error, match="Duplicate entry"):
        database.execute("INSERT INTO customers (email) VALUES (UPPER(%s))", (SARAH,))


@pytest.mark.parametrize(
    ("name", "change", "argument"),
    [
        *((name, BECOMES_PRO, f"{name}@email.com") for name in NOT_PRO),
        ("james.wilson", VIEWS_MOVE_UP, 4),
        ("ethan.clark", VIEWS_MOVE_UP, 12),
        ("ethan.clark", SEES_PRICING, 12),
        ("daniel.martinez", SEES_PRICING, 6),
        ("lucas.walker", SEES_PRICING, 14),
        ("liam.anderson", NEW_VIEW, 8),
    ],
)
def test_a_near_miss_misses_by_one_thing(database, name, change, argument):
    database.execute(change, (argument,))
    assert sorted(delivered(database)) == sorted([*WINNERS, f"{name}@email.com"])


def test_of_two_views_at_the_same_instant_the_higher_id_is_delivered(database):
    times = dict(database.execute("SELECT id, event_time FROM page_views WHERE id IN (11, 12)"))
    assert times[11] == times[12]
    assert database.execute(load_query(2))[2][4:6] == (12, "settings")
    again = "INSERT INTO page_views (user_id, page, event_time) SELECT 11, 'pricing', event_time"
    database.execute(f"{again} FROM page_views WHERE id = 11")
    assert database.execute(load_query(2))[2][4:6] == (41, "pricing")


def test_users_at_the_same_instant_come_in_the_order_of_their_views(database):
    database.execute("UPDATE customers SET plan_type = 'pro'")
    for user in (7, 3, 11, 1, 15, 5, 9, 13, 2, 8, 4, 12, 6, 14, 10):
        database.execute(NEW_VIEW, (user,))
    database.execute("UPDATE page_views SET event_time = NOW() WHERE id > 40")
    rows = database.execute(load_query(2))
    assert [row[4] for row in rows] == list(range(55, 40, -1))


@pytest.mark.parametrize("time_zone", ["-12:00", "+13:00"])
@pytest.mark.parametrize("clock", ["00:00:00", "23:59:59"])
@pytest.mark.parametrize("hours_later", [0, 12])
def test_the_answer_is_the_same_at_any_hour(database, clock, time_zone, hours_later):
    instant = datetime.fromisoformat(f"2026-03-01T{clock}+00:00")
    with database.connect() as connection:
        run_script(connection, f"SET timestamp = {instant.timestamp()}")
        run_script(connection, database.script("database_setup.sql"))
        later = instant + timedelta(hours=hours_later)
        run_script(
            connection, f"SET timestamp = {later.timestamp()}; SET time_zone = '{time_zone}'"
        )
        [rows] = run_script(connection, load_query(2))
    assert [row[1] for row in rows] == WINNERS


def test_the_window_begins_at_midnight_seven_days_ago(database):
    with database.connect() as connection:
        run_script(connection, "SET timestamp = UNIX_TIMESTAMP('2026-03-08 15:00:00')")
        change = "UPDATE page_views SET event_time = '{}' WHERE user_id = 4 AND id = 14"
        run_script(connection, change.format("2026-02-28 23:59:59"))
        [before] = run_script(connection, load_query(1))
        run_script(connection, change.format("2026-03-01 00:00:00"))
        [after] = run_script(connection, load_query(1))
    assert not any(row[2] == 14 for row in before)
    assert any(row[2] == 14 for row in after)


def test_query_1_ranks_what_query_2_picks_and_query_3_sums_up(database):
    _, ranked, latest, summary = database.run_file("phase2_queries.sql")
    assert [row[2] for row in ranked] == [4, 3, 2, 6, 7, 8, 12, 11, 10]
    assert [row[5] for row in ranked] == [1, 2, 3] * 3
    assert {row[2] for row in ranked if row[5] == 1} == {row[4] for row in latest}
    assert [row[:3] for row in summary] == [("pricing", 6, 3), ("settings", 3, 3)]
    assert sum(row[1] for row in summary) == len(ranked)
    assert max(row[4] for row in summary) == latest[0][6]


def test_query_2_reads_page_views_from_the_covering_index_alone(database):
    if database.server.kind == "seekdb":
        pytest.skip("this server shows its execution plans in a form of its own")
    # Some thousand users and eight views of each, spread over 90 days and 6 pages.
    database.execute(
        "INSERT INTO customers (email, plan_type)"
        " SELECT CONCAT(a.id, '.', b.id, '.', c.id, '@example.com'), a.plan_type"
        " FROM customers a, customers b, customers c"
    )
    database.execute(
        "INSERT INTO page_views (user_id, page, event_time) SELECT 1 + MOD(n, 3000),"
        " ELT(1 + MOD(n, 6), 'pricing', 'settings', 'home', 'blog', 'dashboard', 'docs'),"
        " NOW() - INTERVAL MOD(n * 7919, 90 * 24) HOUR"
        " FROM (SELECT a.id * 600 + b.id * 15 + c.id AS n"
        "       FROM page_views a, page_views b, customers c WHERE c.id <= 15) AS numbers"
    )
    database.execute("ANALYZE TABLE customers, page_views")
    with database.connect() as connection, connection.cursor(dictionary=True) as cursor:
        cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {load_query(2)}")
        [access] = [row for row in cursor.fetchall() if row["table"] == "pv"]
    assert (access["type"], access["key"]) == ("range", "ix_page_views_recent")
    assert "Using index" in access["Extra"].split("; ")


def mysql_client(kind: str) -> str | None:
    """Return the client that belongs to this kind of server, else any."""
    fetched = ROOT / ".cache" / kind / "bin" / "mysql"
    names = (str(fetched), "mysql", "mariadb", str(ROOT / ".cache" / "mariadb" / "bin" / "mysql"))
    return next(filter(None, map(shutil.which, names)), None)


def test_both_files_run_through_the_mysql_client(database):
    if (client := mysql_client(database.server.kind)) is None:
        pytest.skip("no mysql client; tests/fetch_server.sh mariadb .cache/mariadb gets one")
    options = database.server.connection_options()
    # Root comes in by the socket.
    place = f"--socket={options['unix_socket']}"
    said = ""
    for name in ("database_setup.sql", "database_setup.sql", "phase2_queries.sql"):
        done = subprocess.run(
            [client, "--no-defaults", f"--user={options['user']}", place],
            input=database.script(name), capture_output=True, text=True, check=False,
            env={**os.environ, "MYSQL_PWD": options["password"]},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        said = done.stdout
    assert said.index(SARAH) < said.index(OLIVIA) < said.index(MIA)
