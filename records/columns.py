"""The columns of a query's result, as the database describes them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime
from enum import StrEnum
from textwrap import shorten
from typing import Any, NamedTuple

from records.database_errors import DatabaseError
from records.exit_statuses import ExitStatus, RunError

# The columns that Query 2 must return.
JOB_COLUMNS = (
    *("customer_id", "email", "first_name", "plan_type", "page_view_id", "page", "event_time"),
    *("browser", "location"),
)
# The column that identifies users, if it is not the email.
USER_ID = "user_id"
# Columns that are fields, and so may be NULL, each with the column that may replace it.
FIELD_COLUMNS = {
    "first_name": "user.first_name",
    "plan_type": "user.plan_type",
    "page": "event.page",
    "browser": "event.browser",
    "location": "event.location",
}
_KNOWN = frozenset({*JOB_COLUMNS, USER_ID, "event_name"})

# A row of a result: the values of its columns, each as MySQL wrote it, None for NULL.
Row = Sequence[bytes | None]


class Kind(StrEnum):
    """What a column holds, by its type in MySQL."""

    TEXT = "text"
    NULL = "NULL"  # in every row
    INTEGER = "integer"
    TINYINT = "TINYINT"
    DECIMAL = "decimal"  # also FLOAT and DOUBLE
    DATE = "date"
    MOMENT = "date and time"
    TIME = "time"
    JSON = "JSON"
    BIT = "BIT"
    BINARY = "binary"
    OTHER = "other"


class Column(NamedTuple):
    """A column of a result.

    ``by_bytes``: long text that is compared by bytes, as MariaDB's JSON is.
    """

    name: str
    kind: Kind = Kind.TEXT
    by_bytes: bool = False

    def shown(self, value: bytes | None) -> int | str | None:
        """Return *value* for people and for the results file: a number, text, or hex."""
        if value is None:
            return None
        if self.kind in _WHOLE_NUMBERS and value.removeprefix(b"-").isdigit():
            return int(value)
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return f"0x{value.hex()}"
        is_text = self.kind not in _BYTES or text.isprintable()
        return text if is_text else f"0x{value.hex()}"

    def converted(self, value: bytes | None) -> int | str | date | None:
        """Return *value* like ``shown()``, but dates and times as such."""
        if value is not None and self.kind in _PARSERS:
            with suppress(ValueError):
                return _PARSERS[self.kind](value.decode("ascii", "replace"))
        return self.shown(value)


_WHOLE_NUMBERS = (Kind.INTEGER, Kind.TINYINT)
_BYTES = (Kind.BIT, Kind.BINARY, Kind.OTHER)
_PARSERS = {Kind.DATE: date.fromisoformat, Kind.MOMENT: datetime.fromisoformat}


def as_text(value: object) -> str:
    """Return a *value* of the server as text; some servers send bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value)


class ColumnError(RunError):
    """Query 2's columns cannot be sent as they are. The message says what to change."""

    status = ExitStatus.USAGE


# The type numbers of MySQL's protocol. The others are text, or bytes without a character set.
# Source: https://dev.mysql.com/doc/dev/mysql-server/latest/field__types_8h.html
# fmt: off
_KINDS = {
    0: Kind.DECIMAL, 246: Kind.DECIMAL, 4: Kind.DECIMAL, 5: Kind.DECIMAL,
    1: Kind.TINYINT,
    2: Kind.INTEGER, 3: Kind.INTEGER, 8: Kind.INTEGER, 9: Kind.INTEGER,
    13: Kind.INTEGER,  # YEAR
    10: Kind.DATE, 14: Kind.DATE, 7: Kind.MOMENT, 12: Kind.MOMENT, 11: Kind.TIME,
    16: Kind.BIT, 245: Kind.JSON,
    6: Kind.NULL,
    242: Kind.OTHER, 255: Kind.OTHER,  # vectors, geometries
}
# fmt: on
_BY_BYTES = 128
# TEXT and LONGTEXT; MariaDB reports JSON so. Its UUID and INET6 are 254, a CHAR.
_LONG_TEXTS = {249, 250, 251, 252}
_NO_CHARACTERS = 63


# Takes the columns and the rows of a query, and returns the rows as they are.
Watch = Callable[[Sequence[Column], Iterator[Row]], Iterator[Row]]


def columns_of(described: Any) -> list[Column]:  # noqa: ANN401 - by PEP 249, and then some
    """Return the columns in a description: name, type, five unused, flags, character set."""
    return [column_of(*each[:2], *each[7:9]) for each in described]


def column_of(name: str, number: int, flags: int, charset: int) -> Column:
    """Return a column from its description in the protocol."""
    kind = _KINDS.get(number)
    if kind is None:
        kind = Kind.BINARY if charset == _NO_CHARACTERS else Kind.TEXT
    by_bytes = kind is Kind.TEXT and number in _LONG_TEXTS and bool(flags & _BY_BYTES)
    return Column(name, kind, by_bytes)


def job_columns(columns: Sequence[Column]) -> list[Column]:
    """Return *columns* with the job's own spelling of their names, which match in any case.

    Raise DatabaseError unless they include each column that Query 2 must return, once.
    """
    columns = [column._replace(name=_known_name(column.name)) for column in columns]
    names = [column.name for column in columns]
    # RowMapping refuses two fields with one name.
    refuse_duplicates([name for name in names if "." not in name])
    fields = {name.partition(":")[0] for name in names if "." in name}
    found = {*names, *(short for short, name in FIELD_COLUMNS.items() if name in fields)}
    if missing := [name for name in JOB_COLUMNS if name not in found]:
        raise DatabaseError(_missing(missing, names))
    return columns


def _known_name(name: str) -> str:
    """Return *name* as the job spells it; a field keeps its case, which matters in Iterable."""
    prefix, dot, rest = name.partition(".")
    if dot and prefix.lower() in {"user", "event"}:
        field, colon, suffix = rest.partition(":")
        return f"{prefix.lower()}.{field}{colon}{suffix.lower()}"
    return name.lower() if name.lower() in _KNOWN else name


def _missing(missing: Sequence[str], returned: Sequence[str]) -> str:
    """Return what to write in Query 2 for the *missing* columns; *returned*: those it has."""
    text = (
        f"Query 2 must return {', '.join(missing)}; it returned {shorten(', '.join(returned), 500)}"
        f". Write AS {missing[0]} after the column you mean"
    )
    # The other columns identify the user and the event.
    if spare := [name for name in missing if name in FIELD_COLUMNS]:
        text += f"; if you have no {spare[0]}, write NULL AS {spare[0]}"
    return text


def refuse_duplicates(names: Sequence[str]) -> None:
    """Raise DatabaseError if two of *names* are equal: a dict would keep only the last."""
    if doubled := {name for name in names if names.count(name) > 1}:
        raise DatabaseError(f"the query returns {', '.join(sorted(doubled))} twice")
