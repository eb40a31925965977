"""Reading from a real server: what comes out, what is refused, what each failure is told."""

import contextlib
import itertools
import json
import socket
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

import mysql.connector
import pytest
import trustme

import db_connection
from db_connection import DatabaseConnection
from iterable_api.mapping import JOB_COLUMNS, RowMapping
from iterable_api.payloads import Payloads
from records.columns import Kind
from records.database_errors import DatabaseError
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


def first_bodies(database, zone=UTC, **changes):
    """Return the two bodies that the first row of Query 2 is sent as."""
    with connection_to(database.settings, **changes) as connection:
        spool = connection.get_pro_users_recent_engagement()
    with closing(spool):
        payloads = Payloads("db", zone, RowMapping(spool.columns))
        prepared = payloads.complete(payloads.prepare(next(spool.chunks())[0]))
    return json.loads(prepared.profile.body), json.loads(prepared.event.body)


def error_of(connection, sql="SELECT 1"):
    with pytest.raises(DatabaseError) as caught, connection as open_connection:
        open_connection.execute_query(sql)
    return str(caught.value)


@pytest.mark.database
def test_query_2_gives_the_three_customers_as_dicts(database):
    with (
        connection_to(database.settings) as connection,
        closing(connection.get_pro_users_recent_engagement()) as spool,
    ):
        rows = list(spool)
    assert [row["email"] for row in rows] == [
        "sarah.johnson@email.com",
        "olivia.brown@email.com",
        "mia.harris@email.com",
    ]
    assert set(rows[0]) == set(JOB_COLUMNS)
    assert rows[0]["customer_id"] == 1


@pytest.mark.database
def test_the_session_is_read_only_even_for_a_user_who_may_write(database, database_server):
    options = database_server.connection_options(database.name)
    root = {"user": options["user"], "password": options["password"]}
    error = error_of(connection_to(database.settings, **root), "DELETE FROM page_views")
    assert "may only SELECT" in error
    assert database.execute("SELECT COUNT(*) FROM page_views") == [(40,)]


@pytest.mark.database
@pytest.mark.parametrize(
    ("column_type", "stored", "sent"),
    [
        ("MEDIUMTEXT", "👩‍👩‍👧 Zoë", "👩‍👩‍👧 Zoë"),
        ("MEDIUMTEXT", 'O\'Brien "Bob" \\ %s\n\0', 'O\'Brien "Bob" \\ %s\n\0'),
        ("MEDIUMTEXT", "x" * 10_000, "x" * 10_000),
        ("MEDIUMTEXT", None, None),
        ("MEDIUMTEXT", "", ""),
        ("BIGINT UNSIGNED", "18446744073709551615", "18446744073709551615"),
        ("DATETIME(6)", "2026-01-13 14:30:45.123456", "2026-01-13 14:30:45.123456"),
        ("VARBINARY(20)", "Zoë", "Zoë"),
        ("JSON", '{"a": 1}', '{"a": 1}'),
        ("SET('c','b','a')", "a,c", "c,a"),
        ("INT(5) ZEROFILL", "42", "00042"),
        ("DATE", "0000-00-00", "0000-00-00"),
        ("BIT(8)", 5, "5"),
    ],
)
def test_a_column_of_any_type_reaches_iterable_as_text(database, column_type, stored, sent):
    database.execute("ALTER TABLE customers DROP first_name")
    database.execute(f"ALTER TABLE customers ADD first_name {column_type} NULL")
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = ''")
        cursor.execute("UPDATE customers SET first_name = %s WHERE id = 1", (stored,))
    assert first_bodies(database)[0]["dataFields"].get("first_name") == sent


@pytest.mark.database
def test_the_instant_of_an_event_does_not_depend_on_the_sessions_zone(database):
    instants, clocks = [], []
    for zone, hours in [("+00:00", 0), ("+05:00", 5), ("-03:00", -3)]:
        _, event = first_bodies(database, timezone(timedelta(hours=hours)), time_zone=zone)
        instants.append(event["createdAt"])
        clocks.append(event["dataFields"]["timestamp"])
    assert len(set(instants)) == 1
    assert len(set(clocks)) == 3


@pytest.mark.database
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"password": "wrong-password"}, "check DB_USER and DB_PASSWORD"),
        ({"database": "no_such_database"}, "DB_NAME"),
        (
            {"time_zone": "No/Such_Zone"},
            "the server does not know DB_TIME_ZONE; use an offset, or load its time zone tables "
            "(as the server's root: mysql_tzinfo_to_sql /usr/share/zoneinfo | mysql -u root -p m",
        ),
    ],
)
def test_a_login_that_fails_says_what_to_check(database, changes, told):
    error = error_of(connection_to(database.settings, **changes))
    assert error.startswith("cannot connect: ")
    assert told in error
    assert "wrong-password" not in error


@pytest.mark.database
@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT * FROM no_such_table", "a table is missing"),
        ("SELECT 1; DELETE FROM customers", "check the query's syntax"),
    ],
)
def test_a_query_that_fails_says_what_to_check(database, sql, told):
    if database.server.kind == "seekdb" and ";" in sql:
        pytest.skip("this server takes several statements all the same")
    assert told in error_of(connection_to(database.settings), sql)


@pytest.mark.database
def test_the_server_ends_a_query_that_runs_too_long(database):
    if "seekdb" in database.version:
        pytest.skip("this server does not enforce max_execution_time")
    views = ", ".join(f"page_views AS v{number}" for number in range(8))
    error = error_of(
        connection_to(database.settings, query_timeout_s=1), f"SELECT SUM(v1.id) FROM {views}"
    )
    assert "ran longer than DB_QUERY_TIMEOUT_SECONDS" in error


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
            with pytest.raises(DatabaseError, match=r"^the query failed: .* in time, or closed"):
                connection.execute_query(LONG_ANSWER)


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


@pytest.fixture
def bare_server():
    """Start a MySQL without TLS, whose accounts have caching_sha2_password."""
    with private("mysqld", "--tls-version=") as server:
        yield server


@pytest.mark.database
def test_no_password_is_sent_over_tcp_without_tls(bare_server):
    password = bare_server.settings["DB_PASSWORD"]
    with closing(Wire(bare_server.connection_options())) as wire:
        error = error_of(connection_to(bare_server.settings, **wire.way))
    assert error.startswith("cannot connect: the server asks for the password in plain text")
    assert "was not sent" in error
    assert "(MySQL error 2061: " in error
    assert bare_server.settings["DB_USER"].encode() in wire.heard
    assert password.encode() not in wire.heard
    assert password not in error
    # Nobody reads along on a socket. From now on the server knows the password, and TCP will do.
    socket_path = bare_server.connection_options()["unix_socket"]
    for changes in ({"host": socket_path}, {}):
        with connection_to(bare_server.settings, **changes) as connection:
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
        ("PASSWORD EXPIRE", "the password of DB_USER has expired"),
        ("ACCOUNT LOCK", "the account of DB_USER is locked"),
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
        changes = {"user": "job_x", "password": "pass-word"}
        error = error_of(connection_to(database.settings, **changes))
    finally:
        database.execute("DROP USER job_x@'%'")
    assert error.startswith(f"cannot connect: {told}")


@pytest.mark.database
def test_a_syntax_error_says_where_and_what_an_old_server_lacks(database):
    if database.server.kind == "seekdb":
        pytest.skip("this server has a number and a message of its own")
    bad = f"SELECT 1\n\nFROM FROM {', '.join(f'a_table_{number}' for number in range(50))}"
    error = error_of(connection_to(database.settings), bad)
    assert "check the query's syntax" in error
    assert "window functions need MySQL 8.0 or MariaDB 10.2" in error
    # The message keeps its end, where the line number is.
    assert "(MySQL error 1064: You have an error in your SQL syntax" in error
    assert error.endswith("at line 3)")
    assert len(error) < 400


@pytest.mark.database
@pytest.mark.parametrize("limit", [1, 250])
def test_only_the_first_rows_are_read_if_so_asked(database, limit):
    query = with_job_columns("1", "page_views AS a, page_views AS b, page_views AS c")
    with connection_to(database.settings) as connection:
        spool = connection.get_pro_users_recent_engagement(
            query, watch=lambda _, rows: itertools.islice(rows, limit)
        )
    with closing(spool):
        assert len(spool) == len(list(spool)) == limit


@pytest.fixture(scope="module")
def spare_server():
    with private("mariadbd") as server:
        yield server


@pytest.mark.database
def test_zone_tables_that_differ_from_this_machines_end_the_run_at_once(spare_server):
    """The server's tables have no summer, which is right in Algiers and wrong in Berlin."""
    with mysql.connector.connect(**spare_server.connection_options("mysql")) as connection:
        run_script(
            connection,
            "INSERT INTO time_zone VALUES (9, 'N');"
            "INSERT INTO time_zone_name VALUES ('Europe/Berlin', 9), ('Africa/Algiers', 9);"
            "INSERT INTO time_zone_transition VALUES (9, 0, 1);"
            "INSERT INTO time_zone_transition_type VALUES (9, 1, 3600, 0, 'CET');",
        )
    with connection_to(spare_server.settings, time_zone="Africa/Algiers") as session:
        assert session.execute_query("SELECT HOUR(FROM_UNIXTIME(0)) AS n") == [{"n": 1}]
    error = error_of(connection_to(spare_server.settings, time_zone="Europe/Berlin"))
    summer = f"on {datetime.now(UTC).year}-07-15 the server is 3600 s ahead"
    assert f"DB_TIME_ZONE Europe/Berlin: {summer} of UTC, and this machine 7200 s" in error
    assert "the server's time zone tables (as the server's root: mysql_tzinfo_to_sql" in error
    assert "tzdata" in error


@pytest.fixture(scope="module")
def odd_server(spare_server):
    """Give a server all that changes or cuts the rows of a SELECT behind its back."""
    with mysql.connector.connect(**spare_server.connection_options("mysql")) as connection:
        run_script(
            connection,
            "SET GLOBAL group_concat_max_len = 1024; SET GLOBAL sql_select_limit = 2;"
            "SET GLOBAL max_sort_length = 64; SET GLOBAL max_join_size = 10;"
            "SET GLOBAL sql_auto_is_null = 1; SET GLOBAL max_error_count = 0;",
        )
    return spare_server


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
        assert numbers(f"SELECT LENGTH(GROUP_CONCAT(REPEAT('x', 674))) AS n FROM {NUMBERS}") == [
            2699
        ]
        assert numbers(joined)[0] > 100


def with_job_columns(expression, source="(SELECT 1 AS n) AS t"):
    """Return a query with the job's columns, of which the first name is *expression*."""
    columns = [f"1 AS {name}" for name in JOB_COLUMNS if name != "first_name"]
    return f"SELECT {', '.join(columns)}, {expression} AS first_name FROM {source}"


@pytest.mark.database
def test_what_the_server_warns_of_is_one_warning_without_its_text(odd_server, warned):
    query = with_job_columns("CAST(CONCAT('secret', n) AS SIGNED)", NUMBERS)
    with connection_to(odd_server.settings) as connection:
        connection.get_pro_users_recent_engagement(query).close()
    (text,) = warned
    assert text.startswith("Query 2: warnings from the server: 4 of code 1292")
    assert "secret" not in text
    with connection_to(odd_server.settings) as connection:
        connection.get_pro_users_recent_engagement(with_job_columns("'Ann'")).close()
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

    def change(data):
        # Before the first row's address stand four bytes of the packet, the customer's id with its
        # length, and the address's length. Nothing that follows is of use.
        at = data.find(b"sarah.johnson")
        return data if at < 0 else data[: at - 7] + garble

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


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("127.0.0.1", "check DB_HOST and DB_PORT"),
        ("no.such.host.invalid", "check DB_HOST"),
        ("/tmp/no-such.sock", "no server listens on that socket"),
    ],
)
def test_a_server_that_is_not_there(host, told):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        settings = {"host": host, "port": unused.getsockname()[1]}
        assert told in error_of(
            DatabaseConnection(user="u", password="p", database="d", **settings)
        )


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


def test_a_query_needs_a_connection():
    connection = DatabaseConnection(host="h", user="u", password="p", database="d")
    with pytest.raises(DatabaseError, match="not connected"):
        connection.execute_query("SELECT 1")
    connection.disconnect()


@pytest.mark.database
@pytest.mark.parametrize(("length", "together"), [(10, {1, 100}), (20_000, {1})])
def test_of_large_rows_few_are_in_memory(database, monkeypatch, length, together):
    asked: set[int] = set()
    get_rows = db_connection._Session.get_rows

    def counted(session, *count, **options):
        asked.update(count)
        return get_rows(session, *count, **options)

    monkeypatch.setattr(db_connection._Session, "get_rows", counted)
    query = with_job_columns(f"REPEAT('x', {length})", "page_views")
    with connection_to(database.settings) as connection:
        connection.get_pro_users_recent_engagement(query).close()
    assert asked == together


# A column's type, a value of it, and the kind it is.
KINDS = {
    "BOOLEAN": ("1", Kind.TINYINT),
    "BIT(8)": ("b'11'", Kind.BIT),
    "SMALLINT": ("7", Kind.INTEGER),
    "MEDIUMINT": ("7", Kind.INTEGER),
    "BIGINT UNSIGNED": ("18446744073709551615", Kind.INTEGER),
    "YEAR": ("2026", Kind.INTEGER),
    "DECIMAL(20,4)": ("12.5", Kind.DECIMAL),
    "FLOAT": ("1.5", Kind.DECIMAL),
    "DOUBLE": ("1.5", Kind.DECIMAL),
    "DATE": ("'2026-01-13'", Kind.DATE),
    "DATETIME(6)": ("'2026-01-13 14:30:45.5'", Kind.MOMENT),
    "TIMESTAMP NULL": ("'2026-01-13 14:30:45'", Kind.MOMENT),
    "TIME": ("'26:03:04'", Kind.TIME),
    "CHAR(3)": ("'a'", Kind.TEXT),
    "VARCHAR(9)": ("'a'", Kind.TEXT),
    "VARCHAR(9) COLLATE utf8mb4_bin": ("'a'", Kind.TEXT),
    "LONGTEXT": ("'a'", Kind.TEXT),
    "ENUM('a','b')": ("'a'", Kind.TEXT),
    "SET('a','b')": ("'a,b'", Kind.TEXT),
    "BINARY(16)": ("'a'", Kind.BINARY),
    "VARBINARY(9)": ("'a'", Kind.BINARY),
    "BLOB": ("'a'", Kind.BINARY),
    "JSON": ("'[1]'", Kind.JSON),
}


@pytest.mark.database
def test_a_columns_kind_is_that_of_its_type_in_mysql(database):
    names = {f"c{number}": each for number, each in enumerate(KINDS)}
    declared = ", ".join(f"{name} {each}" for name, each in names.items())
    database.execute(f"CREATE TABLE kinds ({declared})")
    values = ", ".join(value for value, _ in KINDS.values())
    database.execute(f"INSERT INTO kinds VALUES ({values})")
    query = with_job_columns("NULL", "kinds").replace(" FROM", ", kinds.* FROM")
    with connection_to(database.settings) as connection:
        spool = connection.get_pro_users_recent_engagement(query)
    with closing(spool):
        columns = spool.columns
        assert len(list(spool)) == 1
    found = {names[each.name]: each for each in columns if each.name in names}
    expected = {declared: kind for declared, (_, kind) in KINDS.items()}
    if database.server.kind == "mariadb":
        expected["JSON"] = Kind.TEXT
        assert found["JSON"].by_bytes
        assert not found["LONGTEXT"].by_bytes
        assert not found["VARCHAR(9) COLLATE utf8mb4_bin"].by_bytes
    assert {declared: column.kind for declared, column in found.items()} == expected
