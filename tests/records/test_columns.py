"""Columns: which kind one is by the protocol, and how its values are shown to people."""

import json
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.columns import JOB_COLUMNS, Column, Kind, column_of, job_columns
from records.database_errors import DatabaseError

NO_CHARACTERS, UTF8 = 63, 45


@pytest.mark.parametrize(
    ("number", "charset", "kind"),
    [
        # Those that MariaDB does not have, or not so; a test of the connection has the others.
        (6, NO_CHARACTERS, Kind.NULL),
        (14, NO_CHARACTERS, Kind.DATE),
        (242, NO_CHARACTERS, Kind.OTHER),
        (245, NO_CHARACTERS, Kind.JSON),
        (255, NO_CHARACTERS, Kind.OTHER),
    ],
)
def test_the_protocol_tells_a_columns_kind(number, charset, kind):
    assert column_of("x", number, 0, charset) == Column("x", kind)


def test_text_that_is_compared_by_bytes_is_known():
    assert column_of("x", 252, 128, UTF8) == Column("x", Kind.TEXT, by_bytes=True)
    assert column_of("x", 254, 128, UTF8) == Column("x", Kind.TEXT)
    assert column_of("x", 252, 128, NO_CHARACTERS) == Column("x", Kind.BINARY)
    assert column_of("x", 3, 128, NO_CHARACTERS) == Column("x", Kind.INTEGER)


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (Kind.INTEGER, b"7", 7),
        (Kind.INTEGER, b"-7", -7),
        (Kind.INTEGER, b"00042", 42),
        (Kind.INTEGER, b"18446744073709551615", 2**64 - 1),
        (Kind.INTEGER, b"C-17", "C-17"),
        (Kind.INTEGER, b"", ""),
        (Kind.TINYINT, b"1", 1),
        (Kind.DECIMAL, b"7", "7"),
        (Kind.TEXT, "Zoë\n".encode(), "Zoë\n"),
        (Kind.TEXT, b"ann\xff", "0x616e6eff"),
        (Kind.BINARY, b"\x01\xff", "0x01ff"),
        (Kind.BINARY, b"a\nb", "0x610a62"),
        (Kind.BINARY, b"ann@example.com", "ann@example.com"),
        (Kind.BIT, b"\x05", "0x05"),
        (Kind.OTHER, b"\x00\x01", "0x0001"),
        (Kind.DATE, b"2026-01-13", "2026-01-13"),
        (Kind.BINARY, None, None),
    ],
)
def test_people_see_a_number_a_text_or_bytes_in_hex(kind, value, shown):
    column = Column("x", kind)
    found = column.shown(value)
    assert (found, type(found)) == (shown, type(shown))
    if kind is not Kind.DATE:
        assert column.converted(value) == shown


@pytest.mark.parametrize(
    ("kind", "value", "converted"),
    [
        (Kind.DATE, b"2026-01-13", date(2026, 1, 13)),
        (Kind.DATE, b"2026-00-13", "2026-00-13"),
        (Kind.MOMENT, b"2026-01-13 14:30:45.5", datetime(2026, 1, 13, 14, 30, 45, 500_000)),  # noqa: DTZ001 - as MySQL gives it
        (Kind.MOMENT, b"0000-00-00 00:00:00", "0000-00-00 00:00:00"),
        (Kind.MOMENT, b"\xff", "0xff"),
        (Kind.DATE, None, None),
        (Kind.TEXT, b"2026-01-13", "2026-01-13"),
    ],
)
def test_a_date_is_converted_if_it_is_one(kind, value, converted):
    assert Column("x", kind).converted(value) == converted


@given(st.sampled_from(Kind), st.binary(max_size=30))
def test_whatever_a_value_is_it_can_be_shown(kind, value):
    column = Column("x", kind)
    assert json.loads(json.dumps(column.shown(value))) == column.shown(value)
    assert column.converted(value) is not None


def test_what_query_2_must_return_is_told_when_it_is_missing():
    columns = [Column(name) for name in JOB_COLUMNS]
    job_columns([*columns, Column("one_more"), Column("user.x"), Column("user.x")])
    told = (
        r"^Query 2 must return email, page_view_id; it returned customer_id, .*, location\. Write "
    )
    with pytest.raises(DatabaseError, match=f"{told}AS email after the column you mean$"):
        job_columns([c for c in columns if c.name not in {"email", "page_view_id"}])
    with pytest.raises(DatabaseError, match=r"no browser, write NULL AS browser$"):
        job_columns([column for column in columns if column.name != "browser"])
    many = [Column(f"column_{number}") for number in range(100)]
    with pytest.raises(DatabaseError, match=r"it returned column_0, .* \[\.\.\.\]\. Write AS "):
        job_columns(many)
    with pytest.raises(DatabaseError, match=r"^the query returns page twice$"):
        job_columns([*columns, Column("page")])


def test_names_match_whatever_their_case_and_a_fields_own_name_stays_as_written():
    written = [*map(str.upper, JOB_COLUMNS), "Event_Name", "USER.Größe:LONG", "Event.Page", "Other"]
    names = [column.name for column in job_columns([*map(Column, written)])]
    assert names == [*JOB_COLUMNS, "event_name", "user.Größe:long", "event.Page", "Other"]
    with pytest.raises(DatabaseError, match=r"^the query returns email twice$"):
        job_columns([*map(Column, [*JOB_COLUMNS, "EMAIL"])])


@pytest.mark.parametrize("suffix", ["", ":string"])
def test_a_field_may_stand_for_the_column_that_is_called_like_it(suffix):
    there = ["customer_id", "email", "page_view_id", "event_time", "user.first_name", "event.page"]
    there += ["User.plan_type", "event.browser", "event.location"]
    fields = [name + suffix if "." in name else name for name in there]
    job_columns([*map(Column, fields)])
    with pytest.raises(DatabaseError, match=r"^Query 2 must return plan_type; it returned "):
        job_columns([Column(name.replace("plan_type", "Plan_Type")) for name in fields])
