"""Reads rows from MySQL or MariaDB in a read-only session with time limits."""

import re
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import mysql.connector
from mysql.connector import errors
from mysql.connector.abstracts import MySQLCursorAbstract
from mysql.connector.connection import MySQLConnection
from mysql.connector.constants import ClientFlag
from mysql.connector.plugins import caching_sha2_password

from logger_config import get_logger
from records.columns import Watch, columns_of
from records.exit_statuses import DatabaseError
from records.files import text_of
from records.row_spool import RowSpool

logger = get_logger(__name__)

QUERIES_FILE = Path(__file__).resolve().parent / "phase2_queries.sql"
JOB_QUERY = 2
CONNECT_TIMEOUT_S = 10
# The client waits longer than the server's limit, whose error says more than its own timeout.
READ_MARGIN_S = 15
# Number of rows to read at a time, as long as each has fewer bytes than the second number.
ROWS_TOGETHER, SMALL_ROW = 100, 10_000

# Variables that can change or cut the rows of a SELECT without an error, each set so that it does
# not. One that the server does not know, or does not allow an ordinary user to set, is skipped.
_WHOLE_ROWS = (
    "group_concat_max_len = 4294967295",
    "sql_select_limit = 9223372036854775807",
    # Not more: MariaDB uses this much of its sort buffer for each text column.
    "max_sort_length = CAST(GREATEST(@@max_sort_length, 8192) AS UNSIGNED)",
    "sql_big_selects = 1",
    "sql_auto_is_null = 0",
    # The server must keep warnings, or they could not be counted.
    "max_error_count = 1000",
)
LOAD_ZONES = (
    "load the server's time zone tables as its root: mysql_tzinfo_to_sql /usr/share/zoneinfo | "
    "mysql -u root -p mysql (on MariaDB mariadb-tzinfo-to-sql and mariadb)"
)
# What to do about an error, by its number, if MySQL's own message does not say it. -1 is the
# connector's own, for a connection that broke.
_HINTS = (
    ({1044, 1049}, "check DB_NAME, and that DB_USER may read it"),
    (
        {1045, 1698},
        "check DB_USER and DB_PASSWORD. The server says the same if the account requires TLS and "
        "the server offers none, or a client certificate, which the job does not support",
    ),
    ({1064}, "check the query's syntax; window functions need MySQL 8.0 or MariaDB 10.2"),
    ({1298}, f"the server does not know DB_TIME_ZONE; use an offset, or {LOAD_ZONES}"),
    ({1969, 3024}, "the query ran longer than DB_QUERY_TIMEOUT_SECONDS; check its index"),
    ({2002, 2003, 2005}, "check DB_HOST and DB_PORT, and that the server is running"),
    ({-1, 2006, 2013}, "no answer, or the connection broke; check DB_HOST, DB_PORT and the server"),
    ({2026, 2055}, "the connection broke, or TLS failed; check DB_SSL_CA, DB_HOST and the server"),
)
_BEFORE = r"(?:[\s(]|(?:--|\#)[^\n]*\n|(?>/\*.*?\*/))*+"  # the first word of a query
# What the connector raises if the server does not speak MySQL's protocol.
_NOT_MYSQL = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error)


def load_query(number: int, path: Path | None = None) -> str:
    """Return the statement below the line ``-- Query <number>: ...`` of *path* or QUERIES_FILE.

    It ends with its last word before the next such line; a *path* without them is one statement.
    Raises DatabaseError if there is no such statement, more than one, or one that is no SELECT.
    """
    file = path or QUERIES_FILE
    try:
        text = text_of(file)
    except ValueError as error:
        raise DatabaseError(f"{file} {error}") from None
    whole, *parts = re.split(r"^-- Query (\d+):.*", text, flags=re.MULTILINE)
    named = zip(parts[::2], parts[1::2], strict=True)
    found = [sql for name, sql in named if name == str(number)] if parts or not path else [whole]
    if len(found) != 1:
        raise DatabaseError(f"{file.name} must have one line '-- Query {number}: ...'")
    # For a clear message before anything runs: the session is read-only, and takes one statement.
    if not re.match(rf"{_BEFORE}(?:SELECT|WITH)\b", found[0], re.DOTALL | re.IGNORECASE):
        raise DatabaseError(f"Query {number} in {file.name} must begin with SELECT or WITH")
    return re.sub(r"(?:[\s;]|^--[^\n]*)++\Z", "", found[0], flags=re.MULTILINE).lstrip()


class _NoPlainText(caching_sha2_password.MySQLCachingSHA2PasswordAuthPlugin):
    """Refuses to send the password in plain text, which the connector would do."""

    def auth_response(self, auth_data: bytes, **kwargs: object) -> bytes | None:
        if bytes(auth_data) == bytes([self.perform_full_authentication]) and not self.ssl_enabled:
            raise DatabaseError(
                "cannot connect: the server asks for the password in plain text and offers no TLS; "
                "it was not sent. Turn on TLS on the server, or name its Unix socket in DB_HOST"
            )
        return super().auth_response(auth_data, **kwargs)


# The connector looks up the class by name in its own module.
setattr(caching_sha2_password, _NoPlainText.__name__, _NoPlainText)


class _Session(MySQLConnection):
    """The connector's session in pure Python: signals cannot interrupt the one in C."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        # Nobody can listen on a Unix socket.
        if "unix_socket" not in options:
            self._auth_plugin_class = _NoPlainText.__name__
        self.connect(**options)


@dataclass(kw_only=True, eq=False, repr=False)
class DatabaseConnection:
    """A read-only session on one database.

    *host* is a name, an address or, when it begins with ``/``, the path of a Unix socket.
    *ssl_ca* is a CA file: if given, the server's certificate and name are verified.
    *time_zone* is the session's: an offset from UTC such as ``+00:00``, or a name that the server
    knows. *query_timeout_s* is the server's limit for one statement, in whole seconds; the client
    stops waiting a little later.

    ``version`` is the server's own, once connected. Every method raises DatabaseError, and nothing
    else, for failures of server and network.
    """

    host: str
    user: str
    password: str
    database: str
    port: int = 3306
    ssl_ca: Path | None = None
    time_zone: str = "+00:00"
    query_timeout_s: int = 300
    version: str = field(default="", init=False)
    _connection: _Session | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def connect(self) -> None:
        """Log in, and make the session read-only with a time limit."""
        with self._explained("cannot connect"):
            self._connection = _Session(**self._options())
            with self._connection.cursor() as cursor:
                self._prepare_session(cursor)
                self.version = _value(cursor, "VERSION()")
        logger.debug("server %s", self.version)

    def disconnect(self) -> None:
        """Close the session, if there is one; a running query goes on until its time limit."""
        connection, self._connection = self._connection, None
        with suppress(Exception):  # a dead connection fails in several ways
            if connection is not None:
                connection.close()

    def execute_query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of one SELECT, each a dict from column name to value."""
        with self._explained():
            cursor: Any = self._opened().cursor(dictionary=True)
            cursor.execute(sql)
            return list(cursor.fetchall())

    def get_pro_users_recent_engagement(
        self, query: str | None = None, folder: Path | None = None, watch: Watch | None = None
    ) -> RowSpool:
        """Return the rows of Query 2: each pro user with the latest view of pricing or settings.

        *query* replaces Query 2, if given. The rows go through *watch*; if that does not take all,
        the session cannot be used again. Values stay MySQL's own bytes; the spool's ``columns``
        describe them. The spool is a file in *folder*, by default the system's for temporary files;
        the caller closes it. All warnings of the server become one warning in the log.
        Raises SpoolError, besides DatabaseError, if the rows do not fit on the disk.
        """
        with self._explained():
            # Not buffered: the connector would hold all rows in memory.
            cursor = self._opened().cursor(raw=True)
            cursor.execute(query or load_query(JOB_QUERY))
            columns = columns_of(cursor.description or ())
        spool = RowSpool(columns, folder)
        try:
            rows = self._raw_rows(len(columns))
            spool.extend(watch(columns, rows) if watch else rows)
            if not self._opened().unread_result:
                self._log_warnings()
        except BaseException:
            spool.close()
            raise
        return spool

    def _log_warnings(self) -> None:
        """Log the number of warnings from the server, without their texts, which quote values."""
        found = [(row["Level"], row["Code"]) for row in self.execute_query("SHOW WARNINGS")]
        counts = Counter(code for level, code in found if level == "Warning")
        if counts:
            codes = ", ".join(f"{count} of code {code}" for code, count in counts.most_common())
            text = "Query 2: warnings from the server: %s; run it in the mysql client to see them"
            logger.warning(text, codes)

    def _options(self) -> dict[str, Any]:
        at = {"host": self.host, "port": self.port}
        options: dict[str, Any] = {
            **({"unix_socket": self.host} if self.host.startswith("/") else at),
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "connection_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": self.query_timeout_s + READ_MARGIN_S,
            # Every MySQL, every MariaDB and the demo's server know this pair.
            "charset": "utf8mb4",
            "collation": "utf8mb4_general_ci",
            "autocommit": True,
            # Never a second statement in one call.
            "client_flags": [-ClientFlag.MULTI_STATEMENTS],
        }
        if self.ssl_ca is not None:
            must_prove = {"ssl_verify_cert": True, "ssl_verify_identity": True}
            options |= {"ssl_ca": str(self.ssl_ca), **must_prove}
        return options

    def _prepare_session(self, cursor: MySQLCursorAbstract) -> None:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        for setting in _WHOLE_ROWS:
            _set(cursor, setting)
        # Hex, because the server's SQL mode cannot change its meaning. For the connector's own %s
        # it would first ask the server how to quote.
        zone = self.time_zone.encode().hex()
        cursor.execute(f"SET SESSION time_zone = _utf8mb4 X'{zone}'")
        if not _set(cursor, f"max_execution_time = {self.query_timeout_s * 1000:d}"):
            # MariaDB's variable for it, in seconds.
            cursor.execute(f"SET SESSION max_statement_time = {self.query_timeout_s:d}")
        # As the mysql client does: else a text in the query and a column may not be comparable.
        collation = _value(cursor, "@@collation_database")
        if re.fullmatch(r"utf8mb4_\w+", collation, re.ASCII):
            cursor.execute(f"SET NAMES utf8mb4 COLLATE {collation}")

    def _opened(self) -> _Session:
        if self._connection is None:
            raise DatabaseError("not connected; call connect() first")
        return self._connection

    def _raw_rows(self, width: int) -> Iterator[Any]:
        """Yield the rows of the query that has been run, as MySQL's own bytes."""
        connection, count, end = self._opened(), 1, None
        with self._explained():
            while end is None:
                # Not by the cursor, which reads them one by one and is slower.
                rows, end = connection.get_rows(count, raw=True)
                for row in rows:
                    if len(row) != width:
                        raise ValueError("values and columns differ in number")
                    yield row
                # Only few rows with large values fit into memory.
                is_small = rows and sum(map(len, filter(None, rows[-1]))) < SMALL_ROW
                count = ROWS_TOGETHER if is_small else 1

    @contextmanager
    def _explained(self, failed: str = "the query failed") -> Iterator[None]:
        """Turn the connector's errors into DatabaseError, and close the session."""
        try:
            yield
        except (mysql.connector.Error, DatabaseError, *_NOT_MYSQL) as error:
            # After a failed read only closing is safe: anything else may block again.
            self.disconnect()
            raise _explain(failed, error) from None


def _set(cursor: MySQLCursorAbstract, setting: str) -> bool:
    """Set a session variable; return False if the server does not have or allow it."""
    try:
        cursor.execute(f"SET SESSION {setting}")
    except mysql.connector.Error as error:
        if error.errno not in {1193, 1227}:  # unknown, or for administrators only
            raise
        return False
    return True


def _value(cursor: MySQLCursorAbstract, expression: str) -> str:
    """Return the value of an *expression* as text; some servers send bytes."""
    cursor.execute(f"SELECT {expression}")
    row: Any = cursor.fetchone()
    return row[0].decode() if isinstance(row[0], bytes | bytearray) else str(row[0])


def _explain(failed: str, error: Exception) -> DatabaseError:
    """Return an error that says what failed, what to change and what the server said."""
    if isinstance(error, DatabaseError):
        return error
    if not isinstance(error, mysql.connector.Error):
        text = "check DB_HOST and DB_PORT; the server there is not MySQL or MariaDB"
        return DatabaseError(f"{failed}: {text} ({type(error).__name__})")
    # The connector gives its own timeouts MySQL's number 3024.
    silent = isinstance(error, errors.ConnectionTimeoutError | errors.ReadTimeoutError)
    number = 2013 if silent else error.errno
    hint = next((f": {hint}" for numbers, hint in _HINTS if number in numbers), "")
    said = " ".join(str(error.msg or "").split())
    return DatabaseError(f"{failed}{hint} (MySQL error {error.errno}: {said})")
