"""Reading from a real server: what comes out, what is refused, what each failure is told."""

import contextlib
import itertools
import re
import socket
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta

import mysql.connector
import pytest
import trustme

import db_connection
from db_connection import DatabaseConnection
from records.columns import Kind
from records.exit_statuses import DatabaseError
from sandbox.database import PrivateDatabase, find_servers, run_script

# Some 8 MB, sent as it is found: much more than the sockets on the way hold.
LONG_ANSWER = "SELECT REPEAT('x', 100) AS x FROM page_views v1, page_views v2, page_views v3"


class Wire:
    """Stands between the job and the server: ``change`` is done to all that the server says.

    ``heard`` is what the job has said.
    """

    def __init__(self, options):
        self.change = lambda data: data
        self.heard = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.way = {"host": "127.0.0.1", "port": self._listener.getsockname()[1]}
        self._server = socket.socket(socket.AF_UNIX if "unix_socket" in options else socket.AF_INET)
        self._server.connect(options.get("unix_socket") or (options["host"], options["port"]))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            threading.Thread(target=self._ask, args=[client], daemon=True).start()
            with contextlib.suppress(OSError):
                while data := self._server.recv(65536):
                    client.sendall(self.change(data))
            client.shutdown(socket.SHUT_RDWR)

    def _ask(self, client):
        with contextlib.suppress(OSError), client:
            while data := client.recv(4096):
                self.heard += data
                self._server.sendall(data)

    def close(self):
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._listener.close()


ACCOUNT = ("DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME")


def connection_to(settings, **changes):
    host, port, user, password, database = (settings[name] for name in ACCOUNT)
    options = {"host": host, "port": int(port), "user": user, "password": password}
    return DatabaseConnection(**{**options, "database": database, **changes})


def error_of(connection, sql="SELECT 1"):
    with pytest.raises(DatabaseError) as caught, connection as open_connection:
        open_connection.execute_query(sql)
    return str(caught.value)


@pytest.mark.database
def test_the_session_is_read_only_even_for_a_user_who_may_write(database, database_server):
    options = database_server.connection_options(database.name)
    root = {"user": options["user"], "password": options["password"]}
    error = error_of(connection_to(database.settings, **root), "DELETE FROM page_views")
    assert "READ ONLY" in error
    assert database.execute("SELECT COUNT(*) FROM page_views") == [(40,)]


@pytest.mark.database
def test_the_instant_of_an_event_does_not_depend_on_the_sessions_zone(database):
    instants = set()
    for zone, hours in [("+00:00", 0), ("+05:00", 5), ("-03:00", -3)]:
        with connection_to(database.settings, time_zone=zone) as connection:
            spool = connection.get_pro_users_recent_engagement()
        with closing(spool):
            (sarah, *_) = spool
        instants.add(datetime.fromisoformat(sarah["event_time"]) - timedelta(hours=hours))
    assert len(instants) == 1


@pytest.mark.database
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"password": "wrong-password"}, "check DB_USER and DB_PASSWORD"),
        ({"database": "no_such_database"}, "DB_NAME"),
        (
            {"time_zone": "No/Such_Zone"},
            "the server does not know DB_TIME_ZONE; use an offset, or load the server's time zone "
            "tables as its root: mysql_tzinfo_to_sql /usr/share/zoneinfo | mysql -u root -p mysql",
        ),
    ],
)
def test_a_login_that_fails_says_what_to_check(database, changes, told):
    error = error_of(connection_to(database.settings, **changes))
    assert error.startswith("cannot connect: ")
    assert told in error
    assert "wrong-password" not in error


@pytest.mark.database
def test_a_query_that_fails_says_what_the_server_said_and_what_an_old_one_lacks(database):
    connection = connection_to(database.settings)
    error = error_of(connection, "SELECT * FROM missing_table")
    assert error.startswith("the query failed (MySQL error 1146: Table '")
    if database.server.kind == "seekdb":
        pytest.skip("this server takes two statements, and has its own number for an error in one")
    error = error_of(connection, "SELECT 1;\nDELETE FROM customers")
    assert "check the query's syntax; window functions need MySQL 8.0 or MariaDB 10.2" in error
    assert "(MySQL error 1064: You have an error in your SQL syntax" in error
    assert error.endswith("at line 2)")


@pytest.mark.database
def test_the_server_ends_a_query_that_runs_too_long(database):
    if "seekdb" in database.version:
        pytest.skip("this server does not enforce max_execution_time")
    views = ", ".join(f"page_views AS v{number}" for number in range(8))
    connection, began = connection_to(database.settings, query_timeout_s=1), time.monotonic()
    error = error_of(connection, f"SELECT SUM(v1.id) FROM {views}")
    assert "ran longer than DB_QUERY_TIMEOUT_SECONDS" in error
    assert time.monotonic() - began > 0.9


@pytest.mark.database
@pytest.mark.parametrize("how", ["stalls", "closes"])
@pytest.mark.parametrize("left", [0, 100_000], ids=["before its answer", "within its answer"])
def test_a_server_that_falls_silent_is_given_up(database, monkeypatch, how, left):
    monkeypatch.setattr(db_connection, "READ_MARGIN_S", 0)

    def cut(data):
        nonlocal left
        left, passed = max(0, left - len(data)), data[:left]
        if how == "closes" and not passed:
            raise ConnectionError
        return passed

    with closing(Wire(database.server.connection_options())) as wire:
        through = wire.way | {"query_timeout_s": 1 if how == "stalls" else 60}
        with connection_to(database.settings, **through) as connection:
            wire.change = cut
            with pytest.raises(DatabaseError, match="the query failed: no answer, or the conn"):
                connection.execute_query(LONG_ANSWER)
            with pytest.raises(DatabaseError, match="not connected"):
                connection.execute_query("SELECT 1")


def running(options, text):
    """Return which statements with *text* the server works on."""
    # Not to find this very question.
    sql = "SELECT info FROM information_schema.processlist WHERE info LIKE %s AND id <> %s"
    with mysql.connector.connect(**options) as connection, connection.cursor() as cursor:
        cursor.execute(sql, (f"%{text}%", connection.connection_id))
        return cursor.fetchall()


def wait_until(condition, seconds=5.0):
    """Wait until *condition* holds; fail if it does not within *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def private(name, *options):
    """Start a server of our own, which a test may change or end; skip where there is none."""
    path = next((each for each in find_servers() if each.name == name), None)
    if path is None:
        pytest.skip(f"needs {name}: tests/fetch_server.sh gets one")
    with PrivateDatabase(path, options) as server:
        server.settings["DB_NAME"] = "mysql"
        yield server


@pytest.mark.database
def test_no_password_is_sent_over_tcp_without_tls():
    with private("mysqld", "--tls-version=") as server:
        user, password = server.settings["DB_USER"], server.settings["DB_PASSWORD"]
        options = server.connection_options()
        with closing(Wire(options)) as wire:
            error = error_of(connection_to(server.settings, **wire.way))
        assert error.startswith("cannot connect: the server asks for the password in plain text")
        assert "was not sent" in error
        assert user.encode() in wire.heard
        assert password.encode() not in wire.heard
        assert password not in error
        # Nobody reads along on a socket. Then the server knows the password, and TCP will do.
        for changes in ({"host": options["unix_socket"]}, {}):
            with connection_to(server.settings, **changes) as connection:
                assert connection.execute_query("SELECT 1 AS one") == [{"one": 1}]


@contextlib.contextmanager
def listening(*words):
    """Say *words*, each after an answer; yield a connection to that, and what is heard from it."""
    heard: list[bytes] = []

    def serve():
        client, _ = listener.accept()
        with contextlib.suppress(OSError), client:
            for each in words:
                client.sendall(each)
                heard.append(client.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        settings = dict(zip(ACCOUNT, ("127.0.0.1", str(port), "u", "pass-word", "d"), strict=True))
        yield connection_to(settings), heard
        thread.join(5)


@pytest.mark.parametrize("how", ["more data", "switch"])
def test_a_server_that_only_claims_to_be_one_gets_no_password(how):
    """It offers no TLS and asks for the password as it is, the second way at once."""

    def packet(number, payload):
        return len(payload).to_bytes(3, "little") + bytes([number]) + payload

    plugin = b"caching_sha2_password\0"
    # Protocol 4.1, secure connection, plugins; 20 bytes for the scramble.
    greeting = b"\x0a8.0.36\0" + (7).to_bytes(4, "little") + b"a" * 8 + b"\0"
    greeting += b"\x08\x82" + b"\x2d" + b"\x02\0" + b"\x08\0" + b"\x15" + bytes(10)
    greeting += b"b" * 12 + b"\0" + plugin
    asked = b"\x01\x04" if how == "more data" else b"\xfe" + plugin + b"\x04"
    with listening(packet(0, greeting), packet(2, asked)) as (connection, heard):
        assert "it was not sent" in error_of(connection)
    assert heard[0]
    assert b"pass-word" not in b"".join(heard)


@pytest.mark.database
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("PASSWORD EXPIRE", r"MySQL error 18(20|62): .*(?i:password)"),
        ("REQUIRE X509", "check DB_USER and DB_PASSWORD. The server says the same if the account"),
    ],
)
def test_an_account_that_cannot_be_used_any_more_is_told(database, change, told):
    if database.server.kind == "seekdb":
        pytest.skip("this server has no such accounts")
    database.execute("CREATE USER job_x@'%' IDENTIFIED BY 'pass-word'")
    try:
        database.execute("GRANT SELECT ON *.* TO job_x@'%'")
        database.execute(f"ALTER USER job_x@'%' {change}")
        account = {"user": "job_x", "password": "pass-word"}
        assert re.search(told, error_of(connection_to(database.settings, **account)))
    finally:
        database.execute("DROP USER job_x@'%'")


@pytest.mark.database
def test_only_the_first_rows_are_read_if_so_asked(database):
    query = "SELECT 1 FROM page_views AS a, page_views AS b, page_views AS c"
    with connection_to(database.settings) as connection:
        spool = connection.get_pro_users_recent_engagement(
            query, watch=lambda _, rows: itertools.islice(rows, 25)
        )
    with closing(spool):
        assert len(spool) == len(list(spool)) == 25


@pytest.fixture(scope="module")
def odd_server():
    """Start a server with all that changes or cuts the rows of a SELECT behind its back."""
    with private("mariadbd") as server:
        with mysql.connector.connect(**server.connection_options()) as connection:
            run_script(
                connection,
                "SET GLOBAL group_concat_max_len = 1024; SET GLOBAL sql_select_limit = 2;"
                "SET GLOBAL max_sort_length = 64; SET GLOBAL max_join_size = 10;"
                "SET GLOBAL sql_auto_is_null = 1; SET GLOBAL max_error_count = 0;",
            )
        yield server


NUMBERS = "(SELECT 1 AS n UNION SELECT 2 UNION SELECT 3 UNION SELECT 4) AS numbers"


@pytest.mark.database
def test_a_server_changes_or_cuts_no_rows_behind_the_querys_back(odd_server):
    def numbers(sql):
        return [row["n"] for row in connection.execute_query(sql)]

    long = "ORDER BY CONCAT(REPEAT('x', 500), 9 - n)"
    joined = f"SELECT COUNT(*) AS n FROM {NUMBERS} JOIN information_schema.collations"
    with connection_to(odd_server.settings) as connection:
        assert numbers(f"SELECT n FROM {NUMBERS} ORDER BY n") == [1, 2, 3, 4]
        assert numbers(f"SELECT n FROM {NUMBERS} {long}") == [4, 3, 2, 1]
        together = "LENGTH(GROUP_CONCAT(REPEAT('x', 674)))"
        assert numbers(f"SELECT {together} AS n FROM {NUMBERS}") == [2699]
        assert numbers(joined)[0] > 100


@pytest.mark.database
def test_what_the_server_warns_of_is_one_warning_without_its_text(odd_server, warned):
    query = f"SELECT CAST(CONCAT('secret', n) AS SIGNED) FROM {NUMBERS}"
    with connection_to(odd_server.settings) as connection:
        connection.get_pro_users_recent_engagement(query).close()
    (text,) = warned
    assert text.startswith("Query 2: warnings from the server: 4 of code 1292")
    assert "secret" not in text
    with connection_to(odd_server.settings) as connection:
        connection.get_pro_users_recent_engagement("SELECT 'Ann'").close()
    assert len(warned) == 1


@pytest.mark.database
@pytest.mark.parametrize("collation", ["utf8mb4_unicode_ci", "utf8mb4_bin", "latin1_swedish_ci"])
def test_texts_are_compared_as_the_mysql_client_compares_them(database, collation):
    if database.server.kind == "seekdb":
        pytest.skip("this server has a few collations alone")
    charset = collation.partition("_")[0]
    for what in (f"DATABASE {database.name}", "TABLE customers"):
        convert = "CHARACTER SET" if what.startswith("DATABASE") else "CONVERT TO CHARACTER SET"
        database.execute(f"ALTER {what} {convert} {charset} COLLATE {collation}")
    # The text of a number has the session's collation.
    sql = "SELECT id FROM customers WHERE email <> CAST(id AS CHAR)"
    with connection_to(database.settings) as connection:
        if charset == "utf8mb4":
            assert len(connection.execute_query(sql)) > 10
        assert connection.execute_query("SELECT COUNT(*) AS n FROM customers")[0]["n"] > 10


@pytest.mark.parametrize("broken", ["width", "protocol"])
@pytest.mark.database
def test_bytes_that_are_no_protocol_are_an_error_of_the_database(database, broken, tmp_path):
    if database.server.kind != "mariadb":
        pytest.skip("this server's answers are encrypted, or in another order")
    garble = {"width": b"\x02\0\0\x0f\x011", "protocol": b"\x01\0\0\x0f\xfd"}[broken]
    end = b"\x05\0\0\x10\xfe\0\0\x02\0"

    def change(data):
        # Before the first row's address stand four bytes of the packet, the customer's id with its
        # length, and the address's length.
        at = data.find(b"sarah.johnson")
        return data if at < 0 else data[: at - 7] + garble + end

    with (
        closing(Wire(database.server.connection_options())) as wire,
        connection_to(database.settings, **wire.way) as connection,
    ):
        wire.change = change
        with pytest.raises(DatabaseError, match="the server there is not MySQL or MariaDB"):
            connection.get_pro_users_recent_engagement(folder=tmp_path)


@pytest.mark.database
def test_without_the_certificate_authority_asked_for_nothing_is_read(database, tmp_path):
    if database.settings["DB_HOST"].startswith("/"):
        pytest.skip("TLS is for TCP")
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    error = error_of(connection_to(database.settings, ssl_ca=tmp_path / "ca.pem"))
    assert error.startswith("cannot connect: ")
    assert "TLS" in error


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid", "/tmp/no-such.sock"])
def test_a_server_that_is_not_there(host):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = {"host": host, "port": unused.getsockname()[1]}
        error = error_of(DatabaseConnection(user="u", password="p", database="d", **place))
    assert error.startswith("cannot connect: check DB_HOST and DB_PORT")
    assert host in error
    assert ("through socket" in error) is host.startswith("/")


@pytest.mark.parametrize(
    "words",
    [[b"HTTP/1.1 400 Bad Request\r\n\r\n"], [bytes(100)], [], [b""]],
    ids=["HTTP", "zeros", "closed", "silence"],
)
def test_a_port_where_no_database_answers_is_told(monkeypatch, words):
    monkeypatch.setattr(db_connection, "CONNECT_TIMEOUT_S", 0.3)
    with listening(*words) as (connection, _):
        error = error_of(connection)
    assert error.startswith("cannot connect: ")
    assert "check DB_HOST" in error
    assert "DB_PORT" in error


# A column's type, a value of it, the kind it is, and the value as the server writes it.
KINDS = {
    "BOOLEAN": ("1", Kind.TINYINT, b"1"),
    "BIT(8)": ("b'11'", Kind.BIT, b"\x03"),
    "SMALLINT": ("7", Kind.INTEGER, b"7"),
    "MEDIUMINT(5) ZEROFILL": ("7", Kind.INTEGER, b"00007"),
    "BIGINT UNSIGNED": ("18446744073709551615", Kind.INTEGER, b"18446744073709551615"),
    "YEAR": ("2026", Kind.INTEGER, b"2026"),
    "DECIMAL(20,4)": ("12.5", Kind.DECIMAL, b"12.5000"),
    "FLOAT": ("1.5", Kind.DECIMAL, b"1.5"),
    "DOUBLE": ("1.5", Kind.DECIMAL, b"1.5"),
    "DATE": ("'0000-00-00'", Kind.DATE, b"0000-00-00"),
    "DATETIME(6)": ("'2026-01-13 14:30:45.5'", Kind.MOMENT, b"2026-01-13 14:30:45.500000"),
    "TIMESTAMP NULL": ("NULL", Kind.MOMENT, None),
    "TIME": ("'26:03:04'", Kind.TIME, b"26:03:04"),
    "CHAR(3)": ("''", Kind.TEXT, b""),
    "VARCHAR(99)": ("'Zoë 👩‍👩‍👧\\\\ %s\\n\\0'", Kind.TEXT, "Zoë 👩‍👩‍👧\\ %s\n\0".encode()),
    "VARCHAR(9) COLLATE utf8mb4_bin": ("'a'", Kind.TEXT, b"a"),
    "LONGTEXT": ("REPEAT('x', 70000)", Kind.TEXT, b"x" * 70_000),
    "ENUM('a','b')": ("'a'", Kind.TEXT, b"a"),
    "SET('c','b','a')": ("'a,c'", Kind.TEXT, b"c,a"),
    "BINARY(3)": ("'a'", Kind.BINARY, b"a\0\0"),
    "VARBINARY(9)": ("'a'", Kind.BINARY, b"a"),
    "BLOB": ("x'ff'", Kind.BINARY, b"\xff"),
    "JSON": ("'[1]'", Kind.JSON, b"[1]"),
}


@pytest.mark.database
def test_a_column_has_the_kind_of_its_type_and_its_values_are_the_servers_bytes(database):
    declared = ", ".join(f"c{number} {each}" for number, each in enumerate(KINDS))
    values, kinds, stored = zip(*KINDS.values(), strict=True)
    with database.connect() as connection:
        run_script(connection, f"SET SESSION sql_mode = ''; CREATE TABLE kinds ({declared})")
        run_script(connection, f"INSERT INTO kinds VALUES ({', '.join(values)}); COMMIT")
    with connection_to(database.settings) as connection:
        spool = connection.get_pro_users_recent_engagement("SELECT * FROM kinds")
    with closing(spool):
        assert [tuple(row) for rows in spool.chunks() for row in rows] == [stored]
        found = dict(zip(KINDS, spool.columns, strict=True))
    expected = dict(zip(KINDS, kinds, strict=True))
    if database.server.kind == "mariadb":
        expected["JSON"] = Kind.TEXT
        assert [each for each, column in found.items() if column.by_bytes] == ["JSON"]
    assert {each: column.kind for each, column in found.items()} == expected
