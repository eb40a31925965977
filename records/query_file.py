"""Finds a query in an SQL file by its number, and checks it before it runs."""

import re
from pathlib import Path

from records.database_errors import DatabaseError
from records.file_owner import text_of

QUERIES_FILE = Path(__file__).resolve().parent.parent / "phase2_queries.sql"
JOB_QUERY = 2

# Quoted text and comments. The server runs comments that begin with /*! or /*M!: not these.
_QUOTED_OR_COMMENT = re.compile(
    r"""'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | `[^`]*`
    | --(?=\s|$)[^\n]* | \#[^\n]* | /\*(?!M?!).*?\*/""",
    re.DOTALL | re.VERBOSE,
)
# The start of a comment that the server runs, with a version number, and its end.
_EXECUTABLE = re.compile(r"/\*M?!\d*|\*/")


def load_query(number: int, path: Path | None = None) -> str:
    """Return the statement below the comment ``-- Query <number>: ...`` of ``QUERIES_FILE``.

    It ends at its semicolon, at the next such comment, or with the file. *path* is another file; if
    that has no such comment, it must hold one statement and nothing else.

    Raises DatabaseError if there is no statement, more than one, or one that does not only read.
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
    try:
        return _single_select(found[0])
    except ValueError as error:
        raise DatabaseError(f"Query {number} in {file.name} {error}") from None


def _single_select(sql: str) -> str:
    """Return the statement in *sql* without its semicolon; ValueError if it does not only read.

    The session is read-only anyway. This check gives a clear message before anything runs.
    """
    bare = _blanked(_EXECUTABLE, _blanked(_QUOTED_OR_COMMENT, sql))
    end = bare.find(";") if ";" in bare else len(bare)
    if not bare[:end].strip():
        raise ValueError("is empty")
    if bare[end:].strip("; \t\n"):
        raise ValueError("must be one statement; there is more after its semicolon")
    if not re.match(r"[\s(]*(SELECT|WITH)\b", bare, re.IGNORECASE):
        raise ValueError("must begin with SELECT or WITH")
    if re.search(r"\bINTO\s+(OUTFILE|DUMPFILE)\b", bare, re.IGNORECASE):
        raise ValueError("must return its rows, not write them to a file with INTO")
    return sql[:end].strip()


def _blanked(what: re.Pattern[str], sql: str) -> str:
    """Return *sql* with each match of *what* replaced by spaces, so that positions stay."""
    return what.sub(lambda match: " " * len(match[0]), sql)
