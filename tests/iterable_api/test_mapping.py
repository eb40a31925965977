"""Which column goes where, and which cannot."""

from datetime import UTC, timedelta
from decimal import Decimal

import pytest

from iterable_api.field_types import FieldType
from iterable_api.mapping import JOB_COLUMNS, Identity, RowMapping
from iterable_api.payloads import JOB_MAPPING, Payloads, RowError
from records.columns import Column, Kind
from records.exit_statuses import DatabaseError, RunError
from records.outcomes import Delivery
from tests.rows import bodies_of, completed, make_prepared, make_row

BY_USER_ID = Identity.USER_ID


def mapping_of(*columns, identity=Identity.EMAIL):
    more = [Column(each) if isinstance(each, str) else Column(*each) for each in columns]
    return RowMapping([*JOB_MAPPING.columns, *more], identity)


def payloads_of(*columns, identity=Identity.EMAIL):
    return Payloads("db", UTC, mapping_of(*columns, identity=identity))


def prepared_of(payloads: Payloads, **values: object) -> Delivery:
    """Return what is to be sent of a row, with its bodies; *values* add columns."""
    return completed(payloads, payloads.mapping.row_of(make_row() | values))


@pytest.mark.parametrize("value", [{"pro"}, timedelta(days=1), ["pro"]])
def test_a_value_that_mysql_would_write_otherwise_is_refused(value):
    told = f"plan_type is a {type(value).__name__} and cannot be sent"
    with pytest.raises(RowError, match=told):
        prepared_of(payloads_of(), plan_type=value)


def test_more_columns_stand_behind_the_jobs_own_and_null_is_left_out():
    row = {
        "user.spent": (Kind.DECIMAL, Decimal(12)),
        "user.tags": (Kind.JSON, '["a"]'),
        "user.Größe": (Kind.TEXT, "XL"),
        "event.2 count": (Kind.INTEGER, 3),
        "user.none": (Kind.INTEGER, None),
        "user.null": (Kind.JSON, "null"),
    }
    payloads = payloads_of(*((name, kind) for name, (kind, _) in row.items()))
    prepared = prepared_of(payloads, **{name: value for name, (_, value) in row.items()})
    plain = make_prepared()
    more = b', "spent": 12.0, "tags": ["a"], "Gr\\u00f6\\u00dfe": "XL"}}'
    assert prepared.profile.body == plain.profile.body.removesuffix(b"}}") + more
    assert prepared.event.body == plain.event.body.removesuffix(b"}}") + b', "2 count": 3}}'
    assert prepared.event_id == plain.event_id


NUMBERS = "string long double boolean"
# The types that each kind of column may be sent as; the first one without a suffix, unless ``-``.
SENT_AS = {
    Kind.TEXT: "string long double boolean date json",
    Kind.NULL: "string long double boolean date json",
    Kind.INTEGER: "long string double boolean",
    Kind.TINYINT: f"- {NUMBERS}",
    Kind.DECIMAL: "double string long boolean",
    **dict.fromkeys((Kind.DATE, Kind.MOMENT), "date string"),
    Kind.TIME: "string",
    Kind.JSON: "json string",
    Kind.BIT: "- long boolean",
    Kind.BINARY: "- string",
    Kind.OTHER: "-",
}


@pytest.mark.parametrize("kind", Kind)
def test_the_columns_type_decides_and_a_suffix_overrides_it(kind):
    usual, *others = SENT_AS[kind].split()
    for suffix in ("", *FieldType):
        name = f"event.x:{suffix}" if suffix else "event.x"
        if (suffix or usual) in {usual, *others} - {"-"}:
            (field,) = mapping_of((name, kind)).fields
            assert (field.name, field.type, field.call) == ("x", suffix or usual, "events/track")
        else:
            told = f"is {kind} and cannot be sent as :{suffix}" if suffix else ""
            with pytest.raises(RunError, match=f"{name} .*{told}"):
                mapping_of((name, kind))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("user.x:", "has the unknown type :; use one of :string, :long, :double, :boolean, :date"),
        ("user.a:b:string", "has the unknown type :b:string"),
        ("user.email", "is reserved by Iterable or by this job; use another name"),
        ("event.userId:string", "is reserved by Iterable"),
        (("user.recent_page_view", Kind.DATE), "is date and cannot be sent as :boolean"),
        (("user.first_name", Kind.BIT), "write AS `user.first_name:long` or AS `user.first"),
        ("event.timestamp", "is reserved by Iterable or by this job"),
        (("user.x", Kind.BINARY), "use BIN_TO_UUID() in Query 2 (on MariaDB: HEX())"),
        (("user.x:long", Kind.BINARY), "if they are UTF-8 text, write AS `user.x:string`"),
        (("user.x", Kind.OTHER), "convert it to text, for example with ST_AsText()"),
        (("user.x:string", Kind.BIT), "is BIT and cannot be sent as :string; it is BIT, which can"),
    ],
)
def test_a_column_that_cannot_be_sent_is_told_before_anything_is(column, told):
    with pytest.raises(RunError) as caught:
        mapping_of(column)
    assert told in str(caught.value)


def test_all_that_is_wrong_is_told_at_once():
    names = ["user.", "event. ", "user.:boolean", "user.x ", "user. x", "user.a.b", "user.2026"]
    names += ["user._x", "user.a,b", "user.a#", "user.a\u200bb"]
    with pytest.raises(RunError) as caught:
        mapping_of(*names, ("user.z", Kind.BIT), "user.y", "user.y:string")
    *invalid, bit, double = str(caught.value).split(": ", 1)[1].split("; ")
    assert [text.partition(" needs a field name after the dot: ")[0] for text in invalid] == names
    assert bit.startswith("user.z is BIT, ")
    assert double == "y is set twice for users/update"


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
    mapping = payloads.mapping
    assert (mapping.fields, mapping.unused) == ((), [])
    line = ("user.recent_page_view", "users/update", "recent_page_view", "boolean")
    assert line in list(mapping.lines())
    user, event = bodies_of(payloads, make_row() | dict.fromkeys(row))
    assert user["dataFields"] == {"first_name": "Sarah"}
    assert "candidate" not in event["dataFields"]


def test_a_profile_and_an_event_may_have_fields_of_one_name():
    mapping = mapping_of("user.plan", "event.plan", "event.first_name")
    assert [field.call for field in mapping.fields] == ["users/update"] + ["events/track"] * 2


def test_columns_that_go_nowhere_and_what_may_be_mariadbs_json_are_told():
    json = [("user.tags", Kind.TEXT, True), ("user.more:string", Kind.TEXT, True)]
    remarks = mapping_of("lifetime_value", "Users.x", *json).remarks()
    assert remarks == [
        "user.tags is sent as a string; if it is JSON, which MariaDB reports as text, write AS "
        "`user.tags:json`",
        *(
            f"the column {name} is not sent; write AS `user.{alias}` for the profile, "
            f"AS `event.{alias}` for the event"
            for name, alias in (("lifetime_value", "lifetime_value"), ("Users.x", "field"))
        ),
    ]


# --- User ids


def test_a_user_id_is_taken_from_its_column_or_else_from_customer_id():
    row = make_row(7, email=b"\xff") | {"user_id": "U-7"}  # no email is needed
    by_column = payloads_of("user_id", identity=BY_USER_ID)
    assert prepared_of(by_column, user_id="x" * 52).user_id == "x" * 52
    for payloads, user_id in (by_column, "U-7"), (payloads_of(identity=BY_USER_ID), "7"):
        user, event = bodies_of(payloads, row)
        assert user["userId"] == event["userId"] == user_id
        assert "email" not in user | event
    prepared = prepared_of(by_column, **row)
    assert (prepared.user_id, prepared.key) == ("U-7", "userId:U-7")
    # The same event, whoever is told to have done it.
    assert prepared.event_id == make_prepared(7).event_id
    # User ids have their case, and are never taken for an email.
    keys = [prepared_of(by_column, user_id=name).key for name in ("a@x.com", "A@x.com")]
    assert keys == ["userId:a@x.com", "userId:A@x.com"]


@pytest.mark.parametrize(
    ("user_id", "told"),
    [
        (None, "is empty"),
        ("", "is empty"),
        ("x" * 53, "has more than 52 characters"),
        ("Zoë", "not printable ASCII"),
        (" 7", "has spaces around it"),
        ("a\tb", "not printable ASCII"),
        (b"\xff", "is not valid UTF-8 text"),
    ],
)
def test_a_user_id_that_iterable_would_refuse_is_refused_here(user_id, told):
    payloads = payloads_of("user_id", identity=BY_USER_ID)
    with pytest.raises(RowError, match=r"^user_id ") as caught:
        prepared_of(payloads, user_id=user_id)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "user_id"),
    [
        (mapping_of("user_id"), None),
        (mapping_of(identity=BY_USER_ID), 7),
        (mapping_of(("user_id", Kind.BINARY), identity=BY_USER_ID), "U"),
    ],
)
def test_rows_are_named_by_what_tells_users_apart(mapping, user_id):
    row = mapping.row_of(make_row(7) | {"user_id": "U"})
    assert mapping.not_attempted(row) == Delivery(7, "user7@example.com", user_id)
    told = ["the column user_id is not sent; ITERABLE_IDENTITY is email"]
    assert mapping.remarks() == ([] if mapping.by_user_id else told)


def test_an_event_is_a_page_view_unless_its_row_says_otherwise():
    payloads = payloads_of("event_name")
    sold, viewed = (make_row() | {"event_name": name} for name in ("sold", None))
    assert bodies_of(payloads, sold)[1]["eventName"] == "sold"
    assert bodies_of(payloads, viewed) == bodies_of(Payloads("db"), make_row())
    assert prepared_of(payloads, **sold).event_id != prepared_of(payloads, **viewed).event_id
    with pytest.raises(RowError, match=r"^event_name is empty$"):
        prepared_of(payloads, event_name=" ")


def test_the_table_shows_every_column_where_it_goes():
    mapping = mapping_of("user.vip:boolean", "event_name", "user_id", identity=BY_USER_ID)
    lines = list(mapping.lines())
    assert ("user_id", "users/update, events/track", "userId", "identifies the user") in lines
    assert ("user.vip:boolean", "users/update", "vip", "boolean") in lines
    assert ("event_name", "events/track", "eventName", "string") in lines
    assert ("", "users/update", "candidate", 'string, always "yes"') in lines
    shown = {part for line in lines for part in line[0].split(", ")}
    assert shown >= {*JOB_COLUMNS} - {"email"}
    always = ("", "events/track", "eventName", 'string, always "page_view"')
    assert always in list(mapping_of().lines())


# --- What Query 2 must return


def without(*names, more=()):
    return RowMapping([*map(Column, [*(n for n in JOB_COLUMNS if n not in names), *more])])


@pytest.mark.parametrize(
    ("left_out", "more", "told"),
    [
        (
            ["email", "page_view_id"],
            [],
            r"^Query 2 must return email, page_view_id; it returned customer_id, .*, location\. "
            "Write AS email after the column you mean$",
        ),
        (["browser"], [], r"no browser, write NULL AS browser$"),
        (JOB_COLUMNS, [f"column_{n}" for n in range(99)], r"returned column_0, .* \[\.\.\.\]\. W"),
        ([], ["page"], r"^the query returns page twice$"),
        ([], ["EMAIL"], r"^the query returns email twice$"),
        # Only what is called exactly like a field stands for it.
        (["plan_type"], ["user.Plan_Type"], r"^Query 2 must return plan_type; it returned "),
    ],
)
def test_what_query_2_must_return_is_told(left_out, more, told):
    with pytest.raises(DatabaseError, match=told):
        without(*left_out, more=more)


def test_names_match_whatever_their_case_and_a_fields_own_name_stays_as_written():
    written = [*map(str.upper, JOB_COLUMNS), "Event_Name", "USER.Größe:LONG", "Event.Page", "Other"]
    names = [column.name for column in RowMapping([*map(Column, written)]).columns]
    assert names == [*JOB_COLUMNS, "event_name", "user.Größe:long", "event.Page", "Other"]


@pytest.mark.parametrize("suffix", ["", ":string"])
def test_a_field_may_stand_for_the_column_that_is_called_like_it(suffix):
    fields = ("user.first_name", "User.plan_type", "event.page", "event.browser", "event.location")
    names = [name.partition(".")[2] for name in fields]
    without(*names, more=[name + suffix for name in fields])
