"""A query out of its file: which text it is, and what is refused before anything is run."""

import pytest

from records import query_file
from records.database_errors import DatabaseError
from records.exit_statuses import ExitStatus
from records.query_file import load_query


@pytest.fixture
def queries_file(tmp_path, monkeypatch):
    """Return the path of a file that the queries are read from; it is not there yet."""
    path = tmp_path / "queries.sql"
    monkeypatch.setattr(query_file, "QUERIES_FILE", path)
    return path


def error_of(path=None):
    with pytest.raises(DatabaseError) as caught:
        load_query(2, path)
    assert caught.value.status is ExitStatus.DATABASE
    return str(caught.value)


def test_a_query_is_found_by_its_comment(queries_file):
    queries_file.write_text(
        "USE x;\n-- Query 1: a\nSELECT 1;\n-- Query 2: b\n-- as Query 1\nSELECT 2;\n\n"
    )
    assert load_query(1) == "SELECT 1"
    assert load_query(2) == "-- as Query 1\nSELECT 2"


def test_a_named_file_may_hold_one_statement_and_nothing_else(tmp_path):
    path = tmp_path / "own.sql"
    path.write_text("-- What we send\nSELECT 1;\n")
    assert load_query(2, path) == "-- What we send\nSELECT 1"
    path.write_text("-- Query 1: a\nSELECT 1;\n-- Query 2: b\nSELECT 2;\n")
    assert load_query(2, path) == "SELECT 2"
    path.write_text("-- Query 1: a\nSELECT 1;\n")
    assert error_of(path).startswith("own.sql must have one line '-- Query 2: ...'")


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        # Whether there is more than one statement is for the server to say.
        ("SELECT 1; -- over\n;", "SELECT 1; -- over"),
        ("SELECT ';', `;` ;\n\n-- More columns;\n--\n;", "SELECT ';', `;`"),
        ("/* ; */ # c\n (SELECT 1) UNION SELECT 2", None),
        ("with x as (select 1) select * from x;", None),
    ],
)
def test_what_stands_behind_a_query_is_none_of_it(queries_file, text, sql):
    queries_file.write_text(f"-- Query 2: b\n{text}", encoding="utf-8-sig")
    assert load_query(2) == (sql or text.rstrip(";"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n-- SELECT 1;\n/* SELECT 2; */ ;", "\nDELETE FROM customers;", "\nSELECTED"),
        *("\n/* a */ /* b */ DELETE FROM t /* c */ SELECT 1", f"\n{40 * '/**/'} DO 1"),
    ],
)
def test_a_query_that_does_not_read_is_refused_by_name(queries_file, text):
    queries_file.write_text(f"-- Query 2: b{text}")
    assert error_of() == "Query 2 in queries.sql must begin with SELECT or WITH"


@pytest.mark.parametrize("text", ["", 2 * "-- Query 2: b\nSELECT 2;\n"])
def test_a_query_that_is_not_there_once_is_an_error(queries_file, text):
    queries_file.write_text(text)
    assert error_of().startswith("queries.sql must have one line '-- Query 2: ...'")


def test_a_query_file_that_cannot_be_read_is_named(queries_file):
    assert error_of() == f"{queries_file} cannot be read: No such file or directory"
    queries_file.write_bytes(b"-- Query 2: caf\xe9\nSELECT 2;")
    assert error_of() == f"{queries_file} is not UTF-8; save it as UTF-8"
