"""Query 2 with and without its covering index, on a million customers and their page views.

    python3 -m benchmarks.query_index [--views N] [--server PATH]

A fifth of the customers is on the plan 'pro'. The views are of six pages, spread evenly over 90
days, each by a random customer; the same ones at every run. Figures are warm: the tables fit in the
buffer pool, and the best of three runs counts. A cold server gains more by the index than shown.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

import mysql.connector

from records.query_file import JOB_QUERY, load_query
from sandbox.database import DATABASE_NAME, PrivateDatabase, run_script
from sandbox.demo import SETUP

CUSTOMERS = 1_000_000
VIEWS = 10_000_000
RUNS = 3
DATABASE = "benchmark_query_2"
# The second is MariaDB's name and the third MySQL's: a load waits for too small a redo log.
SERVER_SETTINGS = (
    "SET GLOBAL innodb_buffer_pool_size = 4294967296",
    "SET GLOBAL innodb_log_file_size = 1073741824",
    "SET GLOBAL innodb_redo_log_capacity = 1073741824",
)
UNKNOWN_SYSTEM_VARIABLE = 1193

# The numbers from 1 to a million, to make that many rows of in one statement.
NUMBERS = """
CREATE TABLE numbers (n INT UNSIGNED NOT NULL PRIMARY KEY) ENGINE = InnoDB;
INSERT INTO numbers
WITH digit (d) AS (
    SELECT 0 UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
    UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9
)
SELECT 1 + f.d + 10 * e.d + 100 * d.d + 1000 * c.d + 10000 * b.d + 100000 * a.d
FROM digit AS a, digit AS b, digit AS c, digit AS d, digit AS e, digit AS f;
"""
# An index is built faster at once, from full tables, than row by row.
EMPTY_TABLES = """
ALTER TABLE page_views DROP FOREIGN KEY fk_page_views_user;
ALTER TABLE page_views DROP KEY ix_page_views_user, DROP KEY ix_page_views_recent;
DELETE FROM page_views;
DELETE FROM customers;
"""
INSERT_CUSTOMERS = """
INSERT INTO customers (id, email, first_name, last_name, plan_type)
SELECT n, CONCAT('customer', n, '@example.com'), CONCAT('First', MOD(n, 997)), 'Last',
    ELT(1 + MOD(n, 5), 'free', 'pro', 'basic', 'free', 'enterprise')
FROM numbers
"""
# Rows are written as time goes by: the first view is 90 days old, the last is of now.
INSERT_VIEWS = """
INSERT INTO page_views (id, user_id, page, event_time, browser, location)
SELECT %(done)s + n, 1 + FLOOR(RAND(%(done)s + 11) * 1000000),
    ELT(1 + FLOOR(RAND(%(done)s + 7001) * 6),
        'pricing', 'settings', 'home', 'dashboard', 'blog', 'docs'),
    NOW() - INTERVAL FLOOR((%(views)s - %(done)s - n) / %(views)s * 7776000) SECOND,
    ELT(1 + MOD(n, 4), 'Chrome', 'Safari', 'Firefox', 'Edge'),
    ELT(1 + MOD(n, 7), 'New York', 'Boston', 'Chicago', 'Austin', 'Seattle', 'Denver', 'Miami')
FROM numbers
WHERE n <= %(views)s - %(done)s
"""


class Timing(NamedTuple):
    """Query 2 with one set of indexes; the best of some warm runs."""

    seconds: float  # until the first row: the window function has seen every row by then
    rows: int
    keys: str  # those that EXPLAIN names


class Comparison(NamedTuple):
    """What the covering index is worth on one server."""

    server: str
    without: Timing
    covered: Timing
    how: str  # the figures were taken


def tune(connection: Any) -> None:  # noqa: ANN401 - the connector has several types for it
    """Give the server room for a lot of data, as far as it knows the settings."""
    for setting in SERVER_SETTINGS:
        try:
            run_script(connection, setting)
        except mysql.connector.Error as error:
            if error.errno != UNKNOWN_SYSTEM_VARIABLE:
                raise


def compare(database: PrivateDatabase, views: int = VIEWS) -> Comparison:
    """Load the data, time Query 2 without and with the index, and drop what was made."""
    with closing(mysql.connector.connect(**database.connection_options())) as connection:
        try:
            tune(connection)
            began = time.perf_counter()
            add_index = load(connection, views)
            load_s = time.perf_counter() - began
            without = time_query(connection)
            run_script(connection, f"{add_index}; ANALYZE TABLE page_views")
            covered = time_query(connection)
            [[(pool_bytes,)]] = run_script(connection, "SELECT @@innodb_buffer_pool_size")
        finally:
            run_script(connection, f"DROP DATABASE IF EXISTS {DATABASE}")
    how = (
        f"{views:,} page views, {covered.rows:,} rows found; until the first row, warm, best of "
        f"{RUNS}; buffer pool {pool_bytes / (1 << 30):.1f} GiB; keys without the index "
        f"{without.keys}; with it {covered.keys}; the load took {load_s:.0f} s"
    )
    return Comparison(f"{database.kind} {database.version}", without, covered, how)


def load(connection: Any, views: int) -> str:  # noqa: ANN401
    """Fill the project's own tables; return the statement that adds the covering index."""
    setup = SETUP.read_text(encoding="utf-8").replace(DATABASE_NAME, DATABASE)
    # The definitions as they stand there, such as "KEY ix_page_views_user (user_id)".
    lines = re.findall(r"^ +((?:KEY|CONSTRAINT) \w*page_views.*?),?$", setup, re.MULTILINE)
    add_user, add_recent, add_foreign = (f"ALTER TABLE page_views ADD {line}" for line in lines)
    run_script(connection, setup)
    for script in (EMPTY_TABLES, NUMBERS, INSERT_CUSTOMERS):
        run_script(connection, script)
    with connection.cursor() as cursor:
        for done in range(0, views, CUSTOMERS):
            cursor.execute(INSERT_VIEWS, {"done": done, "views": views})
    unchecked = f"SET foreign_key_checks = 0; {add_foreign}; SET foreign_key_checks = 1"
    run_script(connection, f"{add_user}; {unchecked}; ANALYZE TABLE customers, page_views")
    return add_recent


def time_query(connection: Any) -> Timing:  # noqa: ANN401
    """Run Query 2, once to warm up and then for the record."""
    query, seconds, rows = load_query(JOB_QUERY), [], []
    with connection.cursor(dictionary=True) as cursor:
        cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {query}")
        keys = {line["table"]: line["key"] for line in cursor.fetchall()}
        for _ in range(1 + RUNS):
            began = time.perf_counter()
            cursor.execute(query)
            rows = [cursor.fetchone()]
            seconds.append(time.perf_counter() - began)
            rows += cursor.fetchall()
    return Timing(min(seconds[1:]), len(rows), f"page_views {keys['pv']}, customers {keys['c']}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison for one server."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.query_index")
    parser.add_argument("--views", type=int, default=VIEWS, help="page views; default %(default)s")
    parser.add_argument("--server", metavar="PATH", help="the server; default: the first found")
    args = parser.parse_args(argv)
    with PrivateDatabase(args.server) as database:
        server, without, covered, how = compare(database, args.views)
    seconds = f"{without.seconds:.2f} s without the index, {covered.seconds:.2f} s with it"
    sys.stdout.write(f"{server}: {seconds}; {how}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
