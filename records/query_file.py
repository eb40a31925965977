"""Finds a query in an SQL file by its number."""

import re
from pathlib import Path

from records.exit_statuses import DatabaseError
from records.files import text_of

QUERIES_FILE = Path(__file__).resolve().parent.parent / "phase2_queries.sql"
JOB_QUERY = 2

# What may follow the last word of a query.
_BEHIND = re.compile(r"(?:[\s;]|^--[^\n]*)++\Z", re.MULTILINE)


def load_query(number: int, path: Path | None = None) -> str:
    """Return the statement below the line ``-- Query <number>: ...`` of *path* or QUERIES_FILE.

    It ends at the next such line, or with the file. A file without such lines is one statement.

    Raises DatabaseError if there is no such statement, more than one, or one that is no SELECT.
    """
    file = path or QUERIES_FILE
    try:
        text = text_of(file)
    except ValueError as error:
        raise DatabaseError(f"{file} {error}") from None
    whole, *parts = re.split(r"^-- Query (\d+):.*", text, flags=re.MULTILINE)
    named = zip(parts[::2], parts[1::2], strict=True)
    found = [sql for name, sql in named if name == str(number)] if parts else [whole]
    if len(found) != 1:
        raise DatabaseError(f"{file.name} must have one line '-- Query {number}: ...'")
    # For a clear message before anything runs: the session is read-only, and takes one statement.
    if not re.search(r"\b(SELECT|WITH)\b", found[0], re.IGNORECASE):
        raise DatabaseError(f"Query {number} in {file.name} must begin with SELECT or WITH")
    return _BEHIND.sub("", found[0]).lstrip()
