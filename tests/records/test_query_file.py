"""A query out of a file that is named in the settings."""

import pytest

from records.database_errors import DatabaseError
from records.exit_statuses import ExitStatus
from records.query_file import load_query


def test_a_named_file_may_hold_one_statement_and_nothing_else(tmp_path):
    path = tmp_path / "own.sql"
    path.write_text("-- What we send\nSELECT 1;\n")
    assert load_query(2, path) == "-- What we send\nSELECT 1"
    path.write_text("-- Query 1: a\nSELECT 1;\n-- Query 2: b\nSELECT 2;\n")
    assert load_query(2, path) == "SELECT 2"
    path.write_text("-- Query 1: a\nSELECT 1;\n")
    with pytest.raises(DatabaseError, match=r"^own.sql must have one line '-- Query 2"):
        load_query(2, path)
    path.write_text("DELETE FROM customers")
    with pytest.raises(
        DatabaseError, match=r"^Query 2 in own.sql must begin with SELECT"
    ) as caught:
        load_query(2, path)
    assert caught.value.status is ExitStatus.DATABASE
