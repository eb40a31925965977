"""Request bodies from rows of Query 2. Knows nothing of MySQL, HTTP or files.

Iterable fixes a field's type by the first value it ever receives, for the whole project and for
good. So a type belongs to a column, never to a value: every data field here is text, whatever the
column's type in MySQL, except ``recent_page_view``, which is always a boolean.
"""

import functools
import hashlib
import json
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from records.outcomes import PreparedRow, Row, readable

EVENT_NAME = "page_view"
EVENT_TABLE = "page_views"
PROFILE_FIELDS = ("first_name", "plan_type", "recent_page_view", "candidate")
# Chosen once. Another value would give every event another id, and so send it a second time.
EVENT_NAMESPACE = uuid.UUID("5b0c3c1e-6d5e-4c7d-9a53-1f2f3f0f8f61")

# 2100-01-01 in unix seconds. Iterable would file an event under any moment, even one that only
# stands for "never", such as 9999-12-31.
END_OF_TIME = 4_102_444_800


class RowError(ValueError):
    """Refusal of a row that cannot be sent as it is; it names the column, not the value."""


@dataclass(frozen=True, slots=True)
class Payloads:
    """Builds the request bodies of rows of one source.

    ``source`` names the database that page view ids and customer ids belong to; it is part of each
    event's identity. ``time_zone`` is the zone in which the database
    session reports ``event_time``. Where its clocks are set back, a time that comes twice is taken
    for the first of the two; where they are set forward, a time that is missing is read with the
    offset that held before.
    """

    source: str
    time_zone: tzinfo = UTC

    def user(self, row: Row) -> dict[str, Any]:
        """Return the body of users/update: ``email`` and ``dataFields``.

        Raises RowError. Source: POST /api/users/update, https://api.iterable.com/api/docs
        """
        fields = _present(row, "first_name", "plan_type")
        return {
            "email": _email(row),
            "dataFields": {**fields, "recent_page_view": True, "candidate": "yes"},
        }

    def event(self, row: Row) -> dict[str, Any]:
        """Return the body of events/track, with its ``id`` and ``createdAt`` (unix seconds).

        Raises RowError. Source: POST /api/events/track, https://api.iterable.com/api/docs
        """
        return self._event(row, _email(row))

    def _event(self, row: Row, email: str) -> dict[str, Any]:
        when = _event_time(row)
        created_at = self._unix_seconds(when)
        fields = _present(row, "page", "browser", "location")
        fields["timestamp"] = when.isoformat(sep=" ")
        return {
            "email": email,
            "eventName": EVENT_NAME,
            "id": self._event_id(row, created_at),
            "createdAt": created_at,
            "dataFields": {**fields, "candidate": "yes"},
        }

    def prepare(self, row: Row) -> PreparedRow:
        """Return both bodies of *row*, encoded, with what names them later.

        Raises RowError.
        """
        user = self.user(row)
        email = user["email"]
        event = self._event(row, email)
        user_body, event_body = encode(user), encode(event)
        key, event_id = email.lower(), event["id"]
        return PreparedRow(
            customer_id=readable(row["customer_id"]),
            email=email,
            key=key,
            event_id=event_id,
            user=user_body,
            event=event_body,
            user_name=_hash(key.encode()),
            event_name=_hash(event_id.encode()),
            user_hash=_hash(user_body),
            event_hash=_hash(event_body),
        )

    def key(self, row: Row) -> str | None:
        """Return how Iterable tells the user of *row* apart; None if the row cannot be sent."""
        try:
            return _email(row).lower()
        except RowError:
            return None

    def _event_id(self, row: Row, created_at: int) -> str:
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
        name = f"{_event_name_of(self.source)}{len(view)}:{view},{customer},{created_at}"
        return _uuid5(name)

    def _unix_seconds(self, when: datetime) -> int:
        # A datetime's fold is 0 unless told otherwise, and that is the rule of the class docstring.
        seconds = int(when.replace(tzinfo=self.time_zone).timestamp())
        if not 0 < seconds < END_OF_TIME:
            raise RowError("event_time is not within 1970 to 2099")
        return seconds


# Made once: json.dumps() looks at its nine options at every call.
_json = json.JSONEncoder().encode


def encode(body: dict[str, Any]) -> bytes:
    """Return *body* as JSON in ASCII."""
    return _json(body).encode("ascii")


def bulk_body(name: str, bodies: Sequence[bytes]) -> bytes:
    """Return the body of a bulk request from encoded bodies; *name* is "users" or "events"."""
    return b'{"%b":[%b]}' % (name.encode("ascii"), b",".join(bodies))


def _hash(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def as_text(column: str, value: object) -> str | None:
    """Return a MySQL value as text, or None for NULL.

    Raises:
        RowError: the value has no text, such as bytes that are not UTF-8.

    """
    if value is None or (type(value) is str and value.isascii()):
        return value
    convert = _TO_TEXT.get(type(value))
    if convert is None:
        raise RowError(f"{column} has a type that cannot be sent: {type(value).__name__}")
    try:
        text = convert(value)
        text.encode()
    except UnicodeError:
        raise RowError(f"{column} is not valid UTF-8 text") from None
    except ValueError as error:
        raise RowError(f"{column} {error}") from None
    return text


def _number_text(value: float | Decimal) -> str:
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    return repr(value) if isinstance(value, float) else format(value, "f")


def _time_text(value: timedelta) -> str:
    """Return a TIME as MySQL writes it, such as ``-26:03:04`` or ``00:00:01.500000``."""
    seconds, micros = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
    sign = "-" if value < timedelta() else ""
    text = f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{micros:06}" if micros else text


# By exact type: a datetime is a date and a bool is an int, yet each reads differently.
_TO_TEXT: dict[type, Callable[[Any], str]] = {
    str: str,
    int: str,
    bool: lambda value: str(int(value)),
    float: _number_text,
    Decimal: _number_text,
    bytes: bytes.decode,
    bytearray: bytearray.decode,
    date: date.isoformat,
    datetime: lambda value: value.isoformat(sep=" "),
    timedelta: _time_text,
    set: lambda value: ",".join(sorted(value)),
}


def _uuid5(name: str) -> str:
    """Return ``str(uuid.uuid5(EVENT_NAMESPACE, name))``, in a third of the time."""
    digest = hashlib.sha1(EVENT_NAMESPACE.bytes + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


@functools.cache
def _event_name_of(source: str) -> str:
    """Return what all events of *source* have in common."""
    return json.dumps([source, EVENT_TABLE, EVENT_NAME])


def _present(row: Row, *columns: str) -> dict[str, str]:
    """Return the columns that are not NULL: a null sent to Iterable deletes the field there."""
    return {
        column: text for column in columns if (text := as_text(column, row[column])) is not None
    }


def _email(row: Row) -> str:
    email = (as_text("email", row["email"]) or "").strip()
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
        return value.replace(microsecond=0, tzinfo=None)
    if isinstance(value, date):
        return datetime.combine(value, time())
    # None, which a zero date reads as too, is no date either: Iterable would take it for "now".
    raise RowError("event_time is not a date and time")
