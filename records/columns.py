"""The columns of a query's result, as the database describes them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, NamedTuple

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
        with suppress(UnicodeDecodeError):
            text = value.decode()
            if self.kind not in _BYTES or text.isprintable():
                return text
        return f"0x{value.hex()}"


_WHOLE_NUMBERS = (Kind.INTEGER, Kind.TINYINT)
_BYTES = (Kind.BIT, Kind.BINARY, Kind.OTHER)

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
    """Return the columns in a cursor's description, which ends with flags and character set."""
    columns = []
    for name, number, *_, flags, charset in described:
        kind = _KINDS.get(number) or (Kind.BINARY if charset == _NO_CHARACTERS else Kind.TEXT)
        by_bytes = kind is Kind.TEXT and number in _LONG_TEXTS and bool(flags & _BY_BYTES)
        columns.append(Column(name, kind, by_bytes))
    return columns
