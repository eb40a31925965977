"""Maps Query 2's columns to calls, field names and types, by the names of the columns.

``user.<field>`` goes into the profile, ``event.<field>`` into the event; a suffix ``:<type>``
overrides the column's own type. ``OWN_FIELDS`` are the job's own fields: a column with the field's
name replaces the source that is given there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from enum import StrEnum
from textwrap import shorten
from typing import NamedTuple

from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.field_types import TYPES_OF, FieldType, RowError
from records.columns import Column, Kind, Row
from records.exit_statuses import DatabaseError, RunError
from records.outcomes import Delivery

EVENT_NAME = "page_view"
CALLS = {"user": UPDATE_USER, "event": TRACK_EVENT}
# What Query 2 has to return.
JOB_COLUMNS = (
    *("customer_id", "email", "first_name", "plan_type", "page_view_id", "page", "event_time"),
    *("browser", "location"),
)
# The column that users are told apart by, if it is not the email.
USER_ID = "user_id"
_KNOWN = frozenset({*JOB_COLUMNS, USER_ID, "event_name"})


class MappedField(NamedTuple):
    """A field of a call's ``dataFields``, from a column or, if that has no name, a constant."""

    call: str
    name: str
    type: FieldType
    column: Column = Column("")
    value: bool | str | None = None

    @property
    def constant(self) -> str:
        """The constant *value* as JSON; empty if the field has a column."""
        return "" if self.column.name else json.dumps(self.value)


# The job's own fields, in the order in which they are sent.
# fmt: off
OWN_FIELDS = (
    MappedField(UPDATE_USER, "first_name",       FieldType.STRING,  Column("first_name")),
    MappedField(UPDATE_USER, "plan_type",        FieldType.STRING,  Column("plan_type")),
    MappedField(UPDATE_USER, "recent_page_view", FieldType.BOOLEAN, value=True),
    MappedField(UPDATE_USER, "candidate",        FieldType.STRING,  value="yes"),
    MappedField(TRACK_EVENT, "page",             FieldType.STRING,  Column("page")),
    MappedField(TRACK_EVENT, "browser",          FieldType.STRING,  Column("browser")),
    MappedField(TRACK_EVENT, "location",         FieldType.STRING,  Column("location")),
    MappedField(TRACK_EVENT, "timestamp",        FieldType.STRING,  Column("event_time")),
    MappedField(TRACK_EVENT, "candidate",        FieldType.STRING,  value="yes"),
)
# fmt: on
_OWN = {(own.call, own.name): own for own in OWN_FIELDS}
# Columns that are fields, and so may be NULL, each with the column that may replace it.
FIELD_COLUMNS = {
    own.name: f"{prefix}.{own.name}"
    for prefix, call in CALLS.items()
    for own in OWN_FIELDS
    if own.call == call and own.column.name == own.name
}
# Iterable's own profile fields: it would refuse them, lose data or rename the user.
# Source: https://support.iterable.com/hc/en-us/articles/217744303
RESERVED = frozenset({
    "email", "userId", "profileUpdatedAt", "signupSource", "itblInternal", "itblDS", "itblUserId",
    "emailListIds", "userListIds", "subscribedMessageTypeIds", "unsubscribedChannelIds",
    "unsubscribedMessageTypeIds", "receivedSMSDisclaimer", "devices", "phoneNumberDetails",
})  # fmt: skip

# What Iterable's own pages accept: its API has no such rules, and creates fields permanently.
_FIELD_NAME = re.compile(r"(?![_\s])(?!\d+$)[^.,#]*[^.,#\s]")
_NO_FIELD_NAME = (
    "needs a field name after the dot: without . , # or an invisible character, without spaces "
    "around it, not only digits, and not beginning with _"
)

# As in database_setup.sql.
_KINDS = dict.fromkeys(("customer_id", "page_view_id"), Kind.INTEGER) | {"event_time": Kind.MOMENT}
USUAL_COLUMNS = tuple(Column(name, _KINDS.get(name, Kind.TEXT)) for name in JOB_COLUMNS)

_TYPES = ", ".join(f":{kind}" for kind in FieldType)
# Advice for columns that cannot be sent without a suffix.
_NUMBER = "which can be a number or a boolean: write AS `{0}:long` or AS `{0}:boolean`"
_ADVICE = {
    Kind.TINYINT: f"is TINYINT, {_NUMBER}",
    Kind.BIT: f"is BIT, {_NUMBER}",
    Kind.BINARY: "holds bytes: use BIN_TO_UUID() in Query 2 (on MariaDB: HEX()), or if they are "
    "UTF-8 text, write AS `{0}:string`",
    Kind.OTHER: "has a type that cannot be sent: convert it to text, for example with ST_AsText()",
}


class Identity(StrEnum):
    """How users are identified."""

    EMAIL = "email"
    USER_ID = "user_id"


class RowMapping:
    """Where each of a query's *columns* goes.

    ``identifier`` is the column that identifies the user. ``own`` are the job's own fields,
    ``fields`` the others, ``unused`` the columns that are not sent. Raises DatabaseError unless
    Query 2 returned every column it must, and RunError if some cannot be sent, with what to write.
    """

    def __init__(
        self, columns: Sequence[Column] = USUAL_COLUMNS, identity: Identity = Identity.EMAIL
    ) -> None:
        self.columns = tuple(_job_columns(columns))
        self.places = {column.name: place for place, column in enumerate(self.columns)}
        self.identity = identity
        self.by_user_id = identity is Identity.USER_ID
        self.identifier = "email"
        if self.by_user_id:
            self.identifier = USER_ID if USER_ID in self.places else "customer_id"
        self.has_event_name = "event_name" in self.places
        said = _query_fields(self.columns)
        self.own = tuple(said.get(target) or self._usual(own) for target, own in _OWN.items())
        self.fields = tuple(field for target, field in said.items() if target not in _OWN)
        sent = {field.column.name for field in (*self.own, *self.fields)}
        sent |= {*JOB_COLUMNS, self.identifier, "event_name"}
        self.unused = [name for name in self.places if name not in sent]

    def _usual(self, own: MappedField) -> MappedField:
        """Return *own*, a field that no column replaces, with its column as Query 2 returned it."""
        column = own.column.name
        return own._replace(column=self.columns[self.places[column]]) if column else own

    def fields_of(self, call: str) -> tuple[MappedField, ...]:
        """Return the fields that go into *call*, in the order in which they are sent."""
        return tuple(field for field in (*self.own, *self.fields) if field.call == call)

    def shown(self, row: Row, name: str) -> int | str | None:
        """Return the value of the column *name* in *row*, for people."""
        place = self.places[name]
        return self.columns[place].shown(row[place])

    def row_of(self, values: Mapping[str, object]) -> Row:
        """Return *values*, by the names of their columns, as a row; a missing one is NULL.

        They may be bytes as MySQL writes them, text, numbers, dates and times. Raises RowError
        for any other.
        """
        return tuple(_written(column.name, values.get(column.name)) for column in self.columns)

    def not_attempted(self, row: Row) -> Delivery:
        """Return *row* as one with nothing to send."""
        user_id = self.shown(row, self.identifier) if self.by_user_id else None
        return Delivery(self.shown(row, "customer_id"), self.shown(row, "email"), user_id)

    def shape_of(self, call: str) -> list[tuple[str, str]]:
        """Return the names of the fields in *call*, each with its type or its constant."""
        fields = [(each.name, each.constant or each.type) for each in self.fields_of(call)]
        name = [("eventName", str(self.has_event_name))] if call == TRACK_EVENT else []
        return [(self.identity, self.identifier), *fields, *name]

    def remarks(self) -> list[str]:
        """Return notes for the operator: columns that are not sent, and likely mistakes."""
        found = [
            f"{field.column.name} is sent as a string; if it is JSON, which MariaDB reports as "
            f"text, write AS `{field.column.name}:json`"
            for field in self.fields
            # MariaDB compares its JSON by bytes.
            if field.column.by_bytes and ":" not in field.column.name
        ]
        for name in self.unused:
            word = name if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) else "field"
            why = f"write AS `user.{word}` for the profile, AS `event.{word}` for the event"
            if name == USER_ID:
                why = "ITERABLE_IDENTITY is email"
            found.append(f"the column {name} is not sent; {why}")
        return found

    def lines(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield the mapping in the order of sending: column, call, field and type."""
        both, name = f"{UPDATE_USER}, {TRACK_EVENT}", "userId" if self.by_user_id else "email"
        yield self.identifier, both, name, "identifies the user"
        yield from map(_line_of, self.fields_of(UPDATE_USER))
        column = Column("event_name" if self.has_event_name else "")
        yield _line_of(MappedField(TRACK_EVENT, "eventName", FieldType.STRING, column, EVENT_NAME))
        yield "page_view_id, customer_id", TRACK_EVENT, "id", "part of the event's id"
        yield "event_time", TRACK_EVENT, "createdAt", "unix seconds"
        yield from map(_line_of, self.fields_of(TRACK_EVENT))


def _line_of(field: MappedField) -> tuple[str, str, str, str]:
    kind = "object or array" if field.type is FieldType.JSON else str(field.type)
    always = f", always {field.constant}" if field.constant else ""
    return field.column.name, field.call, field.name, kind + always


def _job_columns(columns: Sequence[Column]) -> list[Column]:
    """Return *columns* by the names that the job knows, which match whatever their case.

    Raise DatabaseError unless they are, each once, all that Query 2 has to return.
    """
    columns = [column._replace(name=_known_name(column.name)) for column in columns]
    names = [column.name for column in columns]
    # Whether fields have one name is seen when their types are known.
    if doubled := {name for name in names if "." not in name and names.count(name) > 1}:
        raise DatabaseError(f"the query returns {', '.join(sorted(doubled))} twice")
    fields = {name.partition(":")[0] for name in names}
    missing = [n for n in JOB_COLUMNS if n not in names and FIELD_COLUMNS.get(n) not in fields]
    if not missing:
        return columns
    text = (
        f"Query 2 must return {', '.join(missing)}; it returned {shorten(', '.join(names), 500)}"
        f". Write AS {missing[0]} after the column you mean"
    )
    # The others say who it is, and what happened when.
    if spare := [name for name in missing if name in FIELD_COLUMNS]:
        text += f"; if you have no {spare[0]}, write NULL AS {spare[0]}"
    raise DatabaseError(text)


def _known_name(name: str) -> str:
    """Return *name* as the job writes it; a field's own name stays, as Iterable's have a case."""
    prefix, dot, rest = name.partition(".")
    if dot and prefix.lower() in CALLS:
        field, colon, suffix = rest.partition(":")
        return f"{prefix.lower()}.{field}{colon}{suffix.lower()}"
    return name.lower() if name.lower() in _KNOWN else name


def _query_fields(columns: Sequence[Column]) -> dict[tuple[str, str], MappedField]:
    """Return, by call and name, the fields of *columns* as ``user.<field>``, ``event.<field>``."""
    fields: dict[tuple[str, str], MappedField] = {}
    problems: list[str] = []
    for column in columns:
        if not column.name.startswith(tuple(f"{prefix}." for prefix in CALLS)):
            continue
        try:
            field = _query_field(column)
        except ValueError as error:
            problems.append(f"{column.name} {error}")
        else:
            if fields.setdefault((field.call, field.name), field) is not field:
                problems.append(f"{field.name} is set twice for {field.call}")
    if problems:
        raise RunError(f"Query 2's columns cannot be sent: {'; '.join(problems)}")
    return fields


def _query_field(column: Column) -> MappedField:
    """Return the field that *column* goes into; raises ValueError if there is none."""
    prefix, _, rest = column.name.partition(".")
    name, colon, suffix = rest.partition(":")
    call = CALLS[prefix]
    if not (_FIELD_NAME.fullmatch(name) and name.isprintable()):
        raise ValueError(_NO_FIELD_NAME)
    own = _OWN.get((call, name))
    if name in RESERVED or (own and own.column.name == "event_time"):
        raise ValueError("is reserved by Iterable or by this job; use another name")
    usual = own.type if own else None
    kind = _type_of(column, f"{prefix}.{name}", suffix if colon else usual)
    return MappedField(call, name, kind, column)


def _type_of(column: Column, name: str, suffix: str | None) -> FieldType:
    """Return the type by the *suffix*, else by the column; raises ValueError if there is none.

    *name* is the column's name without the suffix.
    """
    advice = _ADVICE.get(column.kind, "").format(name)
    if suffix is None:
        if advice:
            raise ValueError(advice)
        return TYPES_OF[column.kind][0]
    if suffix not in list(FieldType):
        raise ValueError(f"has the unknown type :{suffix}; use one of {_TYPES}")
    if suffix not in TYPES_OF[column.kind]:
        text = f"is {column.kind} and cannot be sent as :{suffix}"
        raise ValueError(f"{text}; it {advice}" if advice else text)
    return FieldType(suffix)


def _written(name: str, value: object) -> bytes | None:
    """Return the *value* of the column *name* as MySQL writes it."""
    if value is None:
        return None
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, int):
        return b"%d" % value
    if not isinstance(value, str | float | Decimal | date):
        raise RowError(f"{name} is a {type(value).__name__} and cannot be sent")
    # Half a character is refused later, when it is read as UTF-8.
    return str(value).encode(errors="surrogatepass")


# Only the job's own columns, with users identified by email.
JOB_MAPPING = RowMapping()
