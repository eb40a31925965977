"""Finds a query in an SQL file by its number."""

import re
from pathlib import Path

from records.database_errors import DatabaseError
from records.files import text_of

QUERIES_FILE = Path(__file__).resolve().parent.parent / "phase2_queries.sql"
JOB_QUERY = 2

# What may precede the first word of a query, and what may follow its last.
_BEFORE = r"(?:[\s(]|(?:--|\#)[^\n]*\n|(?>/\*.*?\*/))*+"
_BEHIND = re.compile(r"(?:[\s;]|^--[^\n]*)++\Z", re.MULTILINE)


def load_query(number: int, path: Path | None = None) -> str:
    """Return the statement below the comment ``-- Query <number>: ...`` of ``QUERIES_FILE``.

    It ends at the next such comment, or with the file. *path* is another file; if that has no such
    comment, it must hold one statement and nothing else.

    Raises DatabaseError if there is no statement, more than one, or one that is no SELECT.
    """
    file = path or QUERIES_FILE
    try:
        text = text_of(file)
    except ValueError as error:
        raise DatabaseError(f"{file} {error}") from None
    statement = rf"^-- Query {number}:[^\n]*(.*?)(?=^-- Query \d+:|\Z)"
    found = re.findall(statement, text, re.DOTALL | re.MULTILINE)
    if path and not re.search(r"^-- Query \d+:", text, re.MULTILINE):
        found = [text]
    if len(found) != 1:
        raise DatabaseError(
            f"{file.name} must have one line '-- Query {number}: ...' above the job's query, "
            f"not {len(found)}"
        )
    sql = _BEHIND.sub("", found[0]).lstrip()
    # For a clear message before anything runs: the session is read-only, and takes one statement.
    if not re.match(rf"{_BEFORE}(?:SELECT|WITH)\b", sql, re.DOTALL | re.IGNORECASE):
        raise DatabaseError(f"Query {number} in {file.name} must begin with SELECT or WITH")
    return sql
