"""A query out of its file: which text it is, and what is refused before anything is run."""

import pytest

import db_connection
from db_connection import load_query
from records.exit_statuses import DatabaseError, ExitStatus

TWO = "USE x;\n-- Query 1: a\nSELECT 1;\n-- Query 2: b\n-- as Query 1\nSELECT 2;\n\n"
NOT_ONE = "own.sql must have one line '-- Query 2: ...'"
NO_SELECT = "Query 2 in own.sql must begin with SELECT or WITH"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "own.sql"


def error_of(path):
    with pytest.raises(DatabaseError) as caught:
        load_query(2, path)
    assert caught.value.status is ExitStatus.DATABASE
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        (TWO, "-- as Query 1\nSELECT 2"),
        ("-- What we send\nSELECT 1;\n", "-- What we send\nSELECT 1"),
        # Whether there is more than one statement is for the server to say.
        ("SELECT 1; -- over\n;", "SELECT 1; -- over"),
        ("SELECT ';', `;` ;\n\n-- More columns;\n--\n;", "SELECT ';', `;`"),
        ("with x as (select 1) select * from x;", "with x as (select 1) select * from x"),
        ("/* ; */ # c\n (SELECT 1) UNION SELECT 2", "/* ; */ # c\n (SELECT 1) UNION SELECT 2"),
    ],
)
def test_a_query_is_found_by_its_line_or_is_the_whole_file(path, text, sql):
    path.write_text(text, encoding="utf-8-sig")
    assert load_query(2, path) == sql


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("-- Query 1: a\nSELECT 1;\n", NOT_ONE),
        (2 * "-- Query 2: b\nSELECT 2;\n", NOT_ONE),
        ("-- Query 1: a\nSELECT 1;\n-- Query 2: b\nDELETE FROM selected;", NO_SELECT),
        ("", NO_SELECT),
        ("\n-- SELECT 1;\n/* SELECT 2; */ ;", NO_SELECT),
        ("SELECTED", NO_SELECT),
        ("/* a */ /* b */ DELETE FROM t /* c */ SELECT 1", NO_SELECT),
        (f"{40 * '/**/'} DO 1", NO_SELECT),
    ],
)
def test_a_file_without_one_such_query_is_an_error(path, text, told):
    path.write_text(text)
    assert error_of(path) == told


def test_the_programs_own_file_must_name_its_query(path, monkeypatch):
    path.write_text("SELECT 1")
    monkeypatch.setattr(db_connection, "QUERIES_FILE", path)
    with pytest.raises(DatabaseError, match=NOT_ONE):
        load_query(2)


def test_a_query_file_that_cannot_be_read_is_named(path):
    assert error_of(path) == f"{path} cannot be read: No such file or directory"
    path.write_bytes(b"-- Query 2: caf\xe9\nSELECT 2;")
    assert error_of(path) == f"{path} is not UTF-8; save it as UTF-8"
