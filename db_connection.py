"""Rows out of MySQL or MariaDB, read-only and bounded in time."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import mysql.connector
from mysql.connector import errors
from mysql.connector.abstracts import MySQLConnectionAbstract, MySQLCursorAbstract
from mysql.connector.constants import ClientFlag

from logger_config import get_logger
from records.exit_statuses import ExitStatus, RunError
from records.row_spool import RowSpool

logger = get_logger(__name__)

QUERIES_FILE = Path(__file__).resolve().parent / "phase2_queries.sql"
JOB_QUERY = 2
JOB_COLUMNS = frozenset({
    "customer_id", "email", "first_name", "plan_type",
    "page_view_id", "page", "event_time", "browser", "location",
})  # fmt: skip

CONNECT_TIMEOUT_S = 10
# The client waits longer than the server's own limit, whose error says more than a broken read.
READ_MARGIN_S = 15
MAX_MESSAGE = 200
UNKNOWN_SYSTEM_VARIABLE = 1193

_SESSION_OPTIONS = {
    # The pair that every MySQL, every MariaDB and the demo's server understand.
    "charset": "utf8mb4",
    "collation": "utf8mb4_general_ci",
    "autocommit": True,
    # Not a second statement in one call, whatever it is made of.
    "client_flags": [-ClientFlag.MULTI_STATEMENTS],
}

_LOST = (
    "the server did not answer in time, or closed the connection; check DB_HOST, DB_PORT and the "
    "server's own log"
)
# What the operator can change, by the error's number. Numbers, because the connector's classes
# differ between its two implementations.
_HINTS = {
    1040: "the server has no connection left; run again later, or raise its max_connections",
    1044: "this user has no rights on the database; grant SELECT or check DB_NAME",
    1045: "check DB_USER and DB_PASSWORD",
    1049: "check DB_NAME, or create the database with database_setup.sql",
    1054: "a column is missing; compare the tables with database_setup.sql",
    1064: "check the query's syntax in phase2_queries.sql",
    1130: "the server admits nobody from this machine; create DB_USER for its address",
    1142: "this user needs SELECT on the tables",
    1146: "a table is missing; create it with database_setup.sql or check DB_NAME",
    1298: "the server does not know DB_TIME_ZONE; load its time zone tables, or use an offset",
    1317: "somebody ended the query on the server; run again",
    1698: "this user logs in without a password, by another way; create one of the job's own",
    1792: "the job's session is read-only; phase2_queries.sql may only SELECT",
    1969: "the query ran longer than DB_QUERY_TIMEOUT_SECONDS; check its index",
    2002: "check DB_HOST; no server listens on that socket",
    2003: "check DB_HOST and DB_PORT, and that the server is running",
    2005: "check DB_HOST; the name cannot be resolved",
    2006: _LOST,
    2013: _LOST,
    2026: "TLS failed; check DB_SSL_CA and that the server's certificate names DB_HOST",
    2055: "the connection was lost, or TLS failed; check DB_SSL_CA and the server's own log",
    3024: "the query ran longer than DB_QUERY_TIMEOUT_SECONDS; check its index",
}


class DatabaseError(RunError):
    """MySQL could not be read."""

    status = ExitStatus.DATABASE


class DatabaseConnection:
    """A read-only session on one database.

    *host* is a name, an address or, when it begins with ``/``, the path of a Unix socket.
    *ssl_ca* is a CA file: when given, the server must prove its certificate and its name.
    *time_zone* is the session's: an offset from UTC such as ``+00:00``, or a name that the server
    knows. *query_timeout_s* is the server's limit for one statement, whole seconds; a server that
    says nothing for longer than that is given up.

    ``version`` is what the server calls itself, once connected.

    Every method raises DatabaseError, and nothing else, for what the server or the network do.
    """

    def __init__(  # noqa: PLR0913 - keyword-only, each with its default
        self,
        *,
        host: str,
        user: str,
        password: str,
        database: str,
        port: int = 3306,
        ssl_ca: Path | None = None,
        time_zone: str = "+00:00",
        query_timeout_s: int = 300,
    ) -> None:
        self._options: dict[str, Any] = {
            **_SESSION_OPTIONS,
            "user": user,
            "password": password,
            "database": database,
            "connection_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": query_timeout_s + READ_MARGIN_S,
            **({"unix_socket": host} if host.startswith("/") else {"host": host, "port": port}),
        }
        if ssl_ca is not None:
            must_prove = {"ssl_verify_cert": True, "ssl_verify_identity": True}
            self._options |= {"ssl_ca": str(ssl_ca), **must_prove}
        self._time_zone = time_zone
        self._query_timeout_s = query_timeout_s
        self._connection: MySQLConnectionAbstract | None = None
        self.version = ""

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def connect(self) -> None:
        """Log in and make the session read-only and bounded."""
        try:
            connection = mysql.connector.connect(**self._options)
            # Not a pool and not asyncio, so the connector's wide return type is this one.
            assert isinstance(connection, MySQLConnectionAbstract)  # noqa: S101
            self._connection = connection
            with connection.cursor() as cursor:
                self.version = self._prepare_session(cursor)
        except mysql.connector.Error as error:
            self.disconnect()
            raise _explain("cannot connect", error) from None
        # What the connector trips over when it is no MySQL server that answers.
        except (LookupError, TypeError, ValueError, struct.error) as error:
            self.disconnect()
            raise DatabaseError(
                "cannot connect: check DB_HOST and DB_PORT; what answers there is no MySQL server "
                f"({type(error).__name__})"
            ) from None
        logger.debug("server %s, through %s", self.version, type(connection).__name__)

    def disconnect(self) -> None:
        """Close the session; harmless when there is none."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception as error:  # noqa: BLE001 - a dead connection fails in several ways
                logger.debug("closing the connection failed: %s", type(error).__name__)

    def execute_query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of one SELECT, each a dict from column name to value."""
        columns, rows = self._run(sql)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def get_pro_users_recent_engagement(
        self, query: str | None = None, folder: Path | None = None
    ) -> RowSpool:
        """Return the rows of Query 2: each pro user with the latest view of pricing or settings.

        *query* runs in its place, if given. Each row is a dict with the columns ``JOB_COLUMNS``.
        The rows are kept in a file in *folder*, by default the system's for temporary files; the
        caller closes it. Raises SpoolError, besides DatabaseError, when they do not fit there.
        """
        columns, rows = self._run(query or load_query(JOB_QUERY))
        if missing := JOB_COLUMNS.difference(columns):
            raise DatabaseError(f"Query {JOB_QUERY} must return {', '.join(sorted(missing))}")
        spool = RowSpool(columns, folder)
        try:
            spool.extend(rows)
            spool.flush()
        except BaseException:
            spool.close()
            raise
        return spool

    def _prepare_session(self, cursor: MySQLCursorAbstract) -> str:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        cursor.execute("SET SESSION time_zone = %s", (self._time_zone,))
        try:
            cursor.execute("SET SESSION max_execution_time = %s", (self._query_timeout_s * 1000,))
        except mysql.connector.Error as error:
            if error.errno != UNKNOWN_SYSTEM_VARIABLE:
                raise
            # MariaDB's name for it, in seconds.
            cursor.execute("SET SESSION max_statement_time = %s", (self._query_timeout_s,))
        cursor.execute("SELECT VERSION()")
        row: Any = cursor.fetchone()
        return str(row[0])

    def _run(self, sql: str) -> tuple[list[str], Iterator[list[Any]]]:
        """Run *sql*; return its columns, and its rows as the server sends them."""
        if self._connection is None:
            raise DatabaseError("not connected; call connect() first")
        try:
            # Not buffered: the connector would hold all rows in memory.
            cursor = self._connection.cursor()
            cursor.execute(sql)
        except mysql.connector.Error as error:
            raise self._failed(error) from None
        columns = [column[0] for column in cursor.description or ()]
        # A dict keeps only the last of two columns with one name.
        if doubled := {name for name in columns if columns.count(name) > 1}:
            raise DatabaseError(f"the query returns {', '.join(sorted(doubled))} twice")
        return columns, self._rows(cursor)

    def _rows(self, cursor: MySQLCursorAbstract) -> Iterator[Any]:
        try:
            # One at a time, as fetchmany() does it too: of large values few fit into memory.
            while (row := cursor.fetchone()) is not None:
                yield row
            cursor.close()
        except mysql.connector.Error as error:
            raise self._failed(error) from None

    def _failed(self, error: mysql.connector.Error) -> DatabaseError:
        # After a failed read only closing is safe: anything else may block once more.
        self.disconnect()
        return _explain("the query failed", error)


def _explain(what: str, error: mysql.connector.Error) -> DatabaseError:
    """Return an error that says what failed, what to change and what the server said."""
    number = error.errno
    hint = _HINTS.get(number, "see the server's message")
    # The connector uses MySQL's number 3024 for its own timeouts too, and -1 if a connection has
    # gone dead unused.
    timeouts = errors.ConnectionTimeoutError | errors.ReadTimeoutError
    if isinstance(error, timeouts) or (isinstance(error, errors.OperationalError) and number == -1):
        hint = _LOST
    said = " ".join(str(error.msg or "").split())[:MAX_MESSAGE]
    return DatabaseError(f"{what}: {hint} (MySQL error {number}: {said})")


# What in an SQL text is no SQL. A comment that begins with /*! or /*M! is run, so it is not here.
_QUOTED_OR_COMMENT = re.compile(
    r"""'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | `[^`]*`
    | --(?=\s|$)[^\n]* | \#[^\n]* | /\*(?!M?!).*?\*/""",
    re.DOTALL | re.VERBOSE,
)


def load_query(number: int) -> str:
    """Return the statement below the comment ``-- Query <number>: ...`` of ``QUERIES_FILE``.

    It ends with its semicolon, before the next such comment, or with the file.

    Raises DatabaseError when there is none, more than one, or one that does not only read.
    """
    name = QUERIES_FILE.name
    statement = rf"^-- Query {number}:[^\n]*(.*?)(?=^-- Query \d+:|\Z)"
    found = re.findall(statement, _queries_text(), re.DOTALL | re.MULTILINE)
    if len(found) != 1:
        raise DatabaseError(
            f"{name} must have one line '-- Query {number}: ...' above the job's query, "
            f"not {len(found)}"
        )
    try:
        return _single_select(found[0])
    except ValueError as error:
        raise DatabaseError(f"Query {number} in {name} {error}") from None


def _queries_text() -> str:
    try:
        return QUERIES_FILE.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatabaseError(f"{QUERIES_FILE} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DatabaseError(f"{QUERIES_FILE} is not UTF-8; save it as UTF-8") from None


def _single_select(sql: str) -> str:
    """Return the one statement of *sql* without its semicolon; ValueError if it does not only read.

    The session is read-only all the same. This is for a clear word before anything is run.
    """
    # Of the same length, so that what is found in it is found at the same place in *sql*.
    bare = _QUOTED_OR_COMMENT.sub(lambda match: " " * len(match[0]), sql)
    end = bare.find(";") if ";" in bare else len(bare)
    if not bare[:end].strip():
        raise ValueError("is empty")
    if bare[end:].strip("; \t\n"):
        raise ValueError("must be one statement; there is more after its semicolon")
    if not re.match(r"[\s(]*(SELECT|WITH)\b", bare, re.IGNORECASE):
        raise ValueError("must begin with SELECT or WITH")
    if re.search(r"\bINTO\s+(OUTFILE|DUMPFILE)\b", bare, re.IGNORECASE):
        raise ValueError("must return its rows, not write them to a file with INTO")
    return sql[:end].strip()
