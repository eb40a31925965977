"""What is sent for a row, to the last field, and what tells whether it has changed."""

import json
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterable_api.mapping import JOB_COLUMNS, Identity, RowMapping
from iterable_api.payloads import EVENT_NAMESPACE, JOB_MAPPING, Payloads, RowError
from records.columns import Column, Kind
from records.outcomes import NO_EVENT
from tests.rows import bodies_of, make_prepared, make_row, raw_row

PAYLOADS = Payloads("iterable_challenge")
BERLIN = ZoneInfo("Europe/Berlin")
TEXT_COLUMNS = ["first_name", "plan_type", "page", "browser", "location"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
# What the connector returns for a column, but for what is refused below.
COLUMN_VALUES = st.one_of(
    *(st.none(), TEXTS, TEXTS.map(str.encode), st.integers(), st.booleans()),
    *(st.dates(), st.datetimes(), st.floats(allow_nan=False, allow_infinity=False)),
    st.sampled_from(["👩‍👩‍👧 Zoë", 'O\'Brien "Bob"', "two\nlines", "nul\0", "x" * 10_000, " "]),
)


def mapping_of(identity=Identity.EMAIL, more=(), **kinds):
    """Return the mapping of the job's columns, with other *kinds* of some, and *more* columns."""
    columns = [
        column._replace(kind=kinds.get(column.name, column.kind)) for column in JOB_MAPPING.columns
    ]
    columns += [Column(*((each,) if isinstance(each, str) else each)) for each in more]
    return RowMapping(columns, identity)


def at(clock):
    return datetime.fromisoformat(clock)


def test_a_row_becomes_exactly_the_two_bodies_of_the_specification():
    user, event = bodies_of(PAYLOADS, make_row())
    assert user == {
        "email": "user1@example.com",
        "dataFields": {
            "first_name": "Sarah",
            "plan_type": "pro",
            "recent_page_view": True,
            "candidate": "yes",
        },
    }
    assert event == {
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


@given(st.fixed_dictionaries(dict.fromkeys(TEXT_COLUMNS, COLUMN_VALUES)))
def test_whatever_a_column_holds_it_is_sent_as_text_or_left_out(columns):
    prepared = make_prepared(email='Zoë"1"@example.com', **columns)
    sent = [prepared.profile.body, prepared.event.body]
    bodies = [json.loads(body) for body in sent]
    # To the byte what the encoder of json makes of them.
    assert [json.dumps(body).encode() for body in bodies] == sent
    fields = bodies[0]["dataFields"] | bodies[1]["dataFields"]
    for column, value in columns.items():
        assert (column in fields) == (value is not None)
        assert isinstance(fields.get(column, ""), str)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12.50"), "12.50"),
        (2**64 - 1, "18446744073709551615"),
        (0.1, "0.1"),
        (date(2026, 1, 13), "2026-01-13"),
        (at("2026-01-13 00:00:00.000001"), "2026-01-13 00:00:00.000001"),
        (bytearray("Zoë".encode()), "Zoë"),
        (True, "1"),
    ],
)
def test_a_dicts_values_are_written_as_mysql_writes_them(value, text):
    assert dict(zip(JOB_COLUMNS, raw_row(page=value), strict=True))["page"] == text.encode()
    assert bodies_of(PAYLOADS, make_row(page=value))[1]["dataFields"]["page"] == text
    # A column that is missing is NULL.
    assert JOB_MAPPING.row_of({"email": "a@b.example", "more": 7}).count(None) == 8


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"email": None}, "email is empty"),
        ({"email": " \t"}, "email is empty"),
        ({"email": b"\xff@example.com"}, "email is not valid UTF-8 text"),
        *(
            ({"email": f"user{inside}1@example.com"}, "email contains a space or an invisible")
            for inside in " \t\n\0\x7f\xa0\u200b\ufeff"
        ),
        ({"first_name": b"\xff"}, "first_name is not valid UTF-8 text"),
        ({"first_name": "\ud800"}, "first_name is not valid UTF-8 text"),
        *(
            ({"event_time": value}, "event_time is not a date and time")
            for value in (None, "", "yesterday", "0000-00-00", "0000-00-00 00:00:00", b"\xff")
        ),
        *(
            ({"event_time": value}, "event_time is not between 1970 and 2099")
            for value in (at("1970-01-01"), at("1969-12-31 23:59:59"), date(2100, 1, 1))
        ),
    ],
)
def test_a_row_that_cannot_be_sent_names_the_column_and_not_the_value(changes, told):
    with pytest.raises(RowError, match=f"^{told}"):
        make_prepared(**changes)


@pytest.mark.parametrize("email", ["no-at-sign", "a@b@c", f"{'x' * 300}@b.c", "Ü@exämple.de"])
def test_whether_an_address_is_one_is_left_to_iterable(email):
    for sent in (email, f" {email}\t"):
        user, event = bodies_of(PAYLOADS, make_row(email=sent))
        assert user["email"] == event["email"] == email


@pytest.mark.parametrize("changes", [{}, {"event_time": None}, {"page": b"\xff"}])
def test_a_row_without_a_page_view_id_has_a_profile_and_no_event(changes):
    prepared, plain = make_prepared(page_view_id=None, **changes), make_prepared()
    assert prepared.profile == plain.profile
    assert (prepared.event.outcome, prepared.event.body) == (NO_EVENT, b"")


def test_bodies_take_the_place_of_the_values_and_are_made_once():
    # What a row is called is known before its values are looked at.
    assert PAYLOADS.prepare(raw_row(first_name=b"\xff")).email == "user1@example.com"
    row = PAYLOADS.prepare(raw_row())
    assert (row.values, row.profile.body) == (raw_row(), b"")
    PAYLOADS.complete(row)
    body = row.profile.body
    assert (row.values, json.loads(body)["email"]) == ((), "user1@example.com")
    PAYLOADS.complete(row)
    assert row.profile.body is body


# --- The time of an event


def test_a_day_is_a_time_at_midnight_and_a_text_is_none():
    payloads = Payloads("db", UTC, mapping_of(event_time=Kind.DATE))
    _, event = bodies_of(payloads, make_row(event_time=date(2026, 1, 13)))
    assert event["dataFields"]["timestamp"] == "2026-01-13 00:00:00"
    payloads = Payloads("db", UTC, mapping_of(event_time=Kind.TEXT))
    with pytest.raises(RowError, match=r"^event_time is not a date and time$"):
        payloads.prepare(raw_row(event_time="2026-01-13 14:30:45"))


@pytest.mark.parametrize("zone", [BERLIN, timezone(timedelta(hours=14))])
def test_the_ends_of_the_calendar_are_refused_in_every_zone(zone):
    for when in (datetime.min, datetime.max):  # noqa: DTZ901
        with pytest.raises(RowError, match="event_time is not between 1970 and 2099"):
            Payloads("db", zone).prepare(raw_row(event_time=when))


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
    _, event = bodies_of(Payloads("db", BERLIN), make_row(event_time=at(clock)))
    assert event["createdAt"] == at(moment).timestamp()
    assert event["dataFields"]["timestamp"] == clock


@given(st.datetimes(at("1970-01-02"), at("2099-12-30")), st.integers(-13, 14))
def test_created_at_is_the_instant_in_the_sessions_zone_in_whole_seconds(when, hours):
    payloads = Payloads("db", timezone(timedelta(hours=hours)))
    _, event = bodies_of(payloads, make_row(event_time=when))
    expected = when.replace(microsecond=0, tzinfo=UTC).timestamp() - hours * 3600
    assert event["createdAt"] == expected
    assert isinstance(event["createdAt"], int)
    assert event["dataFields"]["timestamp"] == f"{when:%Y-%m-%d %H:%M:%S}"


# --- Who a user is, and which event it is


def test_an_event_keeps_its_id_and_no_two_events_share_one():
    name = '["iterable_challenge", "page_views", "page_view"]3:101,1,1768314645'
    event_id = uuid.uuid5(uuid.UUID(bytes=EVENT_NAMESPACE), name)
    assert PAYLOADS.prepare(raw_row()).event_id == str(event_id)
    ids = {Payloads(name).prepare(raw_row(n)).event_id for name in ("a", "b") for n in range(50)}
    assert len(ids) == 100


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        # A table that starts its ids again overwrites no event.
        ({"customer_id": 2}, False),
        ({"customer_id": None}, False),
        ({"event_time": at("2026-02-01")}, False),
        # What a customer changes leaves the event the same.
        ({"email": "new@example.com", "first_name": "Anna", "browser": "Safari"}, True),
    ],
)
def test_an_event_is_told_by_page_view_customer_and_time(changes, same):
    before, after = raw_row(page_view_id=7), raw_row(page_view_id=7, **changes)
    assert (PAYLOADS.prepare(before).event_id == PAYLOADS.prepare(after).event_id) is same


def test_the_key_of_a_user_is_the_address_in_lower_case_and_rows_of_one_have_a_number_in_common():
    emails = "Ä@x.com", " ä@X.com\t", "b@x.com"
    one, same, other = (PAYLOADS.prepare(raw_row(email=email)) for email in emails)
    assert (one.key, one.profile.name) == ("ä@x.com", same.profile.name)
    assert other.profile.name != one.profile.name
    # A row that is not sent has a number, too.
    numbers = [PAYLOADS.user_number(raw_row(email=email)) for email in (*emails, b"\xff")]
    assert numbers == [hash("ä@x.com"), hash("ä@x.com"), hash("b@x.com"), 0]


# --- Hashes of what a row would send

VALUES = st.none() | st.binary(max_size=3) | st.sampled_from([b"1:a", b"-", b"--", b"2:ab1:c"])
SENT = {"first_name": 0, "plan_type": 0, "page": 1, "browser": 1, "location": 1}


def contents(payloads=PAYLOADS, **changes):
    """Return the two hashes of contents of a row, whose values may be none that can be sent."""
    prepared = payloads.prepare(payloads.mapping.row_of(make_row() | changes))
    return prepared.profile.content, prepared.event.content


@given(st.tuples(*[VALUES] * 5), st.tuples(*[VALUES] * 5))
def test_two_calls_have_one_hash_if_their_values_are_the_same_and_only_then(one, two):
    first, second = (contents(**dict(zip(SENT, values, strict=True))) for values in (one, two))
    assert (first[0] == second[0]) == (one[:2] == two[:2])
    assert (first[1] == second[1]) == (one[2:] == two[2:])


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"email": "b@example.com"}, (True, True)),
        ({"email": "USER1@example.com"}, (True, True)),
        ({"customer_id": 2}, (False, True)),
        ({"page_view_id": 2}, (False, True)),
        ({"event_time": at("2026-01-13 14:30:46")}, (False, True)),
        *(({name: "other"}, (call == 0, call == 1)) for name, call in SENT.items()),
    ],
)
def test_the_hash_of_a_call_is_over_the_columns_that_it_sends(changes, changed):
    before, after = contents(), contents(**changes)
    assert tuple(old != new for old, new in zip(before, after, strict=True)) == changed


def contents_by(*more, source="db", zone=UTC, identity=Identity.EMAIL, **kinds):
    """Return the two hashes of contents of a row whose further columns have the value 1."""
    mapping = mapping_of(identity, more, **kinds)
    values = {field.column.name: "1" for field in mapping.fields}
    return contents(Payloads(source, zone, mapping), **values)


INT, DEC = Kind.INTEGER, Kind.DECIMAL


@pytest.mark.parametrize("call", [0, 1], ids=["profile", "event"])
@pytest.mark.parametrize(
    ("one", "two"),
    [
        ([], [("x", INT)]),
        ([("x", INT)], [("y", INT)]),
        ([("x", INT)], [("x", DEC)]),
        ([("x:long", Kind.TEXT)], [("x:double", Kind.TEXT)]),
        ([("x:boolean", Kind.TINYINT)], [("x:boolean", Kind.BIT)]),
        ([("xy", INT), ("z", INT)], [("x", INT), ("yz", INT)]),
    ],
)
def test_another_mapping_is_another_content(one, two, call):
    prefix = ("user.", "event.")[call]
    first, second = (
        contents_by(*((prefix + name, kind) for name, kind in columns)) for columns in (one, two)
    )
    assert first[call] != second[call]
    assert first[1 - call] == second[1 - call]


def test_what_leaves_the_mapping_the_same_leaves_the_content_the_same():
    plain = contents_by(("user.x", INT))
    assert contents_by(("user.x:long", INT)) == plain == contents_by("unused", ("user.x", INT))


def test_kinds_names_the_source_and_the_zone_are_part_of_the_content():
    plain = contents_by()
    assert contents_by(first_name=Kind.BINARY)[0] != plain[0]
    assert contents_by(page=Kind.BIT)[1] != plain[1]
    named = contents_by("event_name")
    assert (named[0], named[1] == plain[1]) == (plain[0], False)
    for other in ({"identity": Identity.USER_ID}, {"source": "other"}, {"zone": BERLIN}):
        assert set(contents_by(**other)).isdisjoint(plain)
