"""Rows out of MySQL or MariaDB, read-only and bounded in time."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import mysql.connector
from mysql.connector import errors
from mysql.connector.abstracts import MySQLCursorAbstract
from mysql.connector.connection import MySQLConnection
from mysql.connector.constants import ClientFlag
from mysql.connector.plugins import caching_sha2_password
from mysql.connector.protocol import MySQLProtocol

from logger_config import get_logger
from records import database_errors as codes
from records.columns import Column, check_columns, column_of, refuse_doubled
from records.database_errors import HINTS, LOST, DatabaseError
from records.least_versions import old_server
from records.outcomes import as_shown
from records.query_file import JOB_QUERY, load_query
from records.row_spool import RowSpool

logger = get_logger(__name__)

CONNECT_TIMEOUT_S = 10
# The client waits longer than the server's own limit, whose error says more than a broken read.
READ_MARGIN_S = 15
MAX_MESSAGE = 200

# The connector has MySQL's number 3024 for these too.
_TIMEOUTS = errors.ConnectionTimeoutError | errors.ReadTimeoutError

_SESSION_OPTIONS = {
    # The pair that every MySQL, every MariaDB and the demo's server understand.
    "charset": "utf8mb4",
    "collation": "utf8mb4_general_ci",
    "autocommit": True,
    # Not a second statement in one call, whatever it is made of.
    "client_flags": [-ClientFlag.MULTI_STATEMENTS],
}


class _NeverBare(caching_sha2_password.MySQLCachingSHA2PasswordAuthPlugin):
    """Keeps the password back where the connector would send it as it is, for all to read."""

    def auth_response(self, auth_data: bytes, **kwargs: object) -> bytes | None:
        if bytes(auth_data) == bytes([self.perform_full_authentication]) and not self.ssl_enabled:
            raise errors.InterfaceError("the password was not sent without TLS", codes.NEEDS_TLS)
        return super().auth_response(auth_data, **kwargs)


# The connector looks for the class, by its name, beside its own.
setattr(caching_sha2_password, _NeverBare.__name__, _NeverBare)


class _Session(MySQLConnection):
    """The connector's session in pure Python: its other one, in C, lets no signal interrupt it."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        # Nobody reads along on a Unix socket.
        if "unix_socket" not in options:
            self._auth_plugin_class = _NeverBare.__name__
        self.connect(**options)
        vars(self._protocol)["parse_column"] = _parse_column


def _parse_column(packet: bytes, encoding: str = "utf-8") -> tuple[Any, ...]:
    """Return the description of a column with its width as ``display_size``, as PEP 249 has it.

    The connector reads past it, and nothing else tells TINYINT(1) from TINYINT.
    """
    name, kind, _, *others = MySQLProtocol.parse_column(packet, encoding)
    # Behind it are six bytes: type, flags, decimals and two that are empty.
    return name, kind, int.from_bytes(packet[-10:-6], "little"), *others


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
        self._connection: _Session | None = None
        self.version = ""

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def connect(self) -> None:
        """Log in and make the session read-only and bounded."""
        try:
            self._connection = connection = _Session(**self._options)
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
        logger.debug("server %s", self.version)

    def disconnect(self) -> None:
        """Close the session; harmless when there is none.

        A query that the server still runs goes on there until its own time limit ends it.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except Exception as error:  # noqa: BLE001 - a dead connection fails in several ways
            logger.debug("closing the connection failed: %s", type(error).__name__)

    def execute_query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of one SELECT, each a dict from column name to value."""
        columns, rows = self._run(sql)
        names = [column.name for column in columns]
        refuse_doubled(names)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def get_pro_users_recent_engagement(
        self, query: str | None = None, folder: Path | None = None
    ) -> RowSpool:
        """Return the rows of Query 2: each pro user with the latest view of pricing or settings.

        *query* runs in its place, if given. Each row is a dict with the columns ``JOB_COLUMNS`` and
        any others; the spool's ``columns`` describe them. The rows are kept in a file in *folder*,
        by default the system's for temporary files; the caller closes it. Raises SpoolError,
        besides DatabaseError, when they do not fit there.
        """
        if text := old_server(self.version):
            logger.warning("Database: %s", text)
        columns, rows = self._run(query or load_query(JOB_QUERY))
        check_columns(columns)
        spool = RowSpool([column.name for column in columns], folder, columns)
        try:
            spool.extend(rows)
            spool.flush()
        except BaseException:
            spool.close()
            raise
        return spool

    def columns_of(self, query: str) -> list[Column]:
        """Return the columns that *query* would give, if it were run. The server only prepares it.

        So it takes what it would take of a run, and says what it would say.
        """
        connection = self._opened()
        try:
            prepared: Any = connection.cmd_stmt_prepare(query.encode())
            connection.cmd_stmt_close(prepared["statement_id"])
        except mysql.connector.Error as error:
            raise self._failed(error) from None
        if prepared["num_params"]:
            raise DatabaseError("the query failed: it has a ? where a value must be")
        return _columns(prepared["columns"])

    def _prepare_session(self, cursor: MySQLCursorAbstract) -> str:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        # Not by the connector's %s, for which it first asks the server how to quote. This form has
        # nothing that a mode of the server could read in another way.
        zone = self._time_zone.encode().hex()
        cursor.execute(f"SET SESSION time_zone = _utf8mb4 X'{zone}'")
        try:
            cursor.execute(f"SET SESSION max_execution_time = {self._query_timeout_s * 1000:d}")
        except mysql.connector.Error as error:
            if error.errno != codes.UNKNOWN_SYSTEM_VARIABLE:
                raise
            # MariaDB's name for it, in seconds.
            cursor.execute(f"SET SESSION max_statement_time = {self._query_timeout_s:d}")
        cursor.execute("SELECT VERSION()")
        row: Any = cursor.fetchone()
        return as_shown(row[0])

    def _run(self, sql: str) -> tuple[list[Column], Iterator[list[Any]]]:
        """Run *sql*; return its columns, and its rows as the server sends them."""
        try:
            # Not buffered: the connector would hold all rows in memory.
            cursor = self._opened().cursor()
            cursor.execute(sql)
        except mysql.connector.Error as error:
            raise self._failed(error) from None
        return _columns(cursor.description or ()), self._rows(cursor)

    def _opened(self) -> _Session:
        if self._connection is None:
            raise DatabaseError("not connected; call connect() first")
        return self._connection

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
        explained = _explain("the query failed", error)
        old = old_server(self.version) if error.errno == codes.PARSE_ERROR else ""
        return DatabaseError(f"{explained}; {old}") if old else explained


def _columns(described: Any) -> list[Column]:  # noqa: ANN401 - by PEP 249, and then some
    """Return the columns of a description: name, type, width, four unused, flags, character set."""
    return [column_of(*each[:3], *each[7:9]) for each in described]


def _explain(what: str, error: mysql.connector.Error) -> DatabaseError:
    """Return an error that says what failed, what to change and what the server said."""
    number = error.errno
    hint = HINTS.get(number, "see the server's message")
    # -1 is what the connector has for a connection that has gone dead unused.
    unused = isinstance(error, errors.OperationalError) and number == -1
    if unused or isinstance(error, _TIMEOUTS):
        hint = LOST
    said = " ".join(str(error.msg or "").split())[:MAX_MESSAGE]
    return DatabaseError(f"{what}: {hint} (MySQL error {number}: {said})")
