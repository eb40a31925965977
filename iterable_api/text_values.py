"""Values of MySQL as text, each as MySQL itself writes it."""

import math
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any


class RowError(ValueError):
    """Refusal of a row that cannot be sent as it is; it names the column, not the value."""


def as_text(column: str, value: object) -> str | None:
    """Return a MySQL value as text, or None for NULL.

    Raises:
        RowError: the value has no text, such as bytes that are not UTF-8.

    """
    if value is None or (type(value) is str and value.isascii()):
        return value
    if type(value) is int:
        return str(value)
    convert = _TO_TEXT.get(type(value))
    if convert is None:
        raise RowError(f"{column} has a type that cannot be sent: {type(value).__name__}")
    try:
        text = convert(value)
        text.encode()
    except UnicodeError:
        raise RowError(f"{column} is not valid UTF-8 text") from None
    except ValueError as error:
        raise RowError(f"{column} {error}") from None
    return text


def _number_text(value: float | Decimal) -> str:
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    return repr(value) if isinstance(value, float) else format(value, "f")


def _time_text(value: timedelta) -> str:
    """Return a TIME as MySQL writes it, such as ``-26:03:04`` or ``00:00:01.500000``."""
    seconds, micros = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
    sign = "-" if value < timedelta() else ""
    text = f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{micros:06}" if micros else text


# By exact type: a datetime is a date and a bool is an int, yet each reads differently.
_TO_TEXT: dict[type, Callable[[Any], str]] = {
    str: str,
    int: str,
    bool: lambda value: str(int(value)),
    float: _number_text,
    Decimal: _number_text,
    bytes: bytes.decode,
    bytearray: bytearray.decode,
    date: date.isoformat,
    datetime: lambda value: value.isoformat(sep=" "),
    timedelta: _time_text,
    set: lambda value: ",".join(sorted(value)),
}
