"""Fixtures: a real database server for the session, a fresh database and Iterable for each test."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import mysql.connector
import pytest
import trustme
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
FETCHED_SERVER = FETCHED_FOLDER / "bin" / "mariadbd"
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


class DatabaseServer:
    """The server the tests run on.

    ``version``: what SELECT VERSION() says. ``kind``: 'mariadb', 'mysql' or 'seekdb'. ``server``:
    the program.
    """

    def __init__(self, private: PrivateDatabase) -> None:
        self._private = private
        self.version, self.kind, self.server = private.version, private.kind, private.server
        self.connection_options = private.connection_options

    def settings(self, database: str) -> dict[str, str]:
        """Return the job's DB_ variables; its user may only SELECT."""
        return {**self._private.settings, "DB_NAME": database}


@dataclass(frozen=True)
class Database:
    """One test's own database, as database_setup.sql leaves it."""

    name: str
    server: DatabaseServer

    @property
    def settings(self) -> dict[str, str]:
        """Return the job's DB_ variables for this database."""
        return self.server.settings(self.name)

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


def local_servers() -> Iterator[Path]:
    """Yield the servers to try, best first. Reads the disk only when asked for the next one."""
    installed = list(find_servers())
    yield from (server for server in installed if server.name != "seekdb")
    if FETCHED_SERVER.exists():
        yield FETCHED_SERVER
    yield from (server for server in installed if server.name == "seekdb")


def _has_no_server_to_rely_on() -> bool:
    first = next(local_servers(), None)
    return first is None or first.name == "seekdb"


def pytest_report_header() -> str:
    """Name the server that the database tests will use."""
    first = next(local_servers(), None)
    if _has_no_server_to_rely_on():
        return f"database: MariaDB 10.11, to be fetched to {FETCHED_FOLDER}; else {first}"
    return f"database: a private {first}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fetch a server where there is none: here, once, because a test has a time limit."""
    one_of_several = hasattr(session.config, "workerinput")
    if not (one_of_several or session.config.option.collectonly) and _has_no_server_to_rely_on():
        subprocess.run([ROOT / "tests" / "fetch_server.sh", "mariadb", FETCHED_FOLDER], check=False)


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    """Start a real server, the first that does; in CI it must be the expected one."""
    reasons = ["NO DATABASE TESTS: no server starts."]
    for path in local_servers():
        try:
            with PrivateDatabase(path) as private:
                if EXPECTED not in private.version:
                    pytest.fail(f"EXPECT_DATABASE={EXPECTED}, but it is {private.version}")
                yield DatabaseServer(private)
                return
        except NoServerError as error:
            reasons.append(str(error))
    reasons.append("tests/fetch_server.sh mariadb .cache/mariadb gets one on Debian.")
    (pytest.fail if EXPECTED else pytest.skip)("\n".join(reasons))


@pytest.fixture
def database(database_server: DatabaseServer) -> Iterator[Database]:
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


@pytest.fixture
def tls_server() -> Iterator[SimpleNamespace]:
    """Serve TLS under a certificate that nobody trusts; ``received`` is what came through."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    received: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the test is over
                return
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(connection, server_side=True) as secure,
            ):
                received.append(secure.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        yield SimpleNamespace(url=url, received=received)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
