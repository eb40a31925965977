"""Builds request bodies from rows of Query 2. Knows nothing of MySQL, HTTP or files.

A row that Iterable holds needs no body: ``prepare()`` returns the row's keys and hashes of its
content, ``complete()`` builds the bodies. They are built as text for speed: there may be millions.
The mapping says where each column goes, and its type.
"""

import functools
import json
import marshal
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from hashlib import blake2b, sha1
from json.encoder import encode_basestring_ascii as quoted
from operator import itemgetter

from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.field_types import RowError, as_text, encoder
from iterable_api.mapping import EVENT_NAME, JOB_MAPPING, MappedField, RowMapping
from records.columns import Kind, Row
from records.outcomes import NO_EVENT, NO_EVENT_NAME, Call, Delivery

__all__ = ["JOB_MAPPING", "Payloads", "RowError"]

EVENT_TABLE = "page_views"
# Never change it: every event would get another id, and be created a second time.
EVENT_NAMESPACE = uuid.UUID("5b0c3c1e-6d5e-4c7d-9a53-1f2f3f0f8f61").bytes

# 2100-01-01 in unix seconds. Iterable would accept any time, even one that only stands for "never",
# such as 9999-12-31.
END_OF_TIME = 4_102_444_800
# Source: https://support.iterable.com/hc/en-us/articles/9216719179796
LONGEST_USER_ID = 52

# Hashes to start from.
_SHORT, _LONG = blake2b(digest_size=8), blake2b(digest_size=16)

_EPOCH, _NO_OFFSET = datetime.fromisoformat("1970-01-01"), timedelta()


class Payloads:
    """Builds the request bodies for the rows of one source.

    *source* names the database that page view ids and customer ids belong to; it is part of each
    event's identity. *time_zone* is the zone in which the database session reports ``event_time``.
    When clocks are set back, a time that occurs twice is read as the first of the two; when they
    are set forward, a skipped time is read with the old offset. *mapping* says where columns go.
    """

    def __init__(
        self, source: str, time_zone: tzinfo = UTC, mapping: RowMapping = JOB_MAPPING
    ) -> None:
        self.mapping = mapping
        self._source = source
        self._zone = time_zone
        # Looked up once: there may be a million rows.
        self._by_user_id, self._identifier = mapping.by_user_id, mapping.identifier
        columns = (self._identifier, "page_view_id", "customer_id")
        self._identity_of, self._view_of, self._customer_of = map(self._reader, columns)
        self._name_of = self._reader("event_name") if mapping.has_event_name else _no_name
        self._id_key = '"userId"' if mapping.by_user_id else '"email"'
        self._customer_place = mapping.places["customer_id"]
        self._customer = mapping.columns[self._customer_place]
        self._time_place = mapping.places["event_time"]
        self._has_time = mapping.columns[self._time_place].kind in {Kind.DATE, Kind.MOMENT}
        self._encoders = {
            call: [(quoted(each.name), self._encoder(each)) for each in mapping.fields_of(call)]
            for call in (UPDATE_USER, TRACK_EVENT)
        }
        self._event_key = itemgetter(*map(mapping.places.get, ("page_view_id", "customer_id")))
        self._user_content = self._content(UPDATE_USER, [mapping.identifier])
        names = [mapping.identifier, "page_view_id", "customer_id", "event_time"]
        names += ["event_name"] if mapping.has_event_name else []
        self._event_content = self._content(TRACK_EVENT, names)

    def _content(self, call: str, names: Sequence[str]) -> Callable[[Row], bytes]:
        """Return the function that hashes what *call* sends: the columns *names*, and fields."""
        fields = [each for each in self.mapping.fields_of(call) if not each.constant]
        # Each column once: the timestamp uses one that is already in the list.
        columns = dict.fromkeys([*names, *(field.column.name for field in fields)])
        places = [self.mapping.places[name] for name in columns]
        kinds = [str(self.mapping.columns[place].kind) for place in places]
        shape = [self._source, str(self._zone), self.mapping.shape_of(call), kinds]
        start, values = blake2b(json.dumps(shape).encode(), digest_size=8), itemgetter(*places)
        # This form has the length before each value, and tells NULL from empty. If another Python
        # writes it otherwise, each row needs a body once, and nothing is sent again.
        return lambda row: _digest(start, marshal.dumps(values(row), 2))

    def prepare(self, values: Row) -> Delivery:
        """Return the row's keys and hashes of its content, without the bodies. Raises RowError."""
        who = self._who(values)
        key = self._key(who)
        by_user_id = self._by_user_id
        user_name = _digest(_LONG, key.encode())
        event_name = self._event_name(values)
        event = Call(TRACK_EVENT, event_name, self._event_content(values), send=True)
        if event_name is NO_EVENT_NAME:
            event.settle(NO_EVENT)
        return Delivery(
            self._customer.shown(values[self._customer_place]),
            self.mapping.shown(values, "email") if by_user_id else who,
            who if by_user_id else None,
            values,
            key,
            Call(UPDATE_USER, user_name, self._user_content(values), send=True),
            event,
        )

    def complete(self, row: Delivery) -> None:
        """Give the calls of *row* their bodies, in place of its values. Raises RowError."""
        if not row.values:  # it has them already
            return
        who = self._who(row.values)
        _add_body(row.profile, self._user(row.values, who))
        if row.event.send:
            _add_body(row.event, self._event(row.values, who, row.event_id))
        row.values = ()

    def user_number(self, row: Row) -> int:
        """Return a number that all rows of one user share."""
        try:
            return hash(self._key((self._identity_of(row) or "").strip()))
        except RowError:  # a row that is not sent
            return 0

    def event_number(self, row: Row) -> int:
        """Return a number that all rows of one event share."""
        return hash(self._event_key(row))

    def _who(self, row: Row) -> str:
        """Return the email or the user id of *row*."""
        text = self._identity_of(row)
        return _user_id(text, self._identifier) if self._by_user_id else _email(text)

    def _reader(self, name: str) -> Callable[[Row], str | None]:
        """Return the function that returns the value of the column *name* as text, None for NULL.

        It raises RowError.
        """
        place = self.mapping.places[name]
        column = self.mapping.columns[place]

        def read(row: Row) -> str | None:
            value = row[place]
            return None if value is None else as_text(column, value)

        return read

    def _key(self, who: str) -> str:
        return user_id_key(who) if self._by_user_id else who.lower()

    def _user(self, row: Row, who: str) -> bytes:
        """Return the body of users/update.

        Source: POST /api/users/update, https://api.iterable.com/api/docs
        """
        fields = self._data_fields(UPDATE_USER, row)
        return f'{{{self._id_key}: {quoted(who)}, "dataFields": {fields}}}'.encode("ascii")

    def _event(self, row: Row, who: str, event_id: str | None) -> bytes:
        """Return the body of events/track, with ``createdAt`` in unix seconds, like the user's.

        Source: POST /api/events/track, https://api.iterable.com/api/docs
        """
        return (
            f'{{{self._id_key}: {quoted(who)}, "eventName": {quoted(self._kind_of_event(row))}'
            f', "id": "{event_id}", "createdAt": {self._unix_seconds(self._when(row))}, '
            f'"dataFields": {self._data_fields(TRACK_EVENT, row)}}}'
        ).encode("ascii")

    def _data_fields(self, call: str, row: Row) -> str:
        """Return the fields of *row* that are not NULL: a null would delete Iterable's field."""
        members = [
            f"{name}: {value}"
            for name, encode in self._encoders[call]
            if (value := encode(row)) is not None
        ]
        return f"{{{', '.join(members)}}}"

    def _encoder(self, field: MappedField) -> Callable[[Row], str | None]:
        """Return the function that encodes *field* of a row, NULL as None; it raises RowError."""
        if constant := field.constant:
            return lambda _row: constant
        name = field.column.name
        if name == "event_time":
            return lambda row: quoted(self._when(row).isoformat(" "))
        place, encode = self.mapping.places[name], encoder(field.type, field.column, self._zone)
        return lambda row: encode(row[place])

    def _event_name(self, row: Row) -> bytes:
        """Return the source of the event's id, which is the same for a page view in every run.

        A row whose ``page_view_id`` is NULL has none. Iterable updates an event in place when it
        gets the same id again. An emptied table numbers its rows from 1 again: because of the
        customer and the time, a later view does not get an earlier one's id.
        """
        view = self._view_of(row)
        if view is None:
            return NO_EVENT_NAME
        created_at = self._unix_seconds(self._when(row))
        first = _common_part(self._source, self._kind_of_event(row))
        # The length in front keeps the id apart from the customer, whatever text it is.
        name = f"{first}{len(view)}:{view},{self._customer_of(row)},{created_at}"
        return sha1(EVENT_NAMESPACE + name.encode(), usedforsecurity=False).digest()[:16]

    def _kind_of_event(self, row: Row) -> str:
        """Return the event's name in Iterable."""
        name = self._name_of(row)
        if name is None:
            return EVENT_NAME
        if not name.strip():
            raise RowError("event_name is empty")
        return name

    def _when(self, row: Row) -> datetime:
        """Return ``event_time`` to the whole second, without a zone."""
        value = row[self._time_place]
        try:
            if value is not None and self._has_time:
                return datetime.fromisoformat(str(value[:19], "ascii"))
        except ValueError:
            pass
        # Iterable would give an event without a time the current one.
        raise RowError("event_time is not a date and time")

    def _unix_seconds(self, when: datetime) -> int:
        # The default fold of a datetime, 0, is the rule in the class docstring.
        offset = self._zone.utcoffset(when) or _NO_OFFSET
        since = when - _EPOCH
        seconds = since.days * 86_400 + since.seconds - int(offset.total_seconds())
        if not 0 < seconds < END_OF_TIME:
            raise RowError("event_time is not between 1970 and 2099")
        return seconds


def _no_name(_row: Row) -> None:
    """Stand in for the reader of a column that is not there."""


def new_fields_rule(create: bool | None) -> bytes:
    """Return the last member of a JSON object: whether Iterable creates new fields."""
    return b"" if create is None else b', "createNewFields": %b' % (b"true" if create else b"false")


def user_id_key(user_id: str) -> str:
    """Return the key of a user id, which differs from any email in lower case."""
    return f"userId:{user_id}"


def bulk_body(name: str, bodies: Sequence[bytes]) -> bytes:
    """Return the body of a bulk request from encoded bodies; *name* is "users" or "events"."""
    return b'{"%b":[%b]}' % (name.encode("ascii"), b",".join(bodies))


def _digest(start: blake2b, data: bytes) -> bytes:
    """Return the hash of *data* behind what *start* has: copying one is quicker than making one."""
    started = start.copy()
    started.update(data)
    return started.digest()


def _add_body(call: Call, body: bytes) -> None:
    call.body, call.digest = body, _digest(_SHORT, body)


@functools.lru_cache(maxsize=1000)
def _common_part(source: str, event_name: str) -> str:
    """Return the common part of the ids of all events with one name."""
    return json.dumps([source, EVENT_TABLE, event_name])


def _email(text: str | None) -> str:
    email = (text or "").strip()
    if not email:
        raise RowError("email is empty")
    # No email has these, but a careless copy of one may. Iterable judges the rest.
    if " " in email or not email.isprintable():
        raise RowError("email contains a space or an invisible character")
    return email


def _user_id(text: str | None, column: str) -> str:
    """Return a user id if it follows Iterable's rules; it is never changed."""
    if not text:
        raise RowError(f"{column} is empty")
    if len(text) > LONGEST_USER_ID:
        raise RowError(f"{column} has more than {LONGEST_USER_ID} characters")
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise RowError(f"{column} has spaces around it, or characters that are not printable ASCII")
    return text
