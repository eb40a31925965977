"""What is sent for a row, to the last field."""

import json
import math
import re
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterable_api.payloads import EVENT_NAMESPACE, Payloads, RowError, bulk_body, encode
from iterable_api.text_values import as_text
from tests.rows import make_row

PAYLOADS = Payloads("iterable_challenge")
TEXT_COLUMNS = ["first_name", "plan_type", "page", "browser", "location"]

# What the connector can return for a column, but for what is refused below.
COLUMN_VALUES = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["👩‍👩‍👧 Zoë", 'O\'Brien "Bob"', "two\nlines", "nul\0", "x" * 10_000, " "]),
    st.integers(),
    st.booleans(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.dates(),
    st.datetimes(),
    st.timedeltas(),
    st.text(st.characters(exclude_categories=["Cs"])).map(str.encode),
    st.sets(st.sampled_from(["a", "b", "c"])),
)


def test_a_row_becomes_exactly_the_two_bodies_of_the_specification():
    assert PAYLOADS.user(make_row()) == {
        "email": "user1@example.com",
        "dataFields": {
            "first_name": "Sarah",
            "plan_type": "pro",
            "recent_page_view": True,
            "candidate": "yes",
        },
    }
    assert PAYLOADS.event(make_row()) == {
        "email": "user1@example.com",
        "eventName": "page_view",
        "id": "4f8bf5af-cbca-5cb5-91c6-7b2fa0735256",
        "createdAt": 1768314645,
        "dataFields": {
            "page": "pricing",
            "browser": "Chrome",
            "location": "Madrid, ES",
            "timestamp": "2026-01-13 14:30:45",
            "candidate": "yes",
        },
    }


@pytest.mark.parametrize("column", TEXT_COLUMNS)
def test_a_null_column_is_left_out(column):
    row = make_row() | {column: None}
    sent = PAYLOADS.user(row)["dataFields"] | PAYLOADS.event(row)["dataFields"]
    assert column not in sent
    assert None not in sent.values()


@given(st.fixed_dictionaries(dict.fromkeys(TEXT_COLUMNS, COLUMN_VALUES)))
def test_whatever_a_column_holds_it_is_sent_as_text_or_left_out(columns):
    row = make_row(**columns)
    fields = PAYLOADS.user(row)["dataFields"] | PAYLOADS.event(row)["dataFields"]
    for column, value in columns.items():
        assert (column in fields) == (value is not None)
        assert isinstance(fields.get(column, ""), str)
    # As it goes over the wire, and back.
    assert json.loads(json.dumps(fields, allow_nan=False).encode()) == fields


@given(st.fixed_dictionaries(dict.fromkeys(TEXT_COLUMNS, COLUMN_VALUES)))
def test_bodies_are_what_jsons_own_encoder_makes_of_them_to_the_byte(columns):
    prepared = PAYLOADS.prepare(make_row(email='Zoë"1"@example.com', **columns))
    for body in (prepared.user, prepared.event):
        assert encode(json.loads(body)) == body


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12.50"), "12.50"),
        (Decimal("1E+3"), "1000"),
        (2**64 - 1, "18446744073709551615"),
        (True, "1"),
        (date(2026, 1, 13), "2026-01-13"),
        (datetime(2026, 1, 13, 0, 0), "2026-01-13 00:00:00"),  # noqa: DTZ001
        ("Zoë".encode(), "Zoë"),
        ({"b", "a"}, "a,b"),
        (timedelta(hours=26, minutes=3, seconds=4), "26:03:04"),
        (timedelta(seconds=-1), "-00:00:01"),
        (timedelta(hours=-838, minutes=-59, seconds=-59), "-838:59:59"),
        (timedelta(milliseconds=1500), "00:00:01.500000"),
    ],
)
def test_values_read_as_they_do_in_mysql(value, text):
    assert as_text("page", value) == text


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"email": None}, "email"),
        ({"email": " \t"}, "email"),
        ({"email": b"\xff@example.com"}, "email"),
        ({"first_name": b"\xff"}, "first_name"),
        ({"first_name": math.nan}, "first_name"),
        ({"first_name": -math.inf}, "first_name"),
        ({"first_name": Decimal("NaN")}, "first_name"),
        ({"first_name": "\ud800"}, "first_name"),
        ({"plan_type": object()}, "plan_type"),
    ],
)
def test_a_row_that_cannot_be_sent_names_the_column_and_not_the_value(changes, column):
    with pytest.raises(RowError, match=rf"^{column} [a-zA-Z0-9 :-]+$"):
        PAYLOADS.user(make_row(**changes))


@pytest.mark.parametrize("inside", [" ", "\t", "\r\n", "\0", "\x7f", "\xa0", "\u200b", "\ufeff"])
def test_an_email_with_something_invisible_inside_is_refused(inside):
    for email in (f"user{inside}1@example.com", f"user1@example.com{inside}x"):
        with pytest.raises(RowError, match=r"^email has a blank or an invisible character inside$"):
            PAYLOADS.user(make_row(email=email))


@pytest.mark.parametrize(
    "email", ["no-at-sign", "a@b@c", f"{'x' * 300}@example.com", "Ü@exämple.de"]
)
def test_whether_an_address_is_one_is_left_to_iterable(email):
    assert PAYLOADS.user(make_row(email=email))["email"] == email


@pytest.mark.parametrize("value", [None, "yesterday", timedelta(1)])
def test_an_event_without_a_time_is_refused(value):
    with pytest.raises(RowError, match="event_time"):
        PAYLOADS.event(make_row(event_time=value))


def test_blanks_around_an_email_are_dropped():
    assert PAYLOADS.user(make_row(email=" a@b.example "))["email"] == "a@b.example"


@pytest.mark.parametrize(
    "when",
    [
        datetime.min,  # noqa: DTZ901
        datetime(1969, 12, 31, 23, 59, 59),  # noqa: DTZ001
        datetime(1970, 1, 1),  # noqa: DTZ001
        date(2100, 1, 1),
        datetime.max,  # noqa: DTZ901
    ],
    ids=str,
)
@pytest.mark.parametrize("zone", [UTC, ZoneInfo("UTC")], ids=repr)
def test_a_moment_that_cannot_be_meant_is_refused(when, zone):
    with pytest.raises(RowError, match=r"^event_time is not within 1970 to 2099$"):
        Payloads("db", zone).event(make_row(event_time=when))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Kiritimati", "America/St_Johns"])
def test_the_ends_of_the_calendar_are_refused_in_every_zone(zone):
    for when in (datetime.min, datetime.max):  # noqa: DTZ901
        with pytest.raises(RowError, match="event_time"):
            Payloads("db", ZoneInfo(zone)).event(make_row(event_time=when))


@pytest.mark.parametrize(
    ("clock", "moment"),
    [
        ("2026-07-13 12:00:00", "2026-07-13 10:00:00Z"),
        ("2026-10-25 01:59:59", "2026-10-24 23:59:59Z"),
        ("2026-10-25 02:30:00", "2026-10-25 00:30:00Z"),
        ("2026-10-25 03:00:00", "2026-10-25 02:00:00Z"),
        ("2026-03-29 02:30:00", "2026-03-29 01:30:00Z"),
        ("2026-03-29 03:00:00", "2026-03-29 01:00:00Z"),
    ],
    ids=["summer", "before", "comes twice", "after", "is missing", "after the missing hour"],
)
def test_a_clock_that_is_set_has_one_rule(clock, moment):
    row = make_row(event_time=datetime.fromisoformat(clock))
    event = Payloads("db", ZoneInfo("Europe/Berlin")).event(row)
    assert event["createdAt"] == datetime.fromisoformat(moment).timestamp()
    assert event["dataFields"]["timestamp"] == clock


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 31)),  # noqa: DTZ001
    st.integers(-13, 14),
)
def test_created_at_is_the_instant_in_the_sessions_zone_in_whole_seconds(when, hours):
    event = Payloads("db", timezone(timedelta(hours=hours))).event(make_row(event_time=when))
    expected = when.replace(microsecond=0, tzinfo=UTC).timestamp() - hours * 3600
    assert event["createdAt"] == expected
    assert isinstance(event["createdAt"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", event["dataFields"]["timestamp"])


def test_an_event_keeps_its_id_and_no_two_events_share_one():
    first, again = (Payloads(name).prepare(make_row(1)) for name in ("a", "a"))
    assert first.event_id == again.event_id
    ids = {Payloads(name).prepare(make_row(n)).event_id for name in ("a", "b") for n in range(50)}
    assert len(ids) == 100
    assert all(uuid.UUID(each).version == 5 for each in ids)


def test_an_events_id_is_a_uuid_of_version_5_by_the_standard():
    name = '["iterable_challenge", "page_views", "page_view"]3:101,1,1768314645'
    assert PAYLOADS.prepare(make_row()).event_id == str(uuid.uuid5(EVENT_NAMESPACE, name))


@pytest.mark.parametrize(
    "changes",
    [{"customer_id": 2}, {"customer_id": None}, {"event_time": datetime(2026, 2, 1)}],  # noqa: DTZ001
)
def test_a_table_that_starts_its_ids_again_overwrites_no_event(changes):
    before, after = make_row(page_view_id=7), make_row(page_view_id=7, **changes)
    assert PAYLOADS.prepare(before).event_id != PAYLOADS.prepare(after).event_id


def test_what_a_customer_changes_leaves_the_event_the_same():
    changed = make_row(email="new@example.com", first_name="Anna", browser="Safari")
    assert PAYLOADS.prepare(make_row()).event_id == PAYLOADS.prepare(changed).event_id


@pytest.mark.parametrize(
    ("email", "key"), [(" Anna@Example.COM ", "anna@example.com"), (None, None), ("a b", None)]
)
def test_the_key_of_a_user_is_the_address_in_lower_case(email, key):
    assert list(PAYLOADS.keys([email, "b@example.com"])) == [key, "b@example.com"]
    if key is not None:
        assert PAYLOADS.prepare(make_row(email=email)).key == key


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_bulk_body_holds_the_bodies_as_they_are(count):
    prepared = [PAYLOADS.prepare(make_row(number)) for number in range(count)]
    body = bulk_body("users", [each.user for each in prepared])
    assert json.loads(body) == {"users": [PAYLOADS.user(make_row(n)) for n in range(count)]}
    assert all(each.user in body for each in prepared)
