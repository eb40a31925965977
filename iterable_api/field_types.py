"""Types of data fields, and the encoding of a column's values as JSON of that type.

The first value that Iterable receives for a field sets the field's type for the whole project,
permanently. So a type belongs to a column, never to a value: if a value does not fit, its row is
refused. Values come as MySQL wrote them.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from enum import StrEnum
from functools import partial
from json.encoder import encode_basestring_ascii as quoted

from records.columns import Column, Kind

# Programs that read JSON round larger numbers; Iterable's own pages do.
EXACT_NUMBERS = 2**53
# MySQL's own limit.
DEEPEST_JSON = 100

# Looked up once: there may be a million rows.
_BIT, _OTHER = Kind.BIT, Kind.OTHER


class RowError(ValueError):
    """A row cannot be sent as it is; the message names the column, not the value."""


class FieldType(StrEnum):
    """The type of a field, in Iterable's words, which are the suffixes of a column's name."""

    STRING = "string"
    LONG = "long"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    DATE = "date"
    JSON = "json"  # an object, or an array


_STRING, _LONG, _DOUBLE, _BOOLEAN, _DATE, _JSON = FieldType
# The types that each kind of column can be sent as; the first is the default.
TYPES_OF: Mapping[Kind, tuple[FieldType, ...]] = {
    Kind.TEXT: (_STRING, _LONG, _DOUBLE, _BOOLEAN, _DATE, _JSON),
    Kind.NULL: (_STRING, _LONG, _DOUBLE, _BOOLEAN, _DATE, _JSON),
    Kind.INTEGER: (_LONG, _STRING, _DOUBLE, _BOOLEAN),
    Kind.DECIMAL: (_DOUBLE, _STRING, _LONG, _BOOLEAN),
    Kind.TINYINT: (_BOOLEAN, _LONG, _DOUBLE, _STRING),
    Kind.BIT: (_BOOLEAN, _LONG),
    Kind.DATE: (_DATE, _STRING),
    Kind.MOMENT: (_DATE, _STRING),
    Kind.TIME: (_STRING,),
    Kind.JSON: (_JSON, _STRING),
    Kind.BINARY: (_STRING,),
    Kind.OTHER: (),
}


def encoder(kind: FieldType, column: Column, zone: tzinfo) -> Callable[[bytes | None], str | None]:
    """Return the function that encodes the values of *column*, NULL as None; it raises RowError.

    *zone* is that of the database session.
    """
    written = partial(_date, zone=zone) if kind is FieldType.DATE else _ENCODERS[kind]

    def encode(value: bytes | None) -> str | None:
        if value is None:
            return None
        text = as_text(column, value)
        try:
            return written(text)
        except ValueError as error:
            raise RowError(f"{column.name} {error}") from None

    return encode


def as_text(column: Column, value: bytes) -> str:
    """Return a *value* of *column*, as MySQL writes it, as text; bits as their number.

    Raises RowError.
    """
    kind = column.kind
    if kind is _BIT:
        return str(int.from_bytes(value[-8:], "big"))  # MySQL has 64 bits at most
    if kind is _OTHER:
        raise RowError(f"{column.name} has a type that cannot be sent")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise RowError(f"{column.name} is not valid UTF-8 text") from None


# --- Each raises ValueError with the fault of a value, without quoting the value


def _long(text: str) -> str:
    number = _number(text)
    if number != number.to_integral_value():
        raise ValueError("is not a whole number")
    # Not by abs(), which cannot take 1e9999999.
    if not -EXACT_NUMBERS <= number <= EXACT_NUMBERS:
        raise ValueError("is beyond 2^53 and would be rounded; send it as :string")
    return str(int(number))


def _double(text: str) -> str:
    number = _number(text)
    # The shortest text of the number that Iterable keeps; it always has a point.
    shortest = repr(float(number))
    if not math.isfinite(float(shortest)) or Decimal(shortest) != number:
        raise ValueError("has more digits than a double can hold; round it, or send it as :string")
    return shortest


def _number(text: str) -> Decimal:
    """Return the exact number in *text*. Decimal alone would also accept ``1_0`` and ``NaN``."""
    if not re.fullmatch(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,9})?\s*", text):
        raise ValueError("is not a number")
    return Decimal(text)


_TRUTH = {"1": "true", "0": "false", "true": "true", "false": "false"}


def _boolean(text: str) -> str:
    word = text.strip().lower()
    # A DECIMAL may be 1.00.
    with suppress(ValueError):
        word = _long(word)
    if word not in _TRUTH:
        raise ValueError("is neither 0 nor 1")
    return _TRUTH[word]


def _date(text: str, zone: tzinfo) -> str:
    """Return a date as Iterable recognizes it: a day, or a moment in UTC.

    A day has no time zone and stays as it is. Fractions of a second are dropped.
    """
    value = _parsed(text.strip())
    if not isinstance(value, datetime):
        return f'"{value.isoformat()}"'
    try:
        moment = (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
    except (OverflowError, ValueError):
        raise ValueError("is outside the years 1 to 9999") from None
    return f'"{moment.isoformat(sep=" ")[:19]} +00:00"'


def _parsed(text: str) -> date | datetime:
    with suppress(ValueError):
        # Python would also accept 20260113 and 2026-W03-2.
        if re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)
    raise ValueError("is not a date such as 2026-01-13 or 2026-01-13 14:30:45")


def _json(text: str) -> str | None:
    """Return an object or an array, unchanged except for spaces; None for JSON's null."""
    try:
        document = json.loads(
            text,
            parse_int=lambda number: int(_long(number)),
            parse_float=lambda number: float(_double(number)),
            parse_constant=_number,
        )
        depth = _depth(document)
    except json.JSONDecodeError:
        raise ValueError("is not valid JSON") from None
    except RecursionError:
        depth = DEEPEST_JSON + 1
    if depth > DEEPEST_JSON:
        raise ValueError("is nested too deeply")
    if not depth and document is not None:
        raise ValueError("is JSON, but neither an object nor an array")
    return json.dumps(document) if depth else None


def _depth(value: object) -> int:
    """Return how deep arrays and objects are nested in *value*, 0 for any other value."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0)


_ENCODERS: Mapping[FieldType, Callable[[str], str | None]] = {
    FieldType.STRING: quoted,
    FieldType.LONG: _long,
    FieldType.DOUBLE: _double,
    FieldType.BOOLEAN: _boolean,
    FieldType.JSON: _json,
}
