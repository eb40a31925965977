"""Which column goes where, and which cannot."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from iterable_api.field_types import TYPES_OF, FieldType
from iterable_api.mapping import Identity, RowMapping
from iterable_api.payloads import JOB_MAPPING, Payloads, RowError
from records.columns import JOB_COLUMNS, Column, ColumnError, Kind
from records.exit_statuses import ExitStatus
from records.outcomes import PreparedRow, RowNames
from tests.rows import bodies_of, make_prepared, make_row


def mapping_of(*columns, identity=Identity.EMAIL):
    more = [Column(each) if isinstance(each, str) else Column(*each) for each in columns]
    return RowMapping([*JOB_MAPPING.columns, *more], identity)


def payloads_of(*columns, identity=Identity.EMAIL, **options):
    return Payloads("db", UTC, mapping_of(*columns, identity=identity), **options)


def prepared_of(payloads: Payloads, **values: object) -> PreparedRow:
    """Return what is to be sent of a row, with its bodies; *values* add columns."""
    row = payloads.mapping.row_of(make_row() | values)
    return payloads.complete(payloads.prepare(row))


def test_the_nine_columns_alone_are_sent_as_ever():
    assert prepared_of(payloads_of()) == make_prepared()


@pytest.mark.parametrize("value", [{"pro"}, timedelta(days=1), ["pro"]])
def test_a_value_that_mysql_would_write_otherwise_is_refused(value):
    told = f"plan_type is a {type(value).__name__} and cannot be sent"
    with pytest.raises(RowError, match=told):
        prepared_of(payloads_of(), plan_type=value)


def test_a_truth_value_is_a_number_and_bytes_are_bytes():
    row = JOB_MAPPING.row_of(make_row() | {"plan_type": True, "page": bytearray(b"pricing")})
    assert (row[3], row[5]) == (b"1", b"pricing")


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
    prepared, plain = prepared_of(payloads, **row), make_prepared()
    assert prepared.profile.body == (
        plain.profile.body.removesuffix(b"}}")
        + b', "spent": 12.0, "tags": ["a"], "Gr\\u00f6\\u00dfe": "XL"}}'
    )
    assert prepared.event.body == plain.event.body.removesuffix(b"}}") + b', "count": 3}}'
    assert prepared.event_id == plain.event_id


def test_a_value_that_does_not_fit_refuses_its_row():
    payloads = payloads_of("user.vip:boolean")
    with pytest.raises(RowError, match=r"^user\.vip:boolean is neither 0 nor 1$"):
        prepared_of(payloads, **{"user.vip:boolean": "2"})


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        (Kind.TEXT, "string"),
        (Kind.INTEGER, "long"),
        (Kind.DECIMAL, "double"),
        (Kind.DATE, "date"),
        (Kind.MOMENT, "date"),
        (Kind.TIME, "string"),
        (Kind.JSON, "json"),
    ],
)
def test_the_columns_type_decides_and_a_suffix_overrides_it(kind, sent):
    (field,) = mapping_of(("user.x", kind)).fields
    assert (field.name, field.type) == ("x", sent)
    (field,) = mapping_of(("event.x:string", kind)).fields
    assert (field.name, field.type, field.call) == ("x", "string", "events/track")


SENT_AS = {
    Kind.TEXT: "string long double boolean date json",
    Kind.NULL: "string long double boolean date json",
    Kind.INTEGER: "string long double boolean",
    Kind.TINYINT: "string long double boolean",
    Kind.DECIMAL: "string long double boolean",
    Kind.DATE: "string date",
    Kind.MOMENT: "string date",
    Kind.TIME: "string",
    Kind.JSON: "string json",
    Kind.BIT: "long boolean",
    Kind.BINARY: "string",
    Kind.OTHER: "",
}


@pytest.mark.parametrize("prefix", ["user", "event"])
@pytest.mark.parametrize("suffix", FieldType)
@pytest.mark.parametrize("kind", Kind)
def test_each_suffix_is_taken_or_refused_by_the_kind_of_the_column(kind, suffix, prefix):
    name = f"{prefix}.x:{suffix}"
    assert set(TYPES_OF[kind]) == set(SENT_AS[kind].split())
    if suffix in SENT_AS[kind].split():
        (field,) = mapping_of((name, kind)).fields
        assert (field.name, field.type) == ("x", suffix)
    else:
        with pytest.raises(ColumnError) as caught:
            mapping_of((name, kind))
        assert f"{name} is {kind} and cannot be sent as :{suffix}" in str(caught.value)


@pytest.mark.parametrize("identity", Identity)
@pytest.mark.parametrize("name", ["user.vip", "event.vip"])
@pytest.mark.parametrize("kind", [Kind.TINYINT, Kind.BIT])
def test_a_number_that_may_be_a_boolean_needs_its_suffix(kind, name, identity):
    with pytest.raises(ColumnError) as caught:
        mapping_of((name, kind), identity=identity)
    assert str(caught.value) == (
        f"Query 2's columns cannot be sent: {name} is {kind}, which can be a number or a boolean: "
        f"write AS `{name}:long` or AS `{name}:boolean`"
    )
    assert caught.value.status is ExitStatus.USAGE
    # As the job's own columns they are text anyhow, and one that goes nowhere needs no type.
    columns = [
        column._replace(kind=kind) if column.name == "page" else column
        for column in JOB_MAPPING.columns
    ]
    assert RowMapping([*columns, Column("vip", kind)], identity).unused == ["vip"]


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("user.", "has no field's name behind the dot"),
        ("event. ", "has no field's name behind the dot"),
        ("user.:boolean", "has no field's name"),
        ("user.x:", "has the unknown type :; use one of :string, :long, :double, :boolean, :date"),
        ("user.x:number", "has the unknown type :number"),
        ("user.a:b:string", "has the unknown type :b:string"),
        ("user.x:STRING", "has the unknown type :STRING"),
        # The names of before the first release.
        ("user.x:text", "user.x:text has the unknown type :text"),
        ("user.x:integer", "user.x:integer has the unknown type :integer"),
        ("user.x:decimal", "user.x:decimal has the unknown type :decimal; use one of :string,"),
        (("user.x:int", Kind.TINYINT), "user.x:int has the unknown type :int"),
        ("user.address.city", "has a second dot, which to Iterable means a field inside an object"),
        ("user.email", "is a field that Iterable keeps to itself"),
        ("user.userId", "is a field that Iterable keeps to itself"),
        ("event.userId:string", "is a field that Iterable keeps to itself"),
        (("user.recent_page_view", Kind.DATE), "is date and cannot be sent as :boolean"),
        (("user.first_name", Kind.BIT), "write AS `user.first_name:long` or AS `user.first"),
        ("event.timestamp", "is a field that the job sends already"),
        ("user.2026", "is only digits"),
        ("user._x", "begins with _"),
        ("user.a,b", "has , or # in it"),
        ("user.a\u200bb", "has an invisible character in its name"),
        (("user.x", Kind.BINARY), "use BIN_TO_UUID() in Query 2, on MariaDB HEX()"),
        (("user.x", Kind.BINARY), "if they are text in UTF-8, write AS `user.x:string`"),
        (("user.x:long", Kind.BINARY), "use BIN_TO_UUID() in Query 2, on MariaDB HEX()"),
        (("user.x", Kind.OTHER), "make text of it, such as with ST_AsText()"),
        (("user.x:string", Kind.OTHER), "is other and cannot be sent as :string; it has a type"),
        (("user.x:string", Kind.BIT), "is BIT and cannot be sent as :string; it is BIT, which can"),
        (("user.x:date", Kind.INTEGER), "is integer and cannot be sent as :date"),
        (("user.x:date", Kind.TINYINT), "write AS `user.x:long` or AS `user.x:boolean`"),
        (("user.x:json", Kind.DATE), "is date and cannot be sent as :json"),
        (("user.x:long", Kind.MOMENT), "is date and time and cannot be sent as :long"),
    ],
)
def test_a_column_that_cannot_be_sent_is_told_before_anything_is(column, told):
    with pytest.raises(ColumnError) as caught:
        mapping_of(column)
    assert told in str(caught.value)
    assert caught.value.status is ExitStatus.USAGE


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(
        ColumnError, match=r"user\.a:x has .*; user\. has .*; user\.z is BIT, .*; y is there twice"
    ):
        mapping_of("user.a:x", "user.", ("user.z", Kind.BIT), "user.y", "user.y:string")


def test_a_column_takes_the_place_of_the_jobs_own_field_with_its_type():
    payloads = payloads_of(
        ("user.recent_page_view", Kind.INTEGER),
        ("user.candidate", Kind.INTEGER),
        ("event.candidate:boolean", Kind.INTEGER),
        ("user.plan_type", Kind.TINYINT),
        ("event.browser", Kind.TEXT),
    )
    row = {
        "user.recent_page_view": 0,
        "user.candidate": 7,
        "event.candidate:boolean": 1,
        "user.plan_type": 3,
        "event.browser": None,
    }
    user, event = bodies_of(payloads, make_row() | row)
    # In the order in which they are sent without.
    assert list(user["dataFields"].items()) == [
        ("first_name", "Sarah"),
        ("plan_type", "3"),
        ("recent_page_view", False),
        ("candidate", "7"),
    ]
    assert (event["dataFields"]["candidate"], "browser" in event["dataFields"]) == (True, False)
    assert payloads.mapping.fields == ()
    assert payloads.mapping.unused == ["plan_type", "browser"]
    told = payloads.mapping.remarks()[0]
    assert told == "the column plan_type is not sent; user.plan_type takes its place"
    lines = list(payloads.mapping.lines())
    assert ("user.recent_page_view", "users/update", "recent_page_view", "boolean") in lines
    assert ("user.plan_type", "users/update", "plan_type", "string") in lines
    user, event = bodies_of(payloads, make_row() | dict.fromkeys(row))
    assert user["dataFields"] == {"first_name": "Sarah"}
    assert "candidate" not in event["dataFields"]


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
    assert remark == (
        "user.tags is sent as a string; if it is JSON, which MariaDB reports as text, write AS "
        "`user.tags:json`"
    )
    assert not mapping_of(("user.tags:string", Kind.TEXT, True)).remarks()
    assert not mapping_of(("user.tags:json", Kind.TEXT, True)).remarks()


# --- User ids


def test_a_user_id_is_taken_from_its_column_or_else_from_customer_id():
    row = make_row(7) | {"user_id": "U-7"}
    by_column = payloads_of("user_id", identity=Identity.USER_ID)
    by_customer = payloads_of(identity=Identity.USER_ID)
    user, event = bodies_of(by_column, row)
    assert user["userId"] == event["userId"] == "U-7"
    user, event = bodies_of(by_customer, row)
    assert user["userId"] == event["userId"] == "7"
    prepared = prepared_of(by_column, **row)
    assert (prepared.user_id, prepared.key) == ("U-7", "userId:U-7")
    # The same event, whoever is told to have done it.
    assert prepared.event_id == make_prepared(7).event_id


def test_with_user_ids_no_email_is_sent_and_none_is_needed():
    payloads = payloads_of(identity=Identity.USER_ID)
    for email in (None, "", "no at sign", b"\xff"):
        prepared = prepared_of(payloads, email=email)
        assert b"email" not in prepared.profile.body + prepared.event.body


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
    row = payloads.mapping.row_of(make_row() | {"user_id": user_id})
    with pytest.raises(RowError, match=r"^user_id ") as caught:
        payloads.prepare(row)
    assert told in str(caught.value)


def test_user_ids_have_their_case_and_are_never_taken_for_an_email():
    payloads = payloads_of("user_id", identity=Identity.USER_ID)
    keys = {prepared_of(payloads, user_id=name).key for name in ("a@x.com", "A@x.com")}
    assert len(keys) == 2
    emails = {make_prepared(email=email).key for email in ("a@x.com", "userId:a@x.com")}
    assert not keys.intersection(emails)


@pytest.mark.parametrize(
    ("mapping", "user_id"),
    [
        (mapping_of(), None),
        (mapping_of("user_id"), None),
        (mapping_of(identity=Identity.USER_ID), 7),
        (mapping_of("user_id", identity=Identity.USER_ID), "U"),
        (mapping_of(("user_id", Kind.INTEGER), identity=Identity.USER_ID), "U"),
        (mapping_of(("user_id", Kind.BINARY), identity=Identity.USER_ID), "U"),
    ],
)
def test_rows_are_named_by_what_tells_users_apart(mapping, user_id):
    row = mapping.row_of(make_row(7) | {"user_id": "U"})
    assert mapping.names_of(row) == RowNames(7, "user7@example.com", user_id)


def test_a_user_id_that_is_not_sent_is_told():
    told = "the column user_id is not sent; ITERABLE_IDENTITY is email"
    assert mapping_of("user_id").remarks() == [told]
    assert not mapping_of("user_id", identity=Identity.USER_ID).remarks()


# --- Events


def test_an_event_is_a_page_view_unless_its_row_says_otherwise():
    payloads = payloads_of("event_name")
    sold, viewed = (make_row() | {"event_name": name} for name in ("sold", None))
    assert bodies_of(payloads, sold)[1]["eventName"] == "sold"
    assert bodies_of(payloads, viewed) == bodies_of(Payloads("db"), make_row())
    assert prepared_of(payloads, **sold).event_id != prepared_of(payloads, **viewed).event_id
    with pytest.raises(RowError, match=r"^event_name is empty$"):
        prepared_of(payloads, event_name=" ")


# --- As people see it


def test_the_table_shows_every_column_where_it_goes():
    mapping = mapping_of("user.vip:boolean", "event_name", "user_id", identity=Identity.USER_ID)
    lines = list(mapping.lines())
    assert ("user_id", "users/update, events/track", "userId", "identity") in lines
    assert ("user.vip:boolean", "users/update", "vip", "boolean") in lines
    assert ("event_name", "events/track", "eventName", "name") in lines
    shown = {part for line in lines for part in line[0].split(", ")}
    assert shown >= {*JOB_COLUMNS} - {"email"}


def test_dates_are_read_in_the_sessions_zone():
    payloads = payloads_of(("user.at", Kind.MOMENT), ("user.on", Kind.DATE))
    when = datetime(2026, 1, 13, 14, 30)  # noqa: DTZ001 - as MySQL gives it
    user, _ = bodies_of(payloads, make_row() | {"user.at": when, "user.on": date(2026, 1, 13)})
    assert user["dataFields"]["at"] == "2026-01-13 14:30:00 +00:00"
    assert user["dataFields"]["on"] == "2026-01-13"
