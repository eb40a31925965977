"""Which column goes where, and which cannot."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from iterable_api.mapping import Identity, read_mapping
from iterable_api.payloads import Payloads, RowError
from records.columns import JOB_COLUMNS, Column, ColumnError, Kind, column_of
from records.exit_statuses import ExitStatus
from tests.rows import make_row

NINE = [Column(name) for name in JOB_COLUMNS]


def mapping_of(*columns, identity=Identity.EMAIL):
    more = [Column(each) if isinstance(each, str) else Column(*each) for each in columns]
    return read_mapping([*NINE, *more], identity)


def payloads_of(*columns, identity=Identity.EMAIL, **options):
    return Payloads("db", UTC, mapping_of(*columns, identity=identity), **options)


def test_the_nine_columns_alone_are_sent_as_ever():
    assert payloads_of().prepare(make_row()) == Payloads("db").prepare(make_row())


def test_more_columns_stand_behind_the_jobs_own_and_null_is_left_out():
    payloads = payloads_of(
        ("user.spent", Kind.DECIMAL),
        ("user.tags", Kind.JSON),
        ("user.Größe", Kind.TEXT),
        ("event.count", Kind.INTEGER),
        ("user.none", Kind.INTEGER),
        ("user.null", Kind.JSON),
    )
    row = make_row() | {
        "user.spent": Decimal(12),
        "user.tags": '["a"]',
        "user.Größe": "XL",
        "event.count": 3,
        "user.none": None,
        "user.null": "null",
    }
    prepared, plain = payloads.prepare(row), Payloads("db").prepare(make_row())
    assert prepared.user == (
        plain.user.removesuffix(b"}}")
        + b', "spent": 12.0, "tags": ["a"], "Gr\\u00f6\\u00dfe": "XL"}}'
    )
    assert prepared.event == plain.event.removesuffix(b"}}") + b', "count": 3}}'
    assert prepared.event_id == plain.event_id
    assert json.loads(prepared.user) == payloads.user(row)
    assert json.loads(prepared.event) == payloads.event(row)


def test_a_value_that_does_not_fit_refuses_its_row():
    payloads = payloads_of("user.vip:boolean")
    with pytest.raises(RowError, match=r"^user\.vip:boolean is neither 0 nor 1$"):
        payloads.prepare(make_row() | {"user.vip:boolean": "2"})


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        (Kind.TEXT, "text"),
        (Kind.INTEGER, "integer"),
        (Kind.DECIMAL, "decimal"),
        (Kind.BOOLEAN, "boolean"),
        (Kind.DATE, "date"),
        (Kind.MOMENT, "date"),
        (Kind.TIME, "text"),
        (Kind.JSON, "json"),
    ],
)
def test_the_columns_type_decides_and_a_suffix_overrides_it(kind, sent):
    (field,) = mapping_of(("user.x", kind)).fields
    assert (field.name, field.type) == ("x", sent)
    (field,) = mapping_of(("event.x:text", kind)).fields
    assert (field.name, field.type, field.call) == ("x", "text", "events/track")


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("user.", "has no field's name behind the dot"),
        ("event. ", "has no field's name behind the dot"),
        ("user.:boolean", "has no field's name"),
        ("user.x:", "ends with no type: after the colon may stand :text, :integer, :decimal"),
        ("user.x:number", "ends with no type"),
        ("user.a:b:text", "ends with no type"),
        ("user.x:TEXT", "ends with no type"),
        ("user.address.city", "has a second dot, which to Iterable means a field inside an object"),
        ("user.email", "is a field that Iterable keeps to itself"),
        ("user.userId", "is a field that Iterable keeps to itself"),
        ("event.userId:text", "is a field that Iterable keeps to itself"),
        ("user.first_name", "is a field that the job sends already"),
        ("user.candidate", "is a field that the job sends already"),
        ("event.timestamp", "is a field that the job sends already"),
        ("user.2026", "is only digits"),
        ("user._x", "begins with _"),
        ("user.a,b", "has , or # in it"),
        ("user.a\u200bb", "has an invisible character in its name"),
        (("user.x", Kind.BINARY), "use BIN_TO_UUID() in Query 2, on MariaDB HEX()"),
        (("user.x", Kind.OTHER), "make text of it, such as with ST_AsText()"),
        (("user.x:text", Kind.OTHER), "is other, of which no text can be made"),
        (("user.x", Kind.BIT), "use CAST(... AS UNSIGNED)"),
        (("user.x:date", Kind.INTEGER), "is integer, of which no date can be made"),
        (("user.x:json", Kind.DATE), "is date, of which no json can be made"),
        (("user.x:integer", Kind.MOMENT), "of which no integer can be made"),
    ],
)
def test_a_column_that_cannot_be_sent_is_told_before_anything_is(column, told):
    with pytest.raises(ColumnError) as caught:
        mapping_of(column)
    assert told in str(caught.value)
    assert caught.value.status is ExitStatus.USAGE


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ColumnError, match=r"user\.a:x ends .*; user\. has .*; y is there twice"):
        mapping_of("user.a:x", "user.", "user.y", "user.y:text")


def test_a_profile_and_an_event_may_have_fields_of_one_name():
    mapping = mapping_of("user.plan", "event.plan", "event.first_name")
    assert [field.call for field in mapping.fields] == ["users/update"] + ["events/track"] * 2


@pytest.mark.parametrize(
    ("name", "alias"),
    [("lifetime_value", "lifetime_value"), ("User.x", "field"), ("MAX(x)", "field")],
)
def test_a_column_that_goes_nowhere_is_told_with_the_alias_that_would_send_it(name, alias):
    (remark,) = mapping_of(name).remarks()
    assert remark == (
        f"the column {name} is not sent; AS `user.{alias}` puts it into the profile, "
        f"AS `event.{alias}` into the event"
    )


def test_text_that_may_be_mariadbs_json_is_told():
    (remark,) = mapping_of(("user.tags", Kind.TEXT, True)).remarks()
    assert remark.endswith("say user.tags:json")
    assert not mapping_of(("user.tags:text", Kind.TEXT, True)).remarks()


# --- User ids


def test_a_user_id_is_taken_from_its_column_or_else_from_customer_id():
    row = make_row(7) | {"user_id": "U-7"}
    by_column = payloads_of("user_id", identity=Identity.USER_ID)
    by_customer = payloads_of(identity=Identity.USER_ID)
    assert by_column.user(row)["userId"] == "U-7"
    assert by_customer.user(row)["userId"] == by_customer.event(row)["userId"] == "7"
    prepared = by_column.prepare(row)
    assert (prepared.user_id, prepared.key) == ("U-7", "userId:U-7")
    assert list(by_column.keys(["U-7"])) == [prepared.key]
    # The same event, whoever is told to have done it.
    assert prepared.event_id == Payloads("db").prepare(make_row(7)).event_id


def test_with_user_ids_no_email_is_sent_and_none_is_needed():
    payloads = payloads_of(identity=Identity.USER_ID)
    for email in (None, "", "no at sign", b"\xff"):
        prepared = payloads.prepare(make_row(email=email))
        assert b"email" not in prepared.user + prepared.event


@pytest.mark.parametrize(
    ("user_id", "told"),
    [
        (None, "is empty"),
        ("", "is empty"),
        ("x" * 53, "has more than 52 characters"),
        ("Zoë", "is not printable ASCII"),
        (" 7", "has blanks around it"),
        ("7 ", "has blanks around it"),
        ("a\tb", "is not printable ASCII"),
        (b"\xff", "is not valid UTF-8 text"),
    ],
)
def test_a_user_id_that_iterable_would_refuse_is_refused_here(user_id, told):
    payloads = payloads_of("user_id", identity=Identity.USER_ID)
    row = make_row() | {"user_id": user_id}
    with pytest.raises(RowError, match=r"^user_id ") as caught:
        payloads.prepare(row)
    assert told in str(caught.value)
    assert list(payloads.keys([user_id])) == [None]


def test_user_ids_have_their_case_and_are_never_taken_for_an_email():
    payloads = payloads_of("user_id", identity=Identity.USER_ID)
    names = ("a@x.com", "A@x.com")
    keys = set(payloads.keys(names))
    assert keys == {payloads.prepare(make_row() | {"user_id": name}).key for name in names}
    assert len(keys) == 2
    assert not keys.intersection(Payloads("db").keys(["a@x.com", "userId:a@x.com"]))


def test_rows_are_named_by_what_tells_users_apart():
    rows = [make_row(7)]
    assert list(mapping_of().identified(rows)) == rows
    (row,) = mapping_of(identity=Identity.USER_ID).identified(rows)
    assert row["user_id"] == 7
    rows = [make_row(7) | {"user_id": "U"}]
    (row,) = mapping_of("user_id", identity=Identity.USER_ID).identified(rows)
    assert row["user_id"] == "U"
    mapping = mapping_of("user_id")
    (row,) = mapping.identified(rows)
    assert row["user_id"] is None
    assert mapping.remarks() == ["the column user_id is not sent: ITERABLE_IDENTITY is email"]


# --- Events


def test_an_event_is_a_page_view_unless_its_row_says_otherwise():
    payloads = payloads_of("event_name")
    sold, viewed = (make_row() | {"event_name": name} for name in ("sold", None))
    assert payloads.event(sold)["eventName"] == "sold"
    assert payloads.event(viewed) == Payloads("db").event(make_row())
    assert payloads.prepare(sold).event_id != payloads.prepare(viewed).event_id
    with pytest.raises(RowError, match=r"^event_name is empty$"):
        payloads.prepare(make_row() | {"event_name": " "})


# --- New fields


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("create", [None, True, False])
def test_whether_new_fields_are_created_is_said_where_iterable_reads_it(create, bulk):
    payloads, plain = payloads_of(create_new_fields=create, bulk=bulk), Payloads("db")
    said = {} if create is None else {"createNewFields": create}
    prepared, expected = payloads.prepare(make_row()), plain.prepare(make_row())
    # Beside the profiles of a batch, not in each; in every event.
    assert json.loads(prepared.user) == plain.user(make_row()) | ({} if bulk else said)
    assert json.loads(prepared.event) == plain.event(make_row()) | said
    assert json.loads(prepared.user) == payloads.user(make_row())
    # What Iterable has of a row does not depend on it, so no row is sent again because of it.
    assert (prepared.user_hash, prepared.event_hash) == (expected.user_hash, expected.event_hash)


# --- As the protocol tells it


@pytest.mark.parametrize(
    ("number", "width", "flags", "kind"),
    [
        (1, 1, 0, Kind.BOOLEAN),
        (1, 1, 32, Kind.INTEGER),
        (1, 4, 0, Kind.INTEGER),
        (16, 1, 32, Kind.BOOLEAN),
        (16, 8, 32, Kind.BIT),
    ],
)
def test_a_truth_value_is_told_by_its_width(number, width, flags, kind):
    assert column_of("x", number, width, flags, 63).kind is kind


def test_the_table_shows_every_column_where_it_goes():
    mapping = mapping_of("user.vip:boolean", "event_name", "user_id", identity=Identity.USER_ID)
    lines = list(mapping.lines())
    assert ("user_id", "users/update, events/track", "userId", "identity") in lines
    assert ("user.vip:boolean", "users/update", "vip", "boolean") in lines
    assert ("event_name", "events/track", "eventName", "name") in lines
    shown = {part for line in lines for part in line.column.split(", ")}
    assert shown >= {*JOB_COLUMNS} - {"email"}


def test_dates_are_read_in_the_sessions_zone():
    payloads = payloads_of(("user.at", Kind.MOMENT), ("user.on", Kind.DATE))
    when = datetime(2026, 1, 13, 14, 30)  # noqa: DTZ001 - as MySQL gives it
    user = payloads.user(make_row() | {"user.at": when, "user.on": date(2026, 1, 13)})
    assert user["dataFields"]["at"] == "2026-01-13 14:30:00 +00:00"
    assert user["dataFields"]["on"] == "2026-01-13"
