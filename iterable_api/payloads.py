"""Request bodies from rows of Query 2. Knows nothing of MySQL, HTTP or files.

A body is put together as text, because there may be a million of them. Which columns go where, and
of what type their fields are, says the mapping.
"""

import functools
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from hashlib import blake2b, sha1
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.mapping import EVENT_COLUMNS, EVENT_NAME, PROFILE_COLUMNS, MappedField, RowMapping
from iterable_api.text_values import RowError, as_text
from records.outcomes import PreparedRow, Row, readable

__all__ = ["EVENT_NAMESPACE", "EVENT_TABLE", "Payloads", "RowError", "bulk_body", "encode"]

EVENT_TABLE = "page_views"
# Chosen once. Another value would give every event another id, and so send it a second time.
EVENT_NAMESPACE = uuid.UUID("5b0c3c1e-6d5e-4c7d-9a53-1f2f3f0f8f61")
# Copied for each row, which is quicker than making them anew.
_NEW_EVENT_ID = sha1(EVENT_NAMESPACE.bytes, usedforsecurity=False)
_NEW_HASH = blake2b(digest_size=16)
# Of the digit that says the variant only the lower two bits are the hash's.
_VARIANTS = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}

# 2100-01-01 in unix seconds. Iterable would file an event under any moment, even one that only
# stands for "never", such as 9999-12-31.
END_OF_TIME = 4_102_444_800
# Source: https://support.iterable.com/hc/en-us/articles/9216719179796
LONGEST_USER_ID = 52

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - as MySQL gives times

# The nine columns alone, with users told apart by email.
JOB_MAPPING = RowMapping()

_PROFILE_KEYS = [(column, f"{quoted(column)}: ") for column in PROFILE_COLUMNS]
_EVENT_KEYS = [(column, f"{quoted(column)}: ") for column in EVENT_COLUMNS]


@dataclass(frozen=True, slots=True)
class Payloads:
    """Builds the request bodies of rows of one source.

    ``source`` names the database that page view ids and customer ids belong to; it is part of each
    event's identity. ``time_zone`` is the zone in which the database
    session reports ``event_time``. Where its clocks are set back, a time that comes twice is taken
    for the first of the two; where they are set forward, a time that is missing is read with the
    offset that held before. ``mapping`` says where the columns of the rows go.
    ``create_new_fields`` overrides the project's own rule for fields that it does not have; in
    *bulk* the rule for profiles stands beside their bodies, not in them.
    """

    source: str
    time_zone: tzinfo = UTC
    mapping: RowMapping = JOB_MAPPING
    create_new_fields: bool | None = None
    bulk: bool = False
    _by_user_id: bool = field(init=False)
    _name_of_who: str = field(init=False)
    # What the zone is ahead of UTC; None if that depends on the date.
    _offset_s: int | None = field(init=False)
    _user_fields: tuple[MappedField, ...] = field(init=False)
    _event_fields: tuple[MappedField, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Look up once what every row needs: there may be a million of them."""
        set_field = functools.partial(object.__setattr__, self)
        set_field("_by_user_id", self.mapping.by_user_id)
        set_field("_name_of_who", '"userId"' if self.mapping.by_user_id else '"email"')
        fixed = self.time_zone.utcoffset(None) if isinstance(self.time_zone, timezone) else None
        set_field("_offset_s", None if fixed is None else fixed // timedelta(seconds=1))
        set_field("_user_fields", self.mapping.fields_of(UPDATE_USER))
        set_field("_event_fields", self.mapping.fields_of(TRACK_EVENT))

    def user(self, row: Row) -> dict[str, Any]:
        """Return the body of users/update: ``email`` and ``dataFields``.

        With user ids there is ``userId`` in place of ``email``.

        Raises RowError. Source: POST /api/users/update, https://api.iterable.com/api/docs
        """
        body: dict[str, Any] = json.loads(self._whole_user(self._user(row, self._who(row))))
        return body

    def event(self, row: Row) -> dict[str, Any]:
        """Return the body of events/track, with its ``id`` and ``createdAt`` (unix seconds).

        Raises RowError. Source: POST /api/events/track, https://api.iterable.com/api/docs
        """
        _, event = self._event(row, self._who(row))
        body: dict[str, Any] = json.loads(self._whole_event(event))
        return body

    def prepare(self, row: Row) -> PreparedRow:
        """Return both bodies of *row*, encoded, with what names them later.

        Raises RowError.
        """
        who = self._who(row)
        user = self._user(row, who)
        event_id, event = self._event(row, who)
        key = self._key(who)
        user_hash, event_hash = _hash(user), _hash(event)
        if self.create_new_fields is not None:
            # Not in the hashes: what Iterable has of a row does not depend on it.
            user, event = self._whole_user(user), self._whole_event(event)
        return PreparedRow(
            readable(row["customer_id"]),
            readable(row["email"]) if self._by_user_id else who,
            key,
            event_id,
            user,
            event,
            _hash(key.encode()),
            _hash(event_id.encode()),
            user_hash,
            event_hash,
            None,
            None,
            who if self._by_user_id else None,
        )

    def keys(self, values: Iterable[object]) -> Iterator[str | None]:
        """Yield how Iterable tells users apart by *values* of the column that identifies them.

        That is None where the row cannot be sent.
        """
        for value in values:
            try:
                yield self._key(self._check(value))
            except RowError:
                yield None

    def _who(self, row: Row) -> str:
        """Return the email or the user id of *row*."""
        return self._check(row[self.mapping.identifier])

    def _check(self, value: object) -> str:
        return _user_id(value, self.mapping.identifier) if self._by_user_id else _email(value)

    def _key(self, who: str) -> str:
        return user_id_key(who) if self._by_user_id else who.lower()

    def _user(self, row: Row, who: str) -> bytes:
        """Return the body of users/update without what is said of new fields."""
        text = f'{{{self._name_of_who}: {quoted(who)}, "dataFields": {{'
        for column, key in _PROFILE_KEYS:
            if (value := as_text(column, row[column])) is not None:
                text += f"{key}{quoted(value)}, "
        text += '"recent_page_view": true, "candidate": "yes"'
        if self._user_fields:
            text += _more(row, self._user_fields)
        return f"{text}}}}}".encode("ascii")

    def _event(self, row: Row, who: str) -> tuple[str, bytes]:
        """Return the event's id, and the body of events/track like that of the user."""
        when = _event_time(row)
        created_at = self._unix_seconds(when)
        event_name = _event_name(row) if self.mapping.has_event_name else EVENT_NAME
        fields = ""
        for column, key in _EVENT_KEYS:
            if (value := as_text(column, row[column])) is not None:
                fields += f"{key}{quoted(value)}, "
        fields += f'"timestamp": "{when.isoformat(" ")}", "candidate": "yes"'
        if self._event_fields:
            fields += _more(row, self._event_fields)
        event_id = self._event_id(row, created_at, event_name)
        text = (
            f'{{{self._name_of_who}: {quoted(who)}, "eventName": {quoted(event_name)}, '
            f'"id": "{event_id}", "createdAt": {created_at}, "dataFields": {{{fields}}}}}'
        )
        return event_id, text.encode("ascii")

    def _whole_user(self, body: bytes) -> bytes:
        return body if self.bulk else body[:-1] + new_fields_rule(self.create_new_fields) + b"}"

    def _whole_event(self, body: bytes) -> bytes:
        return body[:-1] + new_fields_rule(self.create_new_fields) + b"}"

    def _event_id(self, row: Row, created_at: int, event_name: str) -> str:
        """Return the same id for the same page view at every run, and for no other.

        Iterable updates an event in place when its id is sent again, so a repeated call makes no
        second event. The ids of a table that was emptied start again; with the customer and the
        time no later view gets an earlier one's id. A UUID keeps to the letters, digits and hyphens
        that Iterable allows.
        """
        view = as_text("page_view_id", row["page_view_id"])
        if view is None:
            raise RowError("page_view_id is NULL")
        customer = as_text("customer_id", row["customer_id"])
        # With its length in front no text can pass for another one and a customer.
        first = _first_part(self.source, event_name)
        return _uuid5(f"{first}{len(view)}:{view},{customer},{created_at}")

    def _unix_seconds(self, when: datetime) -> int:
        if self._offset_s is None:
            # A datetime's fold is 0 unless told otherwise: that is the rule of the class docstring.
            seconds = int(when.replace(tzinfo=self.time_zone).timestamp())
        else:
            since = when - _EPOCH
            seconds = since.days * 86_400 + since.seconds - self._offset_s
        if not 0 < seconds < END_OF_TIME:
            raise RowError("event_time is not within 1970 to 2099")
        return seconds


# Made once: json.dumps() looks at its nine options at every call.
_json = json.JSONEncoder().encode


def encode(body: dict[str, Any]) -> bytes:
    """Return *body* as JSON in ASCII."""
    return _json(body).encode("ascii")


def new_fields_rule(create: bool | None) -> bytes:
    """Return the last member of an object that says whether new fields are created."""
    return b"" if create is None else b', "createNewFields": %b' % (b"true" if create else b"false")


def user_id_key(user_id: str) -> str:
    """Return the key of a user id, which no email in lower case can be."""
    return f"userId:{user_id}"


def bulk_body(name: str, bodies: Sequence[bytes], create_new_fields: bool | None = None) -> bytes:
    """Return the body of a bulk request from encoded bodies; *name* is "users" or "events"."""
    rule = new_fields_rule(create_new_fields)
    return b'{"%b":[%b]%b}' % (name.encode("ascii"), b",".join(bodies), rule)


def _hash(body: bytes) -> bytes:
    digest = _NEW_HASH.copy()
    digest.update(body)
    return digest.digest()


def _uuid5(name: str) -> str:
    """Return ``str(uuid.uuid5(EVENT_NAMESPACE, name))``, in a third of the time."""
    digest = _NEW_EVENT_ID.copy()
    digest.update(name.encode())
    text = digest.hexdigest()
    variant = _VARIANTS[text[16]]
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


@functools.lru_cache(maxsize=1000)
def _first_part(source: str, event_name: str) -> str:
    """Return what the ids of all events of one name have in common."""
    return json.dumps([source, EVENT_TABLE, event_name])


def _more(row: Row, fields: Sequence[MappedField]) -> str:
    """Return the fields that are not NULL: a null sent to Iterable deletes the field there."""
    text = ""
    for each in fields:
        value = row[each.column.name]
        if value is not None and (json_text := each.encode(value)) is not None:
            text += f", {each.key}: {json_text}"
    return text


def _email(value: object) -> str:
    email = (as_text("email", value) or "").strip()
    if not email:
        raise RowError("email is empty")
    # No address has these, but a careless copy of one does. All else is for Iterable to judge.
    if " " in email or not email.isprintable():
        raise RowError("email has a blank or an invisible character inside")
    return email


def _event_time(row: Row) -> datetime:
    """Return ``event_time`` to the whole second, without a zone."""
    value = row["event_time"]
    if isinstance(value, datetime):
        is_whole = not value.microsecond and value.tzinfo is None
        return value if is_whole else value.replace(microsecond=0, tzinfo=None)
    if isinstance(value, date):
        return datetime.combine(value, time())
    # None, which a zero date reads as too, is no date either: Iterable would take it for "now".
    raise RowError("event_time is not a date and time")


def _user_id(value: object, column: str) -> str:
    """Return a user id within Iterable's rules; it is a name, so nothing of it is mended."""
    user_id = as_text(column, value)
    if not user_id:
        raise RowError(f"{column} is empty")
    if len(user_id) > LONGEST_USER_ID:
        raise RowError(f"{column} has more than {LONGEST_USER_ID} characters")
    if not (user_id.isascii() and user_id.isprintable()) or user_id != user_id.strip():
        raise RowError(f"{column} has blanks around it, or what is not printable ASCII")
    return user_id


def _event_name(row: Row) -> str:
    name = as_text("event_name", row["event_name"])
    if name is None:
        return EVENT_NAME
    if not name.strip():
        raise RowError("event_name is empty")
    return name
