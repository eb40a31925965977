"""Query 2 is the mapping: which of its columns goes into which call, under what name and type.

The nine columns of the job go where they always go. ``user.<field>`` goes into the profile,
``event.<field>`` into the event; ``:<type>`` behind it overrides the column's own type.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from enum import StrEnum
from json.encoder import encode_basestring_ascii as quoted
from typing import NamedTuple

from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.field_types import (
    ITERABLE_TYPES,
    KINDS_FOR,
    TYPE_OF,
    Encoder,
    FieldType,
    encoder,
)
from records.columns import JOB_COLUMNS, Column, ColumnError, Kind
from records.outcomes import USER_ID, Row

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

_TYPES = ", ".join(f":{kind}" for kind in FieldType)
# What to write in Query 2 in place of a column that cannot be sent as it is.
_ADVICE = {
    Kind.BIT: "is BIT of more than one bit: use CAST(... AS UNSIGNED)",
    Kind.BINARY: "holds bytes: use BIN_TO_UUID() in Query 2, on MariaDB HEX(); if they are text in "
    "UTF-8, end its name with :text",
    Kind.OTHER: "has a type that cannot be sent: make text of it, such as with ST_AsText()",
}


class Identity(StrEnum):
    """By what users are told apart."""

    EMAIL = "email"
    USER_ID = "user_id"


class MappedField(NamedTuple):
    """A column that goes into a field of ``dataFields``; *key* is the field's name as JSON."""

    column: Column
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

    ``identifier`` is the column that says who the user is. ``unused`` are the columns that go
    nowhere.
    """

    identity: Identity = Identity.EMAIL
    identifier: str = "email"
    has_user_id: bool = False
    has_event_name: bool = False
    fields: tuple[MappedField, ...] = ()
    unused: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def fields_of(self, call: str) -> tuple[MappedField, ...]:
        """Return the fields beyond the job's own that go into *call*."""
        return tuple(field for field in self.fields if field.call == call)

    def identified(self, rows: list[Row]) -> list[Row]:
        """Return *rows* with a ``user_id`` if that tells users apart, and without one if not.

        What names a row must not depend on a column that is not sent.
        """
        if self.by_user_id:
            if self.identifier == USER_ID:
                return rows
            return [{**row, USER_ID: row[self.identifier]} for row in rows]
        return [{**row, USER_ID: None} for row in rows] if self.has_user_id else rows

    def profile_types(self) -> dict[str, FieldType]:
        """Return the type of each profile field."""
        own = dict.fromkeys(PROFILE_FIELDS, FieldType.TEXT)
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
            kind = "object or array" if field.type is FieldType.JSON else ITERABLE_TYPES[field.type]
            yield MappingLine(field.column.name, call, field.name, kind)


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
    for column in columns:
        place, dot, _ = column.name.partition(".")
        if dot and place in CALLS:
            try:
                fields.append(_field(column, time_zone))
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
        identity,
        identifier,
        USER_ID in names,
        "event_name" in names,
        tuple(fields),
        tuple(unused),
        tuple(hint for hint in hints if hint),
    )


def _field(column: Column, time_zone: tzinfo) -> MappedField:
    """Return the field that a column named ``user.<field>`` goes into; ValueError if it cannot."""
    place, _, rest = column.name.partition(".")
    name, colon, suffix = rest.partition(":")
    call = CALLS[place]
    _check_name(name, call)
    if not colon:
        if column.kind not in TYPE_OF:
            raise ValueError(_ADVICE[column.kind])
        kind = TYPE_OF[column.kind]
    elif suffix in list(FieldType):
        kind = FieldType(suffix)
        if column.kind not in KINDS_FOR[kind]:
            raise ValueError(
                f"is {column.kind}, of which no {suffix} can be made"
                + (f": it {_ADVICE[column.kind]}" if column.kind in _ADVICE else "")
            )
    else:
        raise ValueError(f"ends with no type: after the colon may stand {_TYPES}")
    return MappedField(
        column, call, name, kind, quoted(name), encoder(kind, column.name, time_zone)
    )


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
    if field.type is not FieldType.TEXT or ":" in field.column.name:
        return ""
    name = field.column.name
    return f"{name} is sent as text; if it is JSON, which MariaDB does not tell, say {name}:json"
