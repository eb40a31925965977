"""Values as JSON of their field's type: what fits, and what is refused with its row."""

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterable_api.field_types import FieldType, encoder
from iterable_api.text_values import RowError

BERLIN = ZoneInfo("Europe/Berlin")


def encoded(kind, value, zone=UTC):
    """Return a value as the reader of its JSON sees it; None if it is left out."""
    text = encoder(FieldType(kind), "user.x", zone)(value)
    return None if text is None else json.loads(text)


@pytest.mark.parametrize(
    ("kind", "value", "sent"),
    [
        ("text", "Zoë", "Zoë"),
        ("text", Decimal("12.50"), "12.50"),
        ("text", 2**70, str(2**70)),
        ("text", timedelta(hours=26, seconds=1), "26:00:01"),
        ("text", {"b", "a"}, "a,b"),
        ("text", b"ok", "ok"),
        ("integer", 5, 5),
        ("integer", -(2**53), -(2**53)),
        ("integer", Decimal("5.000"), 5),
        ("integer", 5.0, 5),
        ("integer", " 007 ", 7),
        ("integer", True, 1),
        ("decimal", 12, 12.0),
        ("decimal", Decimal("1250.50"), 1250.5),
        ("decimal", Decimal("0.1"), 0.1),
        ("decimal", 1e300, 1e300),
        ("decimal", "1.5e3", 1500.0),
        ("decimal", Decimal("-0"), 0.0),
        ("boolean", 1, True),
        ("boolean", 0, False),
        ("boolean", Decimal(1), True),
        ("boolean", "True", True),
        ("boolean", "0", False),
        ("date", date(2026, 1, 13), "2026-01-13"),
        ("date", datetime(2026, 1, 13, 14, 30, 45, 999999), "2026-01-13 13:30:45 +00:00"),  # noqa: DTZ001
        ("date", datetime(2026, 7, 13, 14, 30), "2026-07-13 12:30:00 +00:00"),  # noqa: DTZ001
        ("date", "2026-01-13", "2026-01-13"),
        ("date", "2026-01-13 14:30:45", "2026-01-13 13:30:45 +00:00"),
        ("date", "2026-01-13T14:30:45+05:30", "2026-01-13 09:00:45 +00:00"),
        ("date", date(1, 1, 1), "0001-01-01"),
        ("json", '{"a": [1, 2.5, null, "é"]}', {"a": [1, 2.5, None, "é"]}),
        ("json", "[]", []),
        ("json", b'{"a": 1}', {"a": 1}),
        ("json", "null", None),
        ("json", '{"deep": "' + "[" * 500 + '"}', {"deep": "[" * 500}),
    ],
)
def test_a_value_becomes_one_of_its_fields_type(kind, value, sent):
    got = encoded(kind, value, BERLIN)
    assert got == sent
    assert type(got) is type(sent)


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("text", b"\xff", "is not valid UTF-8 text"),
        ("text", math.nan, "is not a finite number"),
        ("integer", 2**53 + 1, "is beyond 2^53, where numbers are rounded; send it as text"),
        ("integer", -(2**64), "is beyond 2^53"),
        ("integer", Decimal("1.5"), "is not a whole number"),
        ("integer", math.nan, "is not a finite number"),
        ("integer", math.inf, "is not a finite number"),
        ("integer", "", "is not a number"),
        ("integer", "1_000", "is not a number"),
        ("integer", "٣", "is not a number"),
        ("integer", b"\xff", "is not a number"),
        ("integer", timedelta(1), "is not a number"),
        ("decimal", Decimal("12345678901234567.89"), "has more digits than a number keeps"),
        ("decimal", 2**53 + 1, "has more digits than a number keeps"),
        ("decimal", Decimal("1e400"), "has more digits than a number keeps"),
        ("decimal", Decimal("NaN"), "is not a finite number"),
        ("decimal", "Infinity", "is not a number"),
        ("boolean", 2, "is neither 0 nor 1"),
        ("boolean", "yes", "is not|is neither"),
        ("boolean", 0.5, "is not a whole number"),
        ("date", "", "is not a date such as 2026-01-13"),
        ("date", "0000-00-00", "is not a date such as"),
        ("date", "13.01.2026", "is not a date such as"),
        ("date", 20260113, "is not a date"),
        ("date", datetime.min, "is beyond the calendar"),  # noqa: DTZ901
        ("json", "{", "is not valid JSON"),
        ("json", "", "is not valid JSON"),
        ("json", "7", "is JSON, but neither an object nor an array"),
        ("json", '"x"', "neither an object nor an array"),
        ("json", '{"a": NaN}', "is not a finite number"),
        ("json", '{"a": 9007199254740993}', "is beyond 2^53"),
        ("json", '{"a": 0.12345678901234567890123}', "has more digits"),
        ("json", "[" * 101 + "]" * 101, "is nested too deep"),
        ("json", "[" * 100_000, "is nested too deep"),
        ("json", b"\xff", "is not valid UTF-8 text"),
    ],
)
def test_a_value_that_does_not_fit_names_its_column_and_not_itself(kind, value, told):
    with pytest.raises(RowError) as caught:
        encoded(kind, value, BERLIN)
    text = str(caught.value)
    assert text.startswith(("user.x is ", "user.x has "))
    assert any(each in text for each in told.split("|"))


ANYTHING = st.one_of(
    st.text(),
    st.binary(max_size=20),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.dates(),
    st.datetimes(),
    st.timedeltas(),
    st.sets(st.text(max_size=3)),
    st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists).map(json.dumps),
)
READ_AS = {
    "text": str,
    "integer": int,
    "decimal": float,
    "boolean": bool,
    "date": str,
    "json": dict | list,
}


@given(st.sampled_from(FieldType), ANYTHING)
def test_whatever_comes_is_of_its_fields_type_or_refused(kind, value):
    try:
        sent = encoded(kind, value)
    except RowError:
        return
    assert sent is None or isinstance(sent, READ_AS[kind])
    assert isinstance(sent, bool) == (kind == "boolean")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_a_decimal_is_sent_to_its_last_digit_or_not_at_all(value):
    try:
        sent = encoder(FieldType.DECIMAL, "x", UTC)(value)
    except RowError:
        return
    assert Decimal(str(sent)) == value
