"""Fixtures: a real database server for the session, a fresh database and Iterable for each test."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import mysql.connector
import pytest
from mysql.connector.abstracts import MySQLConnectionAbstract
from mysql.connector.pooling import PooledMySQLConnection

from logger_config import setup_logger
from sandbox.database import DATABASE_NAME, NoServerError, PrivateDatabase, find_servers, run_script
from sandbox.iterable import IterableSandbox

# An example takes as long as the machine is busy.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")
ROOT = Path(__file__).resolve().parent.parent
FETCHED_FOLDER = ROOT / ".cache" / "mariadb"
# What is fetched is found after what is there already.
os.environ["PATH"] += f":{FETCHED_FOLDER / 'bin'}"
EXPECTED = os.environ.get("EXPECT_DATABASE", "")


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes ``-n auto`` starts: tests wait as much as they compute."""
    return 3 * (os.cpu_count() or 1) // 2


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark what needs a database server as such."""
    for item in items:
        if "database_server" in item.fixturenames:
            item.add_marker("database")


@pytest.fixture(autouse=True)
def _handlers_as_they_were() -> Iterator[None]:
    """Undo what a run inside a test leaves behind: at its end it lets signals change nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """Collect the texts of the warnings and errors that the job logs."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    top = setup_logger(quiet=True)
    top.addHandler(handler)
    yield texts
    top.removeHandler(handler)


@dataclass(frozen=True)
class Database:
    """One test's own database, as database_setup.sql leaves it."""

    name: str
    server: PrivateDatabase

    @property
    def settings(self) -> dict[str, str]:
        """Return the job's DB_ variables for this database; its user may only SELECT."""
        return {**self.server.settings, "DB_NAME": self.name}

    @property
    def version(self) -> str:
        """Return what SELECT VERSION() says."""
        return self.server.version

    def connect(self) -> MySQLConnectionAbstract | PooledMySQLConnection:
        """Return a new connection as root, for a test that needs a session of its own."""
        return mysql.connector.connect(**self.server.connection_options(self.name))

    def execute(self, sql: str, params: Any = None) -> list[Any]:
        """Run one statement as root; return its rows, none for a statement without a result."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql, params or ())
            return cursor.fetchall() if cursor.description else []

    def script(self, name: str) -> str:
        """Return the text of one of the project's SQL files, made to use this database."""
        text = (ROOT / name).read_text(encoding="utf-8")
        return text.replace(DATABASE_NAME, self.name)

    def run_file(self, name: str) -> list[list[Any]]:
        """Run one of the project's SQL files here; return the rows of each statement."""
        with mysql.connector.connect(**self.server.connection_options()) as connection:
            return run_script(connection, self.script(name))


def fetch_server() -> None:
    """Fetch a server where there is none but pylibseekdb's."""
    first = next(find_servers(), None)
    if first is None or first.name == "seekdb":
        subprocess.run([ROOT / "tests" / "fetch_server.sh", "mariadb", FETCHED_FOLDER], check=False)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fetch a server here, once, because a test has a time limit."""
    if not (hasattr(session.config, "workerinput") or session.config.option.collectonly):
        fetch_server()


@pytest.fixture(scope="session")
def database_server() -> Iterator[PrivateDatabase]:
    """Start a real server, the first that does; in CI it must be the expected one."""
    try:
        with PrivateDatabase() as private:
            if EXPECTED not in private.version:
                pytest.fail(f"EXPECT_DATABASE={EXPECTED}, but it is {private.version}")
            yield private
    except NoServerError as error:
        hint = "tests/fetch_server.sh mariadb .cache/mariadb gets one on Debian."
        (pytest.fail if EXPECTED else pytest.skip)(f"NO DATABASE TESTS: {error}\n{hint}")


@pytest.fixture
def database(database_server: PrivateDatabase) -> Iterator[Database]:
    """Make a database for one test from database_setup.sql, and drop it afterwards."""
    fresh = Database(f"test_{secrets.token_hex(6)}", database_server)
    fresh.run_file("database_setup.sql")
    yield fresh
    with mysql.connector.connect(**database_server.connection_options()) as connection:
        run_script(connection, f"DROP DATABASE {fresh.name}")


@pytest.fixture
def iterable() -> Iterator[IterableSandbox]:
    """Serve a local Iterable on a free port."""
    with IterableSandbox() as sandbox:
        yield sandbox
