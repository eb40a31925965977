"""Errors of the database, and what the operator can do about them."""

from records.exit_statuses import ExitStatus, RunError


class DatabaseError(RunError):
    """MySQL could not be read."""

    status = ExitStatus.DATABASE


UNKNOWN_SYSTEM_VARIABLE = 1193
NOT_ALLOWED = 1227
NEEDS_TLS = 2061

MAX_MESSAGE = 200

LOAD_ZONES = (
    "as the server's root: mysql_tzinfo_to_sql /usr/share/zoneinfo | mysql -u root -p mysql (on "
    "MariaDB mariadb-tzinfo-to-sql and mariadb)"
)

NOT_MYSQL = "check DB_HOST and DB_PORT; the server there is not MySQL or MariaDB"
LOST = (
    "the server did not answer in time, or closed the connection; check DB_HOST, DB_PORT and the "
    "server's own log"
)
EXPIRED = "the password of DB_USER has expired; give the account a new one with ALTER USER"
LOCKED = "the account of DB_USER is locked on the server; unlock it with ALTER USER"
UNKNOWN = "see the server's message"
# Advice by the error's number, because the connector has one class for several of them.
HINTS = {
    1040: "the server has no free connection; run again later, or raise its max_connections",
    1044: "this user has no rights on the database; grant SELECT or check DB_NAME",
    1045: "check DB_USER and DB_PASSWORD. The server says the same if the account requires TLS and "
    "the server offers none, or a client certificate, which the job does not support",
    1049: "check DB_NAME (database_setup.sql makes the example)",
    1054: "a column is missing; compare the query with your tables",
    1060: "two columns have the same name; rename one of them",
    1064: "check the query's syntax in its file, and that it is one statement; window functions "
    "need MySQL 8.0 or MariaDB 10.2",
    1130: "the server allows no connection from this machine; create DB_USER for its address",
    1142: "this user needs SELECT on the tables",
    1146: "a table is missing; check the query and DB_NAME (database_setup.sql makes the example)",
    1298: "the server does not know DB_TIME_ZONE; use an offset, or load its time zone tables "
    f"({LOAD_ZONES})",
    1317: "somebody ended the query on the server; run again",
    1698: "this user logs in without a password; create a separate user for the job",
    1792: "the job's session is read-only; the query may only SELECT",
    1820: EXPIRED,
    1862: EXPIRED,
    1969: "the query ran longer than DB_QUERY_TIMEOUT_SECONDS; check its index",
    2002: "check DB_HOST; no server listens on that socket",
    2003: "check DB_HOST and DB_PORT, and that the server is running",
    2005: "check DB_HOST; the name cannot be resolved",
    2006: LOST,
    2013: LOST,
    2026: "TLS failed; check DB_SSL_CA and that the server's certificate names DB_HOST",
    2055: "the connection was lost, or TLS failed; check DB_SSL_CA and the server's own log",
    2061: "the server asks for the password in plain text and offers no TLS; it was not sent. "
    "Turn on TLS on the server, or name its Unix socket in DB_HOST",
    3024: "the query ran longer than DB_QUERY_TIMEOUT_SECONDS; check its index",
    3118: LOCKED,
    4151: LOCKED,
}


def cut(message: str) -> str:
    """Return the server's *message* in one line of at most ``MAX_MESSAGE`` characters.

    The end stays, because a syntax error has its line number there.
    """
    text = " ".join(message.split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:40]} ... {text[45 - MAX_MESSAGE :]}"
