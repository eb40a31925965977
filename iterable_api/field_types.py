"""Types of data fields, and the values of a column as JSON of its field's type.

Iterable fixes a field's type by the first value it ever receives, for the whole project and for
good. So a type belongs to a column, never to a value: what does not fit is refused with its row.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from iterable_api.text_values import RowError, as_text
from records.columns import Kind

# Beyond this number programs that read JSON round: Iterable's own pages among them.
EXACT_NUMBERS = 2**53
# What MySQL itself takes.
DEEPEST_JSON = 100

# Returns a value, which is not NULL, as JSON; None if it is to be left out like NULL.
Encoder = Callable[[Any], str | None]


class FieldType(StrEnum):
    """The type of a field, as the suffix of a column's name says it."""

    TEXT = "text"
    INTEGER = "integer"
    DECIMAL = "decimal"
    BOOLEAN = "boolean"
    DATE = "date"
    JSON = "json"


# What Iterable calls them; values of JSON have several.
ITERABLE_TYPES: Mapping[FieldType, str] = {
    FieldType.TEXT: "string",
    FieldType.INTEGER: "long",
    FieldType.DECIMAL: "double",
    FieldType.BOOLEAN: "boolean",
    FieldType.DATE: "date",
    FieldType.JSON: "object",
}

_NUMBERS = frozenset({Kind.INTEGER, Kind.DECIMAL, Kind.TEXT})
# What a column without a suffix is sent as; the kinds that are missing here need one.
TYPE_OF: Mapping[Kind, FieldType] = {
    Kind.TEXT: FieldType.TEXT,
    Kind.INTEGER: FieldType.INTEGER,
    Kind.DECIMAL: FieldType.DECIMAL,
    Kind.BOOLEAN: FieldType.BOOLEAN,
    Kind.DATE: FieldType.DATE,
    Kind.MOMENT: FieldType.DATE,
    Kind.TIME: FieldType.TEXT,
    Kind.JSON: FieldType.JSON,
}
KINDS_FOR: Mapping[FieldType, frozenset[Kind]] = {
    FieldType.TEXT: frozenset(Kind) - {Kind.BIT, Kind.OTHER},
    FieldType.INTEGER: _NUMBERS | {Kind.BOOLEAN},
    FieldType.DECIMAL: _NUMBERS,
    FieldType.BOOLEAN: _NUMBERS | {Kind.BOOLEAN, Kind.BIT},
    FieldType.DATE: frozenset({Kind.DATE, Kind.MOMENT, Kind.TEXT}),
    FieldType.JSON: frozenset({Kind.JSON, Kind.TEXT}),
}


def encoder(kind: FieldType, column: str, time_zone: tzinfo) -> Encoder:
    """Return what makes JSON of the values of *column*; it raises RowError.

    *time_zone* is the one in which the database session reports times.
    """

    def encode(value: Any) -> str | None:  # noqa: ANN401 - whatever the connector returns
        try:
            return _ENCODERS[kind](value, time_zone)
        except RowError as error:
            raise RowError(f"{column} {error}") from None

    if kind is FieldType.TEXT:
        return lambda value: quoted(as_text(column, value) or "")
    return encode


def _integer(value: object, _zone: tzinfo) -> str:
    number = _number(value)
    if number != number.to_integral_value():
        raise RowError("is not a whole number")
    if abs(number) > EXACT_NUMBERS:
        raise RowError("is beyond 2^53, where numbers are rounded; send it as text")
    return str(int(number))


def _decimal(value: object, _zone: tzinfo) -> str:
    number = _number(value)
    # The shortest text of the number that Iterable keeps; never without a point, so never a whole
    # number's.
    text = repr(float(number))
    if not math.isfinite(float(text)) or Decimal(text) != number:
        raise RowError("has more digits than a number keeps; round it, or send it as text")
    return text


def _number(value: object) -> Decimal:
    """Return a number, or the text of one, without any loss."""
    try:
        number = Decimal(repr(value) if isinstance(value, float) else _plain(value))
    except (InvalidOperation, TypeError, ValueError):
        raise RowError("is not a number") from None
    if not number.is_finite():
        raise RowError("is not a finite number")
    return number


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever the connector returns
    """Return text as it may stand for a number: Decimal also takes ``1_0`` and other digits."""
    if isinstance(value, str) and not re.fullmatch(r"\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*", value):
        raise ValueError
    return value


_TRUTH = {"1": "true", "0": "false", "true": "true", "false": "false"}


def _boolean(value: object, _zone: tzinfo) -> str:
    text = value.strip().lower() if isinstance(value, str) else str(_integer(value, UTC))
    if text not in _TRUTH:
        raise RowError("is neither 0 nor 1")
    return _TRUTH[text]


def _date(value: object, zone: tzinfo) -> str:
    """Return one of the forms that are dates to Iterable: a day, or a moment in UTC.

    A day stays one: it has no zone. Fractions of a second are dropped.
    """
    if isinstance(value, str):
        value = _parsed(value.strip())
    if isinstance(value, datetime):
        try:
            moment = (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
        except (OverflowError, ValueError):
            raise RowError("is beyond the calendar") from None
        return f'"{moment.isoformat(sep=" ")[:19]} +00:00"'
    if isinstance(value, date):
        return f'"{value.isoformat()}"'
    raise RowError("is not a date")


def _parsed(text: str) -> date | datetime:
    try:
        return date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)
    except ValueError:
        raise RowError("is not a date such as 2026-01-13 or 2026-01-13 14:30:45") from None


def _json(value: object, _zone: tzinfo) -> str | None:
    """Return an object or an array as it came but for blanks; None for JSON's null."""
    try:
        text = str(as_text("", value))
        _check_depth(text)
        document = json.loads(
            text, parse_int=_json_int, parse_float=_json_float, parse_constant=_no_constant
        )
    except RowError as error:
        raise RowError(str(error).strip()) from None
    except (ValueError, RecursionError):
        raise RowError("is not valid JSON") from None
    if document is None:
        return None
    if not isinstance(document, dict | list):
        raise RowError("is JSON, but neither an object nor an array")
    return json.dumps(document)


def _check_depth(text: str) -> None:
    """Raise RowError if the brackets outside strings are nested deeper than MySQL takes them."""
    if text.count("[") + text.count("{") <= DEEPEST_JSON:
        return
    depth = deepest = 0
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[][{}]', text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket, 0)
        deepest = max(deepest, depth)
    if deepest > DEEPEST_JSON:
        raise RowError("is nested too deep")


def _json_int(text: str) -> int:
    return int(_integer(text, UTC))


def _json_float(text: str) -> float:
    return float(_decimal(text, UTC))


def _no_constant(_text: str) -> None:
    raise RowError("is not a finite number")


_ENCODERS: Mapping[FieldType, Callable[[Any, tzinfo], str | None]] = {
    FieldType.INTEGER: _integer,
    FieldType.DECIMAL: _decimal,
    FieldType.BOOLEAN: _boolean,
    FieldType.DATE: _date,
    FieldType.JSON: _json,
}
