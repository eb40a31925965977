"""Query 2 is the mapping: which of its columns goes into which call, under what name and type.

The nine columns of the job go where they always go. ``user.<field>`` goes into the profile,
``event.<field>`` into the event; ``:<type>`` behind it overrides the column's own type.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, tzinfo
from decimal import Decimal
from enum import StrEnum
from json.encoder import encode_basestring_ascii as quoted
from typing import NamedTuple

from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.field_types import KINDS_FOR, TYPE_OF, Encoder, FieldType, RowError, encoder
from records.columns import JOB_COLUMNS, Column, ColumnError, Kind, Row
from records.outcomes import USER_ID, RowNames

EVENT_NAME = "page_view"
PROFILE_COLUMNS = ("first_name", "plan_type")
EVENT_COLUMNS = ("page", "browser", "location")
# What the job itself puts into the two calls.
PROFILE_FIELDS = (*PROFILE_COLUMNS, "recent_page_view", "candidate")
EVENT_FIELDS = (*EVENT_COLUMNS, "timestamp", "candidate")
OPTIONAL_COLUMNS = (USER_ID, "event_name")

CALLS = {"user": UPDATE_USER, "event": TRACK_EVENT}
_OWN_FIELDS = {UPDATE_USER: PROFILE_FIELDS, TRACK_EVENT: EVENT_FIELDS}
# Fields of a profile that are Iterable's own: it would refuse them, lose data or rename the user.
# Source: https://support.iterable.com/hc/en-us/articles/217744303
RESERVED = frozenset({
    "email", "userId", "profileUpdatedAt", "signupSource", "itblInternal", "itblDS", "itblUserId",
    "emailListIds", "userListIds", "subscribedMessageTypeIds", "unsubscribedChannelIds",
    "unsubscribedMessageTypeIds", "receivedSMSDisclaimer", "devices", "phoneNumberDetails",
})  # fmt: skip

# As in database_setup.sql.
_USUAL_KINDS = {
    "customer_id": Kind.INTEGER,
    "page_view_id": Kind.INTEGER,
    "event_time": Kind.MOMENT,
}
_USUAL_COLUMNS = tuple(Column(name, _USUAL_KINDS.get(name, Kind.TEXT)) for name in JOB_COLUMNS)

_TYPES = ", ".join(f":{kind}" for kind in FieldType)
# What to write in Query 2 in place of a column that cannot be sent as it is.
_ADVICE = {
    Kind.TINYINT: "is TINYINT, which can be a number or a boolean: write AS `{0}:long` or AS "
    "`{0}:boolean`",
    Kind.BIT: "is BIT, which can be a number or a boolean: write AS `{0}:long` or AS `{0}:boolean`",
    Kind.BINARY: "holds bytes: use BIN_TO_UUID() in Query 2, on MariaDB HEX(); if they are text in "
    "UTF-8, write AS `{0}:string`",
    Kind.OTHER: "has a type that cannot be sent: make text of it, such as with ST_AsText()",
}


class Identity(StrEnum):
    """By what users are told apart."""

    EMAIL = "email"
    USER_ID = "user_id"


class MappedField(NamedTuple):
    """A column that goes into a field of ``dataFields``.

    *place* is the column's in a row, *key* the field's name as JSON.
    """

    column: Column
    place: int
    call: str
    name: str
    type: FieldType
    key: str
    encode: Encoder


class MappingLine(NamedTuple):
    """A line of the table that shows a mapping."""

    column: str
    call: str
    field: str
    type: str


@dataclass(frozen=True, slots=True)
class RowMapping:
    """Where each column of a query goes.

    ``columns`` are the query's, in their order. ``identifier`` is the one that says who the user
    is. ``unused`` are the columns that go nowhere.
    """

    columns: tuple[Column, ...] = _USUAL_COLUMNS
    identity: Identity = Identity.EMAIL
    identifier: str = "email"
    has_event_name: bool = False
    fields: tuple[MappedField, ...] = ()
    unused: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def fields_of(self, call: str) -> tuple[MappedField, ...]:
        """Return the fields beyond the job's own that go into *call*."""
        return tuple(field for field in self.fields if field.call == call)

    def place(self, name: str) -> int:
        """Return which of a row's values is that of the column *name*."""
        return next(i for i, column in enumerate(self.columns) if column.name == name)

    def shown(self, row: Row, name: str) -> int | str | None:
        """Return the value of the column *name* in *row*, for people."""
        place = self.place(name)
        return self.columns[place].shown(row[place])

    def row_of(self, values: Mapping[str, object]) -> Row:
        """Return *values*, by the names of their columns, as a row; one that is missing is NULL.

        Raises RowError for a value that is neither text nor bytes, a number, a date or a time.
        """
        return tuple(_written(values.get(column.name), column.name) for column in self.columns)

    def names_of(self, row: Row) -> RowNames:
        """Return what *row* is called for people."""
        user_id = self.shown(row, self.identifier) if self.by_user_id else None
        return RowNames(self.shown(row, "customer_id"), self.shown(row, "email"), user_id)

    def shape_of(self, call: str) -> list[tuple[str, str]]:
        """Return what goes into *call*: the name and the type of each field."""
        own = [(name, "string") for name in _OWN_FIELDS[call]]
        mapped = [(field.name, str(field.type)) for field in self.fields_of(call)]
        name = [("eventName", str(self.has_event_name))] if call == TRACK_EVENT else []
        return [(str(self.identity), self.identifier), *own, *mapped, *name]

    def profile_types(self) -> dict[str, FieldType]:
        """Return the type of each profile field."""
        own = dict.fromkeys(PROFILE_FIELDS, FieldType.STRING)
        own["recent_page_view"] = FieldType.BOOLEAN
        return own | {field.name: field.type for field in self.fields_of(UPDATE_USER)}

    @property
    def texts(self) -> frozenset[str]:
        """The columns that are sent, or made part of an event's id, as text whatever their type."""
        own = {*JOB_COLUMNS} - {"event_time", "email"} | {self.identifier}
        return frozenset(own | ({"event_name"} if self.has_event_name else set()))

    def remarks(self) -> list[str]:
        """Return what the operator should know: what is not sent, and what may be meant."""
        found = list(self.hints)
        for name in self.unused:
            word = name if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) else "field"
            found.append(
                f"the column {name} is not sent; AS `user.{word}` puts it into the profile, "
                f"AS `event.{word}` into the event"
            )
        return found

    def lines(self) -> Iterator[MappingLine]:
        """Yield the mapping line by line, in the order in which it is sent."""
        both, name = f"{UPDATE_USER}, {TRACK_EVENT}", "userId"
        yield MappingLine(self.identifier, both, name if self.by_user_id else "email", "identity")
        for column in PROFILE_COLUMNS:
            yield MappingLine(column, UPDATE_USER, column, "string")
        yield MappingLine("", UPDATE_USER, "recent_page_view", "boolean, always true")
        yield MappingLine("", UPDATE_USER, "candidate", 'string, always "yes"')
        yield from self._field_lines(UPDATE_USER)
        if self.has_event_name:
            yield MappingLine("event_name", TRACK_EVENT, "eventName", "name")
        else:
            yield MappingLine("", TRACK_EVENT, "eventName", f'name, always "{EVENT_NAME}"')
        yield MappingLine("page_view_id, customer_id", TRACK_EVENT, "id", "part of the event's id")
        yield MappingLine("event_time", TRACK_EVENT, "createdAt", "unix seconds")
        for column in EVENT_COLUMNS:
            yield MappingLine(column, TRACK_EVENT, column, "string")
        yield MappingLine("event_time", TRACK_EVENT, "timestamp", "string")
        yield MappingLine("", TRACK_EVENT, "candidate", 'string, always "yes"')
        yield from self._field_lines(TRACK_EVENT)

    @property
    def by_user_id(self) -> bool:
        """Whether users are told apart by their user id."""
        return self.identity is Identity.USER_ID

    def _field_lines(self, call: str) -> Iterator[MappingLine]:
        for field in self.fields_of(call):
            kind = "object or array" if field.type is FieldType.JSON else str(field.type)
            yield MappingLine(field.column.name, call, field.name, kind)


def _written(value: object, column: str) -> bytes | None:
    """Return *value* as MySQL would write it; raises RowError."""
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str | int | float | Decimal | date):
        raise RowError(f"{column} has a type that cannot be sent: {type(value).__name__}")
    text = str(int(value) if isinstance(value, bool) else value)
    # What is half of a character is refused when it is read as UTF-8.
    return text.encode("utf-8", "surrogatepass")


def read_mapping(
    columns: Sequence[Column], identity: Identity = Identity.EMAIL, time_zone: tzinfo = UTC
) -> RowMapping:
    """Return where *columns* go; *time_zone* is that of the times in them.

    Raises ColumnError, with all that is wrong.
    """
    names = {column.name for column in columns}
    fields: list[MappedField] = []
    unused: list[str] = []
    problems: list[str] = []
    for place, column in enumerate(columns):
        prefix, dot, _ = column.name.partition(".")
        if dot and prefix in CALLS:
            try:
                fields.append(_field(column, place, time_zone))
            except ValueError as error:
                problems.append(f"{column.name} {error}")
        elif column.name not in {*JOB_COLUMNS, *OPTIONAL_COLUMNS}:
            unused.append(column.name)
    problems += _doubled(fields)
    if problems:
        raise ColumnError(f"Query 2's columns cannot be sent: {'; '.join(problems)}")
    if identity is Identity.USER_ID:
        identifier = USER_ID if USER_ID in names else "customer_id"
    else:
        identifier = "email"
    hints = [_hint(field) for field in fields if field.column.by_bytes]
    if USER_ID in names and identity is Identity.EMAIL:
        hints.append("the column user_id is not sent: ITERABLE_IDENTITY is email")
    return RowMapping(
        tuple(columns),
        identity,
        identifier,
        "event_name" in names,
        tuple(fields),
        tuple(unused),
        tuple(hint for hint in hints if hint),
    )


def _field(column: Column, place: int, time_zone: tzinfo) -> MappedField:
    """Return the field that a column named ``user.<field>`` goes into; ValueError if it cannot."""
    prefix, _, rest = column.name.partition(".")
    name, colon, suffix = rest.partition(":")
    call = CALLS[prefix]
    _check_name(name, call)
    kind = _type_of(column, f"{prefix}.{name}", suffix if colon else None)
    return MappedField(
        column, place, call, name, kind, quoted(name), encoder(kind, column, time_zone)
    )


def _type_of(column: Column, name: str, suffix: str | None) -> FieldType:
    """Return the type that the *suffix* says, or that of the column; ValueError if there is none.

    *name* is the column's without its suffix.
    """
    advice = _ADVICE.get(column.kind, "").format(name)
    if suffix is None:
        if column.kind not in TYPE_OF:
            raise ValueError(advice)
        return TYPE_OF[column.kind]
    if suffix not in list(FieldType):
        raise ValueError(f"has the unknown type :{suffix}; use one of {_TYPES}")
    if column.kind not in KINDS_FOR[FieldType(suffix)]:
        text = f"is {column.kind} and cannot be sent as :{suffix}"
        raise ValueError(f"{text}; it {advice}" if advice else text)
    return FieldType(suffix)


def _check_name(name: str, call: str) -> None:
    """Raise ValueError for a name that Iterable would not take, or that is taken.

    Iterable creates whatever the API sends, for good; these are the rules of its own pages.
    """
    if not name.strip() or name != name.strip():
        raise ValueError("has no field's name behind the dot, or blanks around it")
    if "." in name:
        raise ValueError("has a second dot, which to Iterable means a field inside an object")
    if name.isdecimal() or name.startswith("_") or re.search(r"[,#]", name):
        raise ValueError("is only digits, begins with _ or has , or # in it: Iterable takes none")
    if not name.isprintable():
        raise ValueError("has an invisible character in its name")
    if name in RESERVED:
        raise ValueError("is a field that Iterable keeps to itself; use another name")
    if name in _OWN_FIELDS[call]:
        raise ValueError("is a field that the job sends already")


def _doubled(fields: Sequence[MappedField]) -> list[str]:
    places = [(field.call, field.name) for field in fields]
    found = dict.fromkeys(place for place in places if places.count(place) > 1)
    return [f"{name} is there twice for {call}" for call, name in found]


def _hint(field: MappedField) -> str:
    if field.type is not FieldType.STRING or ":" in field.column.name:
        return ""
    name = field.column.name
    return (
        f"{name} is sent as a string; if it is JSON, which MariaDB reports as text, write AS "
        f"`{name}:json`"
    )
