"""The endpoints that only read: one user, and the latest events of one user.

Documented by Iterable: their paths and parameters; the outer shape of the answers; 30 events, or
``limit``, which is 200 at most. Seen in other clients' code and tests: no ``user`` in the answer
for an unknown one; the names inside a user and an event; dataFields that are an object of their
own; a 400 InvalidEmailAddressError for a malformed email. Assumed: the newest event first, by its
own time; that ``_id`` is the id that was sent; the layout of ``createdAt``, which is that of dates;
the answers to other bad parameters; that a userID-based project refuses to look for an email.

What Iterable adds to a profile of its own (``profileUpdatedAt``, ``itblInternal``, ...) and an
event's campaign and template are left out.
"""

import heapq
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from sandbox.bodies import (
    Answer,
    Fields,
    RefusedError,
    check_email,
    check_user_id,
    envelope,
    reply,
)
from sandbox.endpoints import EVENTS_BY_EMAIL, EVENTS_BY_USER_ID, LOOKUPS
from sandbox.events import Event, Events
from sandbox.profiles import Profiles, User
from sandbox.variants import Variants

Parameters = Mapping[str, str]

_USUAL_LIMIT: Final = 30
_MOST_EVENTS: Final = 200


class Reading:
    """Answers to LOOKUPS. They show what is older than the lag, and look through all events."""

    def __init__(self, variants: Variants, profiles: Profiles, events: Events) -> None:
        self._variants, self._profiles, self._events = variants, profiles, events

    def answer(self, endpoint: str, parameters: Parameters) -> Answer:
        """Answer one of LOOKUPS; raise for parameters that cannot be."""
        if endpoint not in LOOKUPS:
            raise KeyError(endpoint)
        row = self._identifiers(parameters, "userId" if "byUserId" in endpoint else "email")
        user = self._profiles.shown(row)
        if endpoint not in (EVENTS_BY_EMAIL, EVENTS_BY_USER_ID):
            return reply(200, {} if user is None else {"user": _user_as_json(user)})
        found = (event for event in self._events.shown() if self._is_by(row, user, event))
        latest = heapq.nlargest(_limit(parameters), found, key=_time_of)
        return reply(200, {"events": [_event_as_json(event) for event in latest]})

    def _identifiers(self, parameters: Parameters, name: str) -> Fields:
        """Return the one identifier that is given, as in a row of a request that writes."""
        value = parameters.get(name)
        if value is None:
            raise RefusedError(envelope(400, "BadParams", f"{name} is required."))
        if name == "email" and self._variants.project_type == "userID":
            raise RefusedError(envelope(400, "BadParams", "Users of this project have a userId."))
        if name == "email":
            check_email(value)
            return {name: value.lower()}
        check_user_id(value)
        return {name: value}

    def _is_by(self, row: Fields, user: User | None, event: Event) -> bool:
        """Whether an event is by the user of *row*, who may be unknown."""
        if "email" in row:
            return bool(event.email == row["email"])
        if user is None or event.email is None or self._variants.project_type == "userID":
            return bool(event.user_id == row["userId"])
        # Where a project has emails, they outdo the userId of the same event.
        return event.email == user.email


def _limit(parameters: Parameters) -> int:
    text = parameters.get("limit", str(_USUAL_LIMIT))
    if not (text.isdecimal() and 1 <= int(text[:9]) <= _MOST_EVENTS):
        raise RefusedError(envelope(400, "BadParams", f"limit is from 1 to {_MOST_EVENTS}."))
    return int(text)


def _time_of(event: Event) -> tuple[float, float]:
    return event.accepted_at if event.created_at is None else event.created_at, event.accepted_at


def _user_as_json(user: User) -> Fields:
    identity = {"email": user.email, "userId": user.user_id}
    return _without_none(identity) | {"dataFields": user.data_fields}


def _event_as_json(event: Event) -> Fields:
    document = {
        "_id": event.id,
        "eventType": "customEvent",
        "eventName": event.event_name,
        "email": event.email,
        "userId": event.user_id,
        "createdAt": _as_date(_time_of(event)[0]),
        "dataFields": event.data_fields,
    }
    return _without_none(document)


def _as_date(seconds: float) -> str | float:
    """Return a time as Iterable writes dates; as it came if it is beyond the year 9999."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S +00:00")
    except (OverflowError, ValueError, OSError):
        return seconds


def _without_none(document: Fields) -> Fields:
    return {name: value for name, value in document.items() if value is not None}
