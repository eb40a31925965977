"""The state of one Iterable project, and the answers of its endpoints to the job's requests.

No sockets, no threads: :meth:`Project.handle` takes the bytes of a body, changes the state if it
accepts them, and returns an :class:`Answer`.

Documented by Iterable: the first value of a field sets its type permanently, for user fields in the
whole project, for event fields per event name; emails are stored in lower case; null deletes a
profile field, an omitted one is kept; an event sent again with the same id is updated in place;
bulk endpoints list refused rows by identifier in a 200, among them events of unknown users; fields
that may not be created are named in a bulk answer; 4 MB for ``users/bulkUpdate``; about 32,000
characters for a value; events should follow their user's creation after 60 seconds; a code
BatchTooLarge; an unknown userId is an error in an email-based project.

Seen in other clients' tests and recordings: the texts and shapes of the error bodies, one field of
the wrong type refusing a whole batch, the five formats that make a string a date, a disallowed
event reported in the message of a 200, and 413 for a request that is too large.

Assumed, without a source: a refused batch applies nothing; the bodies of 409, of 413, of broken
JSON, of a malformed userId and of a value that is too long; a limit on the number of rows has the
same answer as one in bytes; ``events/track`` accepts an event for an unknown user, or refuses it
with 400 and the code for an unknown identifier, and refuses a forgotten one; a userID-based project
refuses an email alone; ``users/bulkUpdate`` lists unknown users under invalid; code Success for a
disallowed event; any label of letters is a top-level domain; 4 MB for ``events/trackBulk``; a row
without identifier or with a value that is too long fails by itself in bulk and is listed nowhere;
fields that may not be created are named with dots inside an object, and a single call drops them
silently.

If a careful client must handle either of two answers, one of the :class:`Settings` chooses. Left
out, because the job never sends them: both identifiers of a user, a change of userId,
``preferUserId``, ``mergeNestedObjects``, ids of events that are not UUIDs.
"""

import copy
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from sandbox.bodies import (
    Answer,
    EventRow,
    EventRows,
    Fields,
    RefusedError,
    Row,
    Types,
    UserRows,
    check_email,
    check_user_id,
    envelope,
    judge_fields,
    known_only,
    parse,
    reply,
)
from sandbox.endpoints import (
    EVENTS_TRACK,
    EVENTS_TRACK_BULK,
    USERS_BULK_UPDATE,
    USERS_GET_FIELDS,
    USERS_UPDATE,
)
from sandbox.settings import Settings

MAX_BULK_BYTES: Final = 4_000_000
LONGEST_VALUE: Final = 32_768  # characters
PROJECT_ID: Final = 4711
_USER_BUCKETS: Final = ("invalid", "invalidData", "conflict", "forgotten", "notFound")
_EVENT_BUCKETS: Final = ("invalid", "forgotten", "notFound")

RowT = TypeVar("RowT", bound=Row)


class User(NamedTuple):
    """One profile. An update replaces it; it is never changed in place."""

    email: str | None  # in lower case
    user_id: str | None
    data_fields: Fields
    updates: int  # number of writes of the profile, including its creation
    created_s: float  # seconds since 1970


class Event(NamedTuple):
    """One event. The same id sent again replaces it; it is never changed in place."""

    id: str
    event_name: str
    email: str | None  # in lower case
    user_id: str | None
    created_at: int | None  # seconds as sent; None: when it was accepted
    data_fields: Fields
    received: int  # number of requests with this id that were applied
    user_existed: bool  # False if it was ever applied before its user existed


@dataclass(slots=True)
class _Result:
    """The results of the rows of one request; a single call is a request with one row."""

    is_bulk: bool = False
    succeeded: int = 0
    failed: int = 0
    failures: dict[str, list[str]] = field(default_factory=dict)  # bucket -> identifiers
    created: dict[str, str] = field(default_factory=dict)  # names of new fields, and their types
    filtered_out: dict[str, None] = field(default_factory=dict)  # an ordered set

    def fail(self, bucket: str, value: str) -> None:
        self.failed += 1
        if bucket:
            self.failures.setdefault(bucket, []).append(value)

    def document(self, buckets: Iterable[str]) -> Fields:
        """Return the part of the answer that both bulk endpoints share."""
        names = [f"{bucket}{kind}" for kind in ("Emails", "UserIds") for bucket in buckets]
        lists = {name: self.failures.get(name, []) for name in names}
        return {
            "successCount": self.succeeded,
            "failCount": self.failed,
            "invalidEmails": lists["invalidEmails"],
            "invalidUserIds": lists["invalidUserIds"],
            "filteredOutFields": list(self.filtered_out),
            "createdFields": list(self.created),
            "failedUpdates": lists,
        }


class Project:
    """One project: ``users`` by :attr:`Row.key`, ``events`` by id, and the types of fields.

    Not safe to share between threads; no method waits.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.users: dict[str, User] = {}
        self.events: dict[str, Event] = {}
        self.disallowed_events: set[str] = set()
        self._forgotten: set[str] = set()
        self._user_types: Types = dict.fromkeys(("email", "userId", "phoneNumber"), "string")
        self._user_types["signupDate"] = "date"
        self._event_types: dict[str, Types] = {}

    def forget(self, identifier: str) -> None:
        """Delete the profile of an email or userId, and refuse it from now on (any case)."""
        self._forgotten.add(identifier.strip().lower())
        self.users.pop(identifier.strip().lower(), None)
        self.users.pop(f"userId:{identifier}", None)

    def handle(self, endpoint: str, body: bytes) -> Answer:
        """Apply one request and return its answer."""
        if endpoint == USERS_GET_FIELDS:
            return reply(200, {"fields": self._user_types})
        if len(body) > MAX_BULK_BYTES and endpoint in (USERS_BULK_UPDATE, EVENTS_TRACK_BULK):
            return _too_large(f"{MAX_BULK_BYTES} bytes")
        handlers = {
            USERS_UPDATE: self._users_update,
            EVENTS_TRACK: self._events_track,
            USERS_BULK_UPDATE: self._users_bulk_update,
            EVENTS_TRACK_BULK: self._events_track_bulk,
        }
        try:
            return handlers[endpoint](body)
        except RefusedError as refused:
            return refused.answer

    def _users_update(self, body: bytes) -> Answer:
        row = parse(USERS_UPDATE, body, Row)
        self._write_user(row, self._check_user(row, _Result()))
        return envelope(200, "Success", "")

    def _events_track(self, body: bytes) -> Answer:
        row = parse(EVENTS_TRACK, body, EventRow)
        row.id = row.id or str(uuid.uuid4())
        self._write_event(row, self._check_event(row, _Result()))
        return envelope(200, "Success", f"Event with id: {row.id} tracked.", {"id": row.id})

    def _users_bulk_update(self, body: bytes) -> Answer:
        document = parse(USERS_BULK_UPDATE, body, UserRows)
        for row in document.users:
            row.create_new_fields = document.create_new_fields
        result = self._apply(document.users, self._check_user, self._write_user)
        answer = result.document(_USER_BUCKETS)
        return reply(200, answer | {"noOpEmails": [], "noOpUserIds": []})

    def _events_track_bulk(self, body: bytes) -> Answer:
        document = parse(EVENTS_TRACK_BULK, body, EventRows)
        result = self._apply(document.events, self._check_event, self._write_event)
        disallowed = dict.fromkeys(result.failures.get("disallowedEventNames", []))
        answer = result.document(_EVENT_BUCKETS)
        return reply(200, answer | {"disallowedEventNames": list(disallowed)})

    def _apply(
        self,
        rows: list[RowT],
        check: Callable[[RowT, _Result], Fields],
        write: Callable[[RowT, Fields], None],
    ) -> _Result:
        """Write the rows that pass; the first value of the wrong type refuses the whole request."""
        most = self.settings.most_rows_in_bulk
        if most is not None and len(rows) > most:
            raise RefusedError(_too_large(f"{most} rows"))
        types_before = copy.deepcopy((self._user_types, self._event_types))
        result = _Result(is_bulk=True)
        passed: list[tuple[RowT, Fields]] = []
        for row in rows:
            try:
                passed.append((row, check(row, result)))
            except RefusedError as refused:
                if refused.bucket.startswith("invalidData"):
                    self._user_types, self._event_types = types_before
                    raise
                lower = self.settings.echo_lower_case and refused.bucket.endswith("Emails")
                result.fail(refused.bucket, refused.value.lower() if lower else refused.value)
        for row, fields in passed:
            write(row, fields)
        result.succeeded = len(passed)
        return result

    # --- Checks: raise RefusedError for a row, or keep the types of its new fields

    def _check_user(self, row: Row, result: _Result) -> Fields:
        self._check_who(row)
        kind, value = row.identifier
        # Every type of project except hybrid identifies users by one of the two only.
        if kind == {"email": "UserIds", "userID": "Emails"}.get(self.settings.project_type):
            raise _unknown(row, "invalid")
        new_email = str((row.data_fields or {}).get("email", "")).lower()
        if new_email in self.users and new_email != value.lower():
            answer = envelope(409, "EmailAlreadyExists", f"{new_email} belongs to another user.")
            raise RefusedError(answer, "conflictEmails", new_email)
        return self._check_fields(row, self._user_types, "user", result)

    def _check_event(self, row: EventRow, result: _Result) -> Fields:
        self._check_who(row)
        name = row.event_name
        if name in self.disallowed_events:
            answer = envelope(200, "Success", f"Event {name} is disallowed from tracking.")
            raise RefusedError(answer, "disallowedEventNames", name)
        if (result.is_bulk or self.settings.track_needs_user) and not self._knows(row):
            raise _unknown(row, "notFound")
        return self._check_fields(row, self._event_types.setdefault(name, {}), "event", result)

    def _check_who(self, row: Row) -> None:
        if row.email is None and row.user_id is None:
            raise RefusedError(envelope(400, "BadParams", "An email or a userId is required."))
        kind, value = row.identifier
        if value.strip().lower() in self._forgotten:
            answer = envelope(409, "ForgottenUserError", "This user has been forgotten.")
            raise RefusedError(answer, f"forgotten{kind}", value)
        if kind == "Emails":
            check_email(value)
        else:
            check_user_id(value)

    def _check_fields(self, row: Row, types: Types, category: str, result: _Result) -> Fields:
        """Return the dataFields to apply, after checking types and keeping those of new fields."""
        fields: Fields = row.data_fields or {}
        may_create = row.create_new_fields
        if not (self.settings.create_new_fields if may_create is None else may_create):
            fields, dropped = known_only(types, fields)
            result.filtered_out |= dict.fromkeys(dropped)
        if any(len(value) > LONGEST_VALUE for value in fields.values() if isinstance(value, str)):
            raise RefusedError(envelope(400, "BadParams", "The value of a field is too long."))
        new, wrong = judge_fields(types, category, fields)
        if wrong:
            kind, value = row.identifier
            msg = f"Project {PROJECT_ID}: a {category} field is of another type."
            params = {"validationErrors": wrong}
            answer = envelope(400, "RequestFieldsTypesMismatched", msg, params)
            raise RefusedError(answer, f"invalidData{kind}", value)
        types.update(new)
        result.created |= new
        return fields

    # --- State

    def _knows(self, row: Row) -> bool:
        """Whether the user of *row* exists, for at least the setting ``lag_s``."""
        user = self.users.get(row.key)
        return user is not None and time.time() - user.created_s >= self.settings.lag_s

    def _write_user(self, row: Row, fields: Fields) -> None:
        held = self.users.get(row.key)
        if held is None:
            held = User(row.lowered_email, row.user_id, {}, 0, time.time())
        merged = held.data_fields | fields if self.settings.keep_fields else {}
        merged = {name: value for name, value in merged.items() if value is not None}
        self.users[row.key] = held._replace(data_fields=merged, updates=held.updates + 1)

    def _write_event(self, row: EventRow, fields: Fields) -> None:
        event_id = row.id or str(uuid.uuid4())
        held = self.events.get(event_id)
        self.events[event_id] = Event(
            event_id,
            row.event_name,
            row.lowered_email,
            row.user_id,
            row.created_at,
            fields if self.settings.keep_fields else {},
            held.received + 1 if held else 1,
            self._knows(row) and (held is None or held.user_existed),
        )


def _too_large(limit: str) -> Answer:
    return envelope(413, "BatchTooLarge", f"Request is over {limit}.")


def _unknown(row: Row, bucket: str) -> RefusedError:
    """Return the refusal of a row with an unknown user."""
    kind, value = row.identifier
    code = "UnknownEmailError" if kind == "Emails" else "UnknownUserIdError"
    return RefusedError(envelope(400, code, f"Unknown user: {value}"), f"{bucket}{kind}", value)
