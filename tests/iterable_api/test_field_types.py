"""Values as JSON of their field's type: what fits, and what is refused with its row."""

import json
import math
import re
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iterable_api.field_types import TYPES_OF, FieldType, RowError, as_text, encoder
from records.columns import Column, Kind

BERLIN = ZoneInfo("Europe/Berlin")
T, INT, TINY, DEC = Kind.TEXT, Kind.INTEGER, Kind.TINYINT, Kind.DECIMAL


def encoded(kind, value, zone=UTC, of=Kind.TEXT):
    """Return a value as the reader of its JSON sees it; None if it is left out."""
    raw = value.encode() if isinstance(value, str) else value
    text = encoder(FieldType(kind), Column("user.x", of), zone)(raw)
    return None if text is None else json.loads(text)


FITTING = [
    ("string", T, "Zoë", "Zoë"),
    ("string", INT, "01234", "01234"),
    ("string", Kind.DATE, "0000-00-00", "0000-00-00"),
    ("string", Kind.JSON, '{"a": 1.50}', '{"a": 1.50}'),
    ("long", INT, "00005", 5),
    ("long", INT, str(2**53), 2**53),
    ("long", DEC, "5.000", 5),
    ("long", T, " 007 ", 7),
    ("long", Kind.BIT, b"\x01\x00", 256),
    ("double", INT, "12", 12.0),
    ("double", DEC, "1250.50", 1250.5),
    ("double", DEC, "-1.7976931348623157e308", -1.7976931348623157e308),
    ("double", T, "1.5e3", 1500.0),
    ("boolean", TINY, "1", True),
    ("boolean", DEC, "1.00", True),
    ("boolean", T, " True", True),
    ("boolean", T, "FALSE", False),
    ("boolean", Kind.BIT, b"\x00\x00", False),
    ("date", Kind.DATE, "2026-01-13", "2026-01-13"),
    ("date", Kind.MOMENT, "2026-01-13 14:30:45.999999", "2026-01-13 13:30:45 +00:00"),
    ("date", T, " 2026-01-13 ", "2026-01-13"),
    ("date", T, "2026-01-13 14:30:45", "2026-01-13 13:30:45 +00:00"),
    ("date", T, "2026-01-13T14:30:45+05:30", "2026-01-13 09:00:45 +00:00"),
    ("date", T, "2026-01-13T14:30:45Z", "2026-01-13 14:30:45 +00:00"),
    ("json", Kind.JSON, '{"a": [1, 2.5, null, "é"]}', {"a": [1, 2.5, None, "é"]}),
    ("json", T, '{"a": 1}', {"a": 1}),
    ("json", T, "null", None),
    ("json", T, '{"deep": "' + "[" * 500 + '"}', {"deep": "[" * 500}),
    ("json", T, "[" * 100 + "]" * 100, json.loads("[" * 100 + "]" * 100)),
]


def test_a_value_becomes_one_of_its_fields_type():
    for kind, of, value, sent in FITTING:
        assert kind in TYPES_OF[of]
        got = encoded(kind, value, BERLIN, of)
        assert (got, type(got)) == (sent, type(sent)), (kind, of, value)


REFUSED = [
    ("string", T, b"\xff", "is not valid UTF-8 text"),
    ("string", T, b"\xed\xa0\x80", "is not valid UTF-8 text"),  # half of a character
    ("long", INT, str(2**53 + 1), "is beyond 2^53 and would be rounded; send it as :st"),
    ("long", Kind.BIT, b"\x00\x20\x00\x00\x00\x00\x00\x01", "is beyond 2^53"),
    ("long", DEC, "1.5", "is not a whole number"),
    ("long", T, "1e9999999999999999999", "is not a number"),
    ("long", T, "nan", "is not a number"),
    ("long", T, "", "is not a number"),
    ("long", T, "1_000", "is not a number"),
    ("long", T, "٣", "is not a number"),
    ("double", DEC, "12345678901234567.89", "has more digits than a double can hold; round it"),
    ("double", T, "1e400", "has more digits than a double can hold"),
    ("boolean", TINY, "2", "is neither 0 nor 1"),
    ("boolean", T, "yes", "is neither 0 nor 1"),
    ("boolean", DEC, "0.5", "is neither 0 nor 1"),
    ("date", Kind.DATE, "0000-00-00", "is not a date such as 2026-01-13 or 2026-01-13 14:30"),
    ("date", Kind.MOMENT, "0001-01-01 00:00:00", "is outside the years 1 to 9999"),
    ("date", T, "13.01.2026", "is not a date such as"),
    # Python's own reading would make a moment of the first, and a day of the second.
    ("date", T, "20260113", "is not a date such as"),
    ("date", T, "2026-W03-2", "is not a date such as"),
    ("date", T, "2026-02-30", "is not a date such as"),
    ("json", T, "{", "is not valid JSON"),
    ("json", Kind.JSON, "7", "is JSON, but neither an object nor an array"),
    ("json", T, '{"a": NaN}', "is not a number"),
    ("json", T, '{"a": 9007199254740993}', "is beyond 2^53"),
    ("json", T, '{"a": 0.12345678901234567890123}', "has more digits"),
    ("json", T, "[" * 101 + "]" * 101, "is nested too deeply"),
    ("json", T, "[" * 100_000, "is nested too deeply"),
]


def test_a_value_that_does_not_fit_names_its_column_and_not_itself():
    for kind, of, value, told in REFUSED:
        with pytest.raises(RowError, match=re.escape(f"user.x {told}")):
            encoded(kind, value, BERLIN, of)


def test_the_jobs_own_columns_are_read_as_text_and_bits_as_their_number():
    assert as_text(Column("page", Kind.BIT), b"\x01\x00") == "256"
    assert as_text(Column("page", Kind.BINARY), b"ok") == "ok"
    with pytest.raises(RowError, match=r"^page has a type that cannot be sent$"):
        as_text(Column("page", Kind.OTHER), b"\x00")


# As MySQL may write any of them, and as it never does.
ANYTHING = st.one_of(
    st.text().map(lambda text: text.encode("utf-8", "replace")),
    st.binary(max_size=20),
    st.one_of(
        st.integers(), st.floats(), st.decimals(), st.dates(), st.datetimes(), st.booleans()
    ).map(lambda value: str(value).encode()),
    st.from_regex(rb"-?[0-9]{1,3}(\.[0-9]{1,3})?([eE]-?[0-9]{1,20})?", fullmatch=True),
    st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists).map(
        lambda value: json.dumps(value).encode()
    ),
)
READ_AS = dict(zip(FieldType, (str, int, float, bool, str, dict | list), strict=True))
PAIRS = [(kind, of) for of, kinds in TYPES_OF.items() for kind in kinds]


@given(st.sampled_from(PAIRS), ANYTHING)
@example(("long", T), b"1e999999999999999999")
@example(("long", T), b"0e999999999")
@example(("boolean", T), b"1e9999999")
def test_whatever_comes_is_of_its_fields_type_or_refused(pair, value):
    kind, of = pair
    try:
        sent = encoded(kind, value, of=of)
    except RowError:
        return
    assert sent is None or isinstance(sent, READ_AS[kind])
    assert isinstance(sent, bool) == (kind == "boolean")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_is_sent_as_the_very_number_that_it_is(value):
    sent = encoded("double", repr(value), of=Kind.DECIMAL)
    assert (sent, math.copysign(1, sent)) == (value, math.copysign(1, value))


@given(st.dates(), st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)))  # noqa: DTZ001
def test_a_day_stays_one_and_a_moment_is_sent_in_utc(day, moment):
    assert encoded("date", day.isoformat(), BERLIN, Kind.DATE) == day.isoformat()
    sent = encoded("date", str(moment), BERLIN, Kind.MOMENT)
    expected = moment.replace(microsecond=0, fold=0, tzinfo=BERLIN).astimezone(UTC)
    assert datetime.fromisoformat(sent) == expected
    assert date.fromisoformat(sent[:10]) == expected.date()
