"""What is sent for a row, to the last field, and what tells whether it has changed."""

import json
import re
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configuration.settings import HERE
from iterable_api.mapping import Identity, RowMapping
from iterable_api.payloads import (
    EVENT_NAMESPACE,
    JOB_MAPPING,
    Payloads,
    RowError,
    bulk_body,
)
from records.columns import JOB_COLUMNS, Column, Kind
from records.outcomes import NO_EVENT
from tests.rows import bodies_of, make_prepared, make_row, raw_row

PAYLOADS = Payloads("iterable_challenge")
TEXT_COLUMNS = ["first_name", "plan_type", "page", "browser", "location"]

# What the connector returns for a column, but for what is refused below.
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
    st.text(st.characters(exclude_categories=["Cs"])).map(str.encode),
)


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


@pytest.mark.parametrize("column", TEXT_COLUMNS)
def test_a_null_column_is_left_out(column):
    user, event = bodies_of(PAYLOADS, make_row() | {column: None})
    sent = user["dataFields"] | event["dataFields"]
    assert column not in sent
    assert None not in sent.values()


@given(st.fixed_dictionaries(dict.fromkeys(TEXT_COLUMNS, COLUMN_VALUES)))
def test_whatever_a_column_holds_it_is_sent_as_text_or_left_out(columns):
    user, event = bodies_of(PAYLOADS, make_row(**columns))
    fields = user["dataFields"] | event["dataFields"]
    for column, value in columns.items():
        assert (column in fields) == (value is not None)
        assert isinstance(fields.get(column, ""), str)
    # As it goes over the wire, and back.
    assert json.loads(json.dumps(fields, allow_nan=False).encode()) == fields


@given(st.fixed_dictionaries(dict.fromkeys(TEXT_COLUMNS, COLUMN_VALUES)))
def test_bodies_are_what_jsons_own_encoder_makes_of_them_to_the_byte(columns):
    prepared = make_prepared(email='Zoë"1"@example.com', **columns)
    for body in (prepared.profile.body, prepared.event.body):
        assert json.dumps(json.loads(body)).encode() == body


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12.50"), "12.50"),
        (2**64 - 1, "18446744073709551615"),
        (0.1, "0.1"),
        (date(2026, 1, 13), "2026-01-13"),
        (datetime(2026, 1, 13, 0, 0), "2026-01-13 00:00:00"),  # noqa: DTZ001
        (datetime(2026, 1, 13, 0, 0, 0, 1), "2026-01-13 00:00:00.000001"),  # noqa: DTZ001
        ("Zoë".encode(), "Zoë"),
    ],
)
def test_a_dicts_values_are_written_as_mysql_writes_them(value, text):
    assert dict(zip(JOB_COLUMNS, raw_row(page=value), strict=True))["page"] == text.encode()
    assert bodies_of(PAYLOADS, make_row(page=value))[1]["dataFields"]["page"] == text


def test_a_column_that_a_dict_does_not_have_is_null():
    assert JOB_MAPPING.row_of({"email": "a@b.example", "more": 7}).count(None) == 8


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"email": None}, "email"),
        ({"email": " \t"}, "email"),
        ({"email": b"\xff@example.com"}, "email"),
        ({"first_name": b"\xff"}, "first_name"),
        ({"first_name": "\ud800"}, "first_name"),
        ({"location": b"Zo\xeb"}, "location"),
        ({"event_time": None}, "event_time"),
    ],
)
def test_a_row_that_cannot_be_sent_names_the_column_and_not_the_value(changes, column):
    with pytest.raises(RowError, match=rf"^{column} [a-zA-Z0-9 :-]+$"):
        make_prepared(**changes)


@pytest.mark.parametrize("changes", [{}, {"event_time": None}, {"page": b"\xff"}])
def test_a_row_without_a_page_view_id_has_a_profile_and_no_event(changes):
    prepared = make_prepared(page_view_id=None, **changes)
    assert (prepared.profile.body, prepared.profile.content) == (
        make_prepared().profile.body,
        make_prepared().profile.content,
    )
    assert (prepared.event.outcome, prepared.event.body) == (NO_EVENT, b"")


def test_what_a_row_is_called_is_known_before_its_values_are_looked_at():
    prepared = PAYLOADS.prepare(raw_row(first_name=b"\xff"))
    assert prepared.email == "user1@example.com"
    assert prepared.profile.body == prepared.event.body == b""
    with pytest.raises(RowError, match=r"^first_name is not valid UTF-8 text$"):
        PAYLOADS.complete(prepared)


def test_bodies_take_the_place_of_the_values_and_are_made_once():
    row = raw_row()
    prepared = PAYLOADS.prepare(row)
    complete = PAYLOADS.complete(prepared)
    assert (prepared.row, complete.row) == (row, ())
    assert PAYLOADS.complete(complete) is complete
    assert complete[1:5] == prepared[1:5]  # its names
    for whole, call in ((complete.profile, prepared.profile), (complete.event, prepared.event)):
        assert whole[:3] == call[:3]  # and the hashes of its contents


@pytest.mark.parametrize("inside", [" ", "\t", "\r\n", "\0", "\x7f", "\xa0", "\u200b", "\ufeff"])
def test_an_email_with_something_invisible_inside_is_refused(inside):
    for email in (f"user{inside}1@example.com", f"user1@example.com{inside}x"):
        with pytest.raises(RowError, match=r"^email has a blank or an invisible character inside$"):
            PAYLOADS.prepare(raw_row(email=email))


@pytest.mark.parametrize(
    "email", ["no-at-sign", "a@b@c", f"{'x' * 300}@example.com", "Ü@exämple.de"]
)
def test_whether_an_address_is_one_is_left_to_iterable(email):
    assert bodies_of(PAYLOADS, make_row(email=email))[0]["email"] == email


@pytest.mark.parametrize(
    "value", [None, "", "yesterday", "0000-00-00", "0000-00-00 00:00:00", b"\xff"]
)
def test_an_event_without_a_time_is_refused(value):
    with pytest.raises(RowError, match=r"^event_time is not a date and time$"):
        PAYLOADS.prepare(raw_row(event_time=value))


def test_a_text_is_no_time_whatever_it_looks_like():
    payloads = Payloads("db", UTC, mapping_of(event_time=Kind.TEXT))
    with pytest.raises(RowError, match=r"^event_time is not a date and time$"):
        payloads.prepare(raw_row(event_time="2026-01-13 14:30:45"))


@pytest.mark.parametrize("fraction", ["", ".5", ".999999"])
def test_fractions_of_a_second_are_dropped_from_an_events_time(fraction):
    clock = "2026-01-13 14:30:45"
    _, event = bodies_of(PAYLOADS, make_row(event_time=clock + fraction))
    assert (event["createdAt"], event["dataFields"]["timestamp"]) == (1768314645, clock)


def test_a_day_is_a_time_at_midnight():
    payloads = Payloads("db", UTC, mapping_of(event_time=Kind.DATE))
    _, event = bodies_of(payloads, make_row(event_time=date(2026, 1, 13)))
    assert event["dataFields"]["timestamp"] == "2026-01-13 00:00:00"


def test_blanks_around_an_email_are_dropped():
    user, event = bodies_of(PAYLOADS, make_row(email=" a@b.example\t"))
    assert user["email"] == event["email"] == "a@b.example"
    assert make_prepared(email=" a@b.example").email == "a@b.example"


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
        Payloads("db", zone).prepare(raw_row(event_time=when))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Kiritimati", "America/St_Johns"])
def test_the_ends_of_the_calendar_are_refused_in_every_zone(zone):
    for when in (datetime.min, datetime.max):  # noqa: DTZ901
        with pytest.raises(RowError, match="event_time"):
            Payloads("db", ZoneInfo(zone)).prepare(raw_row(event_time=when))


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
    _, event = bodies_of(Payloads("db", ZoneInfo("Europe/Berlin")), row)
    assert event["createdAt"] == datetime.fromisoformat(moment).timestamp()
    assert event["dataFields"]["timestamp"] == clock


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 31)),  # noqa: DTZ001
    st.integers(-13, 14),
)
def test_created_at_is_the_instant_in_the_sessions_zone_in_whole_seconds(when, hours):
    payloads = Payloads("db", timezone(timedelta(hours=hours)))
    _, event = bodies_of(payloads, make_row(event_time=when))
    expected = when.replace(microsecond=0, tzinfo=UTC).timestamp() - hours * 3600
    assert event["createdAt"] == expected
    assert isinstance(event["createdAt"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", event["dataFields"]["timestamp"])


def test_an_event_keeps_its_id_and_no_two_events_share_one():
    first, again = (Payloads(name).prepare(raw_row(1)) for name in ("a", "a"))
    assert first.event_id == again.event_id
    ids = {Payloads(name).prepare(raw_row(n)).event_id for name in ("a", "b") for n in range(50)}
    assert len(ids) == 100
    assert all(uuid.UUID(each).version == 5 for each in ids)


def test_an_events_id_is_a_uuid_of_version_5_by_the_standard():
    name = '["iterable_challenge", "page_views", "page_view"]3:101,1,1768314645'
    event_id = uuid.uuid5(uuid.UUID(bytes=EVENT_NAMESPACE), name)
    assert PAYLOADS.prepare(raw_row()).event_id == str(event_id)


def test_the_event_that_the_documents_show_keeps_its_id():
    text = (HERE / "docs" / "PHASE3_SUMMARY.md").read_text(encoding="utf-8")
    shown, moment, clock = re.findall(
        r'"id": "([^"]+)", "createdAt": (\d+),.*?"timestamp": "([^"]+)"', text, re.DOTALL
    )[0]
    row = make_row(1, page_view_id=1, event_time=datetime.fromisoformat(clock))
    _, event = bodies_of(PAYLOADS, row)
    assert (event["id"], event["createdAt"]) == (shown, int(moment))
    assert shown == "571afbf4-7ab4-5025-8237-7dcd86e10f02"


@pytest.mark.parametrize(
    "changes",
    [{"customer_id": 2}, {"customer_id": None}, {"event_time": datetime(2026, 2, 1)}],  # noqa: DTZ001
)
def test_a_table_that_starts_its_ids_again_overwrites_no_event(changes):
    before, after = raw_row(page_view_id=7), raw_row(page_view_id=7, **changes)
    assert PAYLOADS.prepare(before).event_id != PAYLOADS.prepare(after).event_id


def test_what_a_customer_changes_leaves_the_event_the_same():
    changed = raw_row(email="new@example.com", first_name="Anna", browser="Safari")
    assert PAYLOADS.prepare(raw_row()).event_id == PAYLOADS.prepare(changed).event_id


@pytest.mark.parametrize("email", ["anna@example.com", " Anna@Example.COM "])
def test_the_key_of_a_user_is_the_address_in_lower_case(email):
    prepared, other = (PAYLOADS.prepare(raw_row(email=each)) for each in (email, "b@example.com"))
    assert prepared.key == "anna@example.com"
    same = PAYLOADS.prepare(raw_row(2, email="ANNA@example.com"))
    assert prepared.profile.name == same.profile.name
    assert prepared.profile.name != other.profile.name


EMAILS = st.sampled_from([
    *("a@x.com", "A@x.com", " a@X.com\t", "ä@x.com", "Ä@x.com", "b@x.com"),
    *(None, "", b"\xff"),
])  # fmt: skip


@pytest.mark.parametrize("identity", Identity)
@given(EMAILS, EMAILS, st.integers(1, 2), st.integers(1, 2))
def test_rows_of_one_user_and_rows_of_one_event_have_a_number_in_common(
    identity, email, other, view, customer
):
    payloads = Payloads("db", UTC, mapping_of(identity))
    rows = [
        raw_row(1, email=email, page_view_id=1),
        raw_row(1, email=other, page_view_id=view, customer_id=customer),
    ]
    first, second = ((payloads.user_number(row), payloads.event_number(row)) for row in rows)
    try:
        one, two = map(payloads.prepare, rows)
    except RowError:
        return
    assert (first[0] == second[0]) == (one.key == two.key)
    assert (first[1] == second[1]) == (one.event.name == two.event.name)
    # As whoever has the key works it out.
    assert first[0] == hash(one.key)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_bulk_body_holds_the_bodies_as_they_are(count):
    prepared = [make_prepared(number) for number in range(count)]
    body = bulk_body("users", [each.profile.body for each in prepared])
    users = [bodies_of(PAYLOADS, make_row(number))[0] for number in range(count)]
    assert json.loads(body) == {"users": users}
    assert all(each.profile.body in body for each in prepared)


# --- Hashes of what a row would send

VALUES = st.none() | st.binary(max_size=3) | st.sampled_from([b"1:a", b"-", b"--", b"2:ab1:c"])
SENT_WITH_A_PROFILE = ("first_name", "plan_type")
SENT_WITH_AN_EVENT = ("page", "browser", "location")


def contents(payloads=PAYLOADS, **changes):
    """Return the two hashes of contents of a row, whose values may be none that can be sent."""
    prepared = payloads.prepare(raw_row(**changes))
    return prepared.profile.content, prepared.event.content


@given(st.tuples(VALUES, VALUES), st.tuples(VALUES, VALUES))
def test_two_profiles_have_one_hash_if_their_values_are_the_same_and_only_then(one, two):
    first, second = (contents(first_name=a, plan_type=b) for a, b in (one, two))
    assert (first[0] == second[0]) == (one == two)
    assert first[1] == second[1]


@given(st.tuples(VALUES, VALUES, VALUES), st.tuples(VALUES, VALUES, VALUES))
def test_two_events_have_one_hash_if_their_values_are_the_same_and_only_then(one, two):
    first, second = (contents(page=a, browser=b, location=c) for a, b, c in (one, two))
    assert (first[1] == second[1]) == (one == two)
    assert first[0] == second[0]


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"email": "b@example.com"}, (True, True)),
        ({"email": "USER1@example.com"}, (True, True)),
        ({"customer_id": 2}, (False, True)),
        ({"page_view_id": 2}, (False, True)),
        ({"event_time": datetime(2026, 1, 13, 14, 30, 46)}, (False, True)),  # noqa: DTZ001
        ({"first_name": "Anna"}, (True, False)),
        ({"plan_type": None}, (True, False)),
        ({"page": "settings"}, (False, True)),
        ({"browser": None}, (False, True)),
        ({"location": ""}, (False, True)),
    ],
)
def test_the_hash_of_a_call_is_over_the_columns_that_it_sends(changes, changed):
    before, after = contents(), contents(**changes)
    assert tuple(old != new for old, new in zip(before, after, strict=True)) == changed


def mapping_of(identity=Identity.EMAIL, more=(), **kinds):
    """Return the mapping of the job's columns, with other *kinds* of some, and *more* columns."""
    columns = [
        column._replace(kind=kinds.get(column.name, column.kind)) for column in JOB_MAPPING.columns
    ]
    columns += [Column(*((each,) if isinstance(each, str) else each)) for each in more]
    return RowMapping(columns, identity)


def contents_by(source="db", zone=UTC, mapping=JOB_MAPPING, **options):
    """Return the two hashes of contents of a row whose further columns have the value 1."""
    payloads = Payloads(source, zone, mapping, **options)
    more = {field.column.name: "1" for field in mapping.fields}
    row = mapping.row_of(make_row() | more)
    prepared = payloads.prepare(row)
    return prepared.profile.content, prepared.event.content


INT, DEC, MOMENT = Kind.INTEGER, Kind.DECIMAL, Kind.MOMENT


@pytest.mark.parametrize("call", [0, 1], ids=["profile", "event"])
@pytest.mark.parametrize(
    ("one", "two"),
    [
        ([], [("x", INT)]),
        ([("x", INT)], [("y", INT)]),
        ([("x", INT)], [("x", DEC)]),
        ([("x:long", Kind.TEXT)], [("x:double", Kind.TEXT)]),
        ([("x:long", Kind.TEXT)], [("x:string", Kind.TEXT)]),
        ([("x:boolean", Kind.TINYINT)], [("x:long", Kind.TINYINT)]),
        ([("x:boolean", Kind.TINYINT)], [("x:boolean", Kind.TEXT)]),
        ([("x:boolean", Kind.TINYINT)], [("x:boolean", Kind.BIT)]),
        ([("x", INT), ("y", INT)], [("x", INT)]),
        ([("xy", INT), ("z", INT)], [("x", INT), ("yz", INT)]),
    ],
)
def test_another_mapping_is_another_content(one, two, call):
    prefix = ("user.", "event.")[call]
    first, second = (
        contents_by(mapping=mapping_of(more=[(prefix + name, kind) for name, kind in columns]))
        for columns in (one, two)
    )
    assert first[call] != second[call]
    assert first[1 - call] == second[1 - call]


def test_what_leaves_the_mapping_the_same_leaves_the_content_the_same():
    plain = contents_by(mapping=mapping_of(more=[("user.x", INT)]))
    assert contents_by(mapping=mapping_of(more=[("user.x:long", INT)])) == plain
    assert contents_by(mapping=mapping_of(more=["unused", ("user.x", INT)])) == plain
    assert contents_by(mapping=mapping_of(more=["unused"])) == contents_by()


def test_another_kind_of_one_of_the_jobs_own_columns_is_another_content():
    assert contents_by(mapping=mapping_of(first_name=Kind.BINARY))[0] != contents_by()[0]
    assert contents_by(mapping=mapping_of(page=Kind.BIT))[1] != contents_by()[1]


def test_who_a_user_is_and_what_an_event_is_called_are_part_of_the_content():
    plain = contents_by()
    by_customer = contents_by(mapping=mapping_of(Identity.USER_ID))
    assert set(by_customer).isdisjoint(plain)
    named = contents_by(mapping=mapping_of(more=["event_name"]))
    assert (named[0], named[1] == plain[1]) == (plain[0], False)


@pytest.mark.parametrize("zone", [timezone(timedelta(hours=1)), ZoneInfo("Europe/Berlin")], ids=str)
@pytest.mark.parametrize(
    ("columns", "profile_changes"),
    [
        ([], False),
        ([("user.at", MOMENT)], True),
        ([("user.at:date", Kind.TEXT)], True),
        ([("user.at:string", MOMENT)], False),
        ([("user.on", Kind.DATE)], False),
        ([("event.at", MOMENT)], False),
    ],
)
def test_the_zone_is_part_of_the_content_where_a_time_is(columns, profile_changes, zone):
    mapping = mapping_of(more=columns)
    here, there = contents_by(mapping=mapping), contents_by(zone=zone, mapping=mapping)
    assert (here[0] != there[0]) is profile_changes
    # Each event has its own time.
    assert here[1] != there[1]


def test_the_source_is_part_of_the_content_of_events_alone():
    assert contents_by("a")[0] == contents_by("b")[0]
    assert contents_by("a")[1] != contents_by("b")[1]


@pytest.mark.parametrize(
    ("before", "after", "values"),
    [
        (("user.x:long", Kind.TEXT), ("user.x", INT), ("7", "7")),
        (("user.x", INT), ("user.x:long", DEC), ("7", "7.00")),
        (("user.x:boolean", Kind.TINYINT), ("user.x:boolean", Kind.BIT), (b"1", b"\x01")),
    ],
)
def test_a_column_of_another_type_that_is_sent_the_same_leaves_the_body_the_same(
    before, after, values
):
    found = []
    for column, value in zip((before, after), values, strict=True):
        payloads = Payloads("db", UTC, mapping_of(more=[column]))
        row = payloads.mapping.row_of(make_row() | {column[0]: value})
        found.append(payloads.complete(payloads.prepare(row)))
    old, new = found
    assert old.profile.content != new.profile.content
    assert (old.profile.digest, old.profile.body) == (new.profile.digest, new.profile.body)
    assert (old.event.content, old.event.digest) == (new.event.content, new.event.digest)
