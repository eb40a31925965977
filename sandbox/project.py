"""The state of one Iterable project, and what its endpoints answer.

No sockets, no clock, no threads: :meth:`Project.handle` takes the bytes of a body, returns an
:class:`Answer`, and has changed the state or not by then.

Documented by Iterable: emails are stored in lower case; the first value of a field fixes its type
for ever, for user fields in the whole project, for event fields per event name; null deletes a
profile field, an omitted one is kept, an object is replaced unless ``mergeNestedObjects``; an event
sent again with the same id is updated in place; ``dataFields.userId`` changes the user's userId;
bulk endpoints list refused rows by identifier in a 200; 4 MB for ``users/bulkUpdate``.

Seen in other clients' tests and recordings: the texts and shapes of the error bodies, one field of
the wrong type refusing a whole batch, the five layouts that make a string a date, and a disallowed
event reported in the message of a 200.

Assumed, since nobody says: that a refused batch applies nothing; the bodies of 409, 413 and broken
JSON; that ``events/track`` takes an event for an unknown user, and refuses a forgotten one; code
Success for a disallowed event; the case of emails in failure lists; that any label of letters is a
top-level domain; 4 MB for ``events/trackBulk``; that a row without identifier fails by itself in
bulk; that ``dataFields.email`` is ignored in an email-based project unless malformed or taken; that
an unknown userId in a hybrid project gets a placeholder address. What a careful client should
survive either way is a switch in :class:`Variants`.
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from sandbox.bodies import (
    EVENT,
    EVENTS_TRACK,
    EVENTS_TRACK_BULK,
    USER,
    USERS_BULK_UPDATE,
    USERS_GET_FIELDS,
    USERS_UPDATE,
    Answer,
    Fields,
    RefusedError,
    Types,
    bad_json,
    check_email,
    check_user_id,
    envelope,
    judge_types,
    parse,
    parse_bulk,
    reply,
)

ProjectType = Literal["email", "hybrid"]

MAX_BULK_BYTES: Final = 4_000_000
_BULK: Final = (USERS_BULK_UPDATE, EVENTS_TRACK_BULK)
_USER_BUCKETS: Final = ("invalid", "invalidData", "conflict", "forgotten", "notFound")
_EVENT_BUCKETS: Final = ("invalid", "forgotten", "notFound")


class User(NamedTuple):
    """One profile. Never changed in place: an update puts a new one in its stead."""

    email: str
    user_id: str | None
    data_fields: Fields
    updates: int  # how many times the profile was written, its creation included


class Event(NamedTuple):
    """One event. Never changed in place: the same id sent again puts a new one in its stead."""

    id: str
    event_name: str
    email: str | None
    user_id: str | None
    created_at: int | None  # seconds as sent; None: on receipt
    data_fields: Fields
    received: int  # how many times this id was applied
    user_existed: bool  # False if it was ever applied before its user


@dataclass(slots=True)
class Variants:
    """What Iterable leaves open or a project may choose; each default is the likelier one."""

    project_type: ProjectType = "email"
    echo_lower_case: bool = True  # emails in failure lists; else as sent
    mismatch_rejects_batch: bool = True  # bulkUpdate; else the row is listed as invalidData
    disallowed_counted: bool = True  # in failCount; else in no count
    too_large_as_json: bool = True  # the 413; else HTML
    create_new_fields: bool = True  # where a request does not say
    keep_fields: bool = True  # False holds identifiers only, for runs of millions


class _MismatchError(RefusedError):
    """A row with a value that does not fit the type of its field."""

    def __init__(self, answer: Answer, wrong: Fields, row: Fields) -> None:
        kind, value = _identifier(row)
        super().__init__(answer, f"invalidData{kind}", value)
        self.wrong = wrong


@dataclass(slots=True)
class _Tally:
    """What came of the rows of one request; a single call is a request of one row."""

    succeeded: int = 0
    failed: int = 0
    failures: dict[str, list[str]] = field(default_factory=dict)  # bucket -> identifiers
    pinned: list[tuple[Types, Types]] = field(default_factory=list)  # the types, what was added
    filtered_out: dict[str, None] = field(default_factory=dict)  # an ordered set

    def fail(self, refused: RefusedError) -> None:
        self.failed += 1
        if refused.bucket:
            self.failures.setdefault(refused.bucket, []).append(refused.value)

    def unpin(self) -> None:
        for types, new in self.pinned:
            for name in new:
                types.pop(name, None)

    def document(self, buckets: Iterable[str], *, lower_case: bool) -> Fields:
        """Return the part of the answer that both bulk endpoints share."""
        names = [f"{bucket}{kind}" for kind in ("Emails", "UserIds") for bucket in buckets]
        lists = {name: self.failures.get(name, []) for name in names}
        if lower_case:
            lists |= {n: [v.lower() for v in lists[n]] for n in names if n.endswith("Emails")}
        return {
            "successCount": self.succeeded,
            "failCount": self.failed,
            "invalidEmails": lists["invalidEmails"],
            "invalidUserIds": lists["invalidUserIds"],
            "filteredOutFields": list(self.filtered_out),
            "createdFields": list(dict.fromkeys(name for _, new in self.pinned for name in new)),
            "failedUpdates": lists,
        }


class Project:
    """One project: ``users`` by lower-cased email, ``events`` by id, and the types of fields.

    Not safe to share between threads; no method waits.
    """

    def __init__(self, variants: Variants | None = None, project_id: int = 4711) -> None:
        self.variants = variants or Variants()
        self.project_id = project_id
        self._handlers: dict[str, Callable[[bytes], Answer]] = {
            USERS_UPDATE: self._users_update,
            EVENTS_TRACK: self._events_track,
            USERS_BULK_UPDATE: self._users_bulk_update,
            EVENTS_TRACK_BULK: self._events_track_bulk,
            USERS_GET_FIELDS: lambda _: reply(200, {"fields": self._user_types}),
        }
        self.reset()

    def reset(self) -> None:
        """Forget everything but the variants."""
        self.users: dict[str, User] = {}
        self.events: dict[str, Event] = {}
        self.disallowed_events: set[str] = set()
        self._forgotten: set[str] = set()
        self._emails_by_user_id: dict[str, str] = {}
        self._user_types: Types = dict.fromkeys(("email", "userId", "phoneNumber"), "string")
        self._user_types["signupDate"] = "date"
        self._event_types: dict[str, Types] = {}

    def forget(self, identifier: str) -> None:
        """Delete the profile of an email or userId, and refuse it from now on in any case."""
        self._forgotten.add(identifier.strip().lower())
        email = self._emails_by_user_id.pop(identifier, identifier.strip().lower())
        self.users.pop(email, None)

    def handle(self, endpoint: str, body: bytes) -> Answer:
        """Apply one request to one of METHODS and return its answer; KeyError for any other."""
        if len(body) > MAX_BULK_BYTES and endpoint in _BULK:
            return self._too_large()
        try:
            return self._handlers[endpoint](body)
        except RefusedError as refused:
            return refused.answer
        except RecursionError:  # objects nested a thousand deep
            return bad_json(endpoint).answer

    def _too_large(self) -> Answer:
        if self.variants.too_large_as_json:
            return envelope(413, "BatchTooLarge", f"Request is over {MAX_BULK_BYTES} bytes.")
        return Answer(413, b"<html><h1>413 Request Entity Too Large</h1></html>", "text/html")

    def _users_update(self, body: bytes) -> Answer:
        row = parse(USERS_UPDATE, body, USER)
        self._write_user(row, self._check_user(row, row.get("createNewFields"), _Tally()))
        return envelope(200, "Success", "")

    def _events_track(self, body: bytes) -> Answer:
        row = parse(EVENTS_TRACK, body, EVENT, "eventName")
        event = self._write_event(row, self._check_event(row, _Tally()))
        return envelope(200, "Success", f"Event with id: {event.id} tracked.", {"id": event.id})

    def _users_bulk_update(self, body: bytes) -> Answer:
        outer, rows = parse_bulk(USERS_BULK_UPDATE, body, "users", USER)
        tally, allow_new = _Tally(), outer.get("createNewFields")
        by_row = not self.variants.mismatch_rejects_batch
        passed = self._check_rows(
            rows, lambda row: self._check_user(row, allow_new, tally), tally, by_row=by_row
        )
        for row, fields in passed:
            try:
                self._write_user(row, fields)
                tally.succeeded += 1
            except RefusedError as refused:
                tally.fail(refused)
        document = tally.document(_USER_BUCKETS, lower_case=self.variants.echo_lower_case)
        return reply(200, document | {"noOpEmails": [], "noOpUserIds": []})

    def _events_track_bulk(self, body: bytes) -> Answer:
        _, rows = parse_bulk(EVENTS_TRACK_BULK, body, "events", EVENT, "eventName")
        tally = _Tally()
        for row, fields in self._check_rows(
            rows, lambda row: self._check_event(row, tally, known_only=True), tally, by_row=False
        ):
            self._write_event(row, fields)
            tally.succeeded += 1
        disallowed = tally.failures.get("disallowedEventNames", [])
        if not self.variants.disallowed_counted:
            tally.failed -= len(disallowed)
        document = tally.document(_EVENT_BUCKETS, lower_case=self.variants.echo_lower_case)
        return reply(200, document | {"disallowedEventNames": list(dict.fromkeys(disallowed))})

    # --- Checks: raise for a row that cannot be applied, and pin the types of new fields

    def _check_rows(
        self, rows: list[Fields], check: Callable[[Fields], Fields], tally: _Tally, *, by_row: bool
    ) -> list[tuple[Fields, Fields]]:
        """Return the rows that pass with their dataFields; the others are in *tally*.

        Unless mismatches count *by_row*, a single one refuses the whole request.
        """
        passed: list[tuple[Fields, Fields]] = []
        mismatches: Fields = {}
        for row in rows:
            try:
                passed.append((row, check(row)))
            except _MismatchError as mismatch:
                tally.fail(mismatch)
                mismatches = mismatch.wrong | mismatches  # one offender a field: the first
            except RefusedError as refused:
                tally.fail(refused)
        if mismatches and not by_row:
            tally.unpin()
            raise RefusedError(self._mismatch(mismatches))
        return passed

    def _check_identifiers(self, row: Fields) -> None:
        email, user_id = row.get("email"), row.get("userId")
        if email is None and user_id is None:
            raise RefusedError(envelope(400, "BadParams", "An email or a userId is required."))
        for value, kind in ((email, "Emails"), (user_id, "UserIds")):
            if value is not None and self._forgotten and value.strip().lower() in self._forgotten:
                answer = envelope(409, "ForgottenUserError", "This user has been forgotten.")
                raise RefusedError(answer, f"forgotten{kind}", value)
        if email is not None:
            check_email(email)
        if user_id is not None:
            check_user_id(user_id)

    def _check_user(self, row: Fields, allow_new: bool | None, tally: _Tally) -> Fields:
        self._check_identifiers(row)
        sent: Fields = row.get("dataFields") or {}
        if (email := _text(sent, "email")) is not None:
            check_email(email)
        if (user_id := _text(sent, "userId")) is not None:
            check_user_id(user_id)
        return self._pin(row, self._user_types, "user", allow_new, tally)

    def _check_event(self, row: Fields, tally: _Tally, *, known_only: bool = False) -> Fields:
        self._check_identifiers(row)
        name = row["eventName"]
        if name in self.disallowed_events:
            answer = envelope(200, "Success", f"Event {name} is disallowed from tracking.")
            raise RefusedError(answer, "disallowedEventNames", name)
        if known_only and self._email_of(row) not in self.users:
            kind, value = _identifier(row)
            raise RefusedError(envelope(400, "BadParams", ""), f"notFound{kind}", value)
        types = self._event_types.setdefault(name, {})
        return self._pin(row, types, "event", row.get("createNewFields"), tally)

    def _pin(
        self, row: Fields, types: Types, category: str, allow_new: bool | None, tally: _Tally
    ) -> Fields:
        """Return the dataFields to apply, once their types fit and those of new ones are kept."""
        fields: Fields = row.get("dataFields") or {}
        if not (self.variants.create_new_fields if allow_new is None else allow_new):
            tally.filtered_out.update((name, None) for name in fields if name not in types)
            fields = {name: value for name, value in fields.items() if name in types}
        new, wrong = judge_types(types, category, fields)
        if wrong:
            raise _MismatchError(self._mismatch(wrong), wrong, row)
        if new:
            types.update(new)
            tally.pinned.append((types, new))
        return fields

    def _mismatch(self, wrong: Fields) -> Answer:
        name, first = next(iter(wrong.items()))
        msg = (
            f"Project {self.project_id}: the {first['category']} field '{name}' is of type "
            f"{first['expectedType']}; the value sent could be {', '.join(first['incomingTypes'])}."
        )
        return envelope(400, "RequestFieldsTypesMismatched", msg, {"validationErrors": wrong})

    # --- Writes

    def _write_user(self, row: Fields, fields: Fields) -> None:
        """Create or update one profile; raise for an unknown userId or one identity too many."""
        email = self._email_of(row) or self._new_address(row)
        user = self.users.get(email) or User(email, None, {}, 0)
        user_id = _text(fields, "userId") or row.get("userId") or user.user_id
        renamed = self._free_address(email, fields)
        self._refuse_taken_user_id(email, user_id)
        held: Fields = {}
        if self.variants.keep_fields:
            held = _merged(user.data_fields, fields, nested=row.get("mergeNestedObjects") is True)
            held.pop("email", None)
            held.pop("userId", None)
        if renamed != email:
            self.users.pop(email, None)
        self.users[renamed] = User(renamed, user_id, held, user.updates + 1)
        if user.user_id is not None:
            self._emails_by_user_id.pop(user.user_id, None)
        if user_id is not None:
            self._emails_by_user_id[user_id] = renamed

    def _email_of(self, row: Fields) -> str | None:
        """Return the address that *row* names, in lower case; None for an unknown userId."""
        email: str | None = row.get("email")
        return self._emails_by_user_id.get(row["userId"]) if email is None else email.lower()

    def _new_address(self, row: Fields) -> str:
        user_id: str = row["userId"]
        if self.variants.project_type == "email" and not row.get("preferUserId"):
            answer = envelope(400, "UnknownUserIdError", f"Unknown userId: {user_id}")
            raise RefusedError(answer, "invalidUserIds", user_id)
        return f"{user_id.lower()}+{len(self.users)}@placeholder.email"

    def _free_address(self, email: str, fields: Fields) -> str:
        """Return the address the profile will have: ``dataFields.email`` may change it."""
        wanted = (_text(fields, "email") or email).lower()
        if wanted != email and wanted in self.users:
            answer = envelope(409, "EmailAlreadyExists", f"{wanted} belongs to another user.")
            raise RefusedError(answer, "conflictEmails", wanted)
        return wanted if self.variants.project_type == "hybrid" else email

    def _refuse_taken_user_id(self, email: str, user_id: str | None) -> None:
        if self.variants.project_type == "email" or user_id is None:
            return
        if self._emails_by_user_id.get(user_id, email) != email:
            answer = envelope(409, "UserIdAlreadyExists", f"{user_id} belongs to another user.")
            raise RefusedError(answer, "conflictUserIds", user_id)

    def _write_event(self, row: Fields, fields: Fields) -> Event:
        event_id = row.get("id") or str(uuid.uuid4())
        email = self._email_of(row)
        known = email in self.users
        held = self.events.get(event_id)
        event = Event(
            event_id,
            row["eventName"],
            email,
            row.get("userId"),
            row.get("createdAt"),
            fields if self.variants.keep_fields else {},
            held.received + 1 if held else 1,
            known and (held is None or held.user_existed),
        )
        self.events[event_id] = event
        return event


def _identifier(row: Fields) -> tuple[str, str]:
    """Return what *row* is known by in a failure list: the kind of list, and the value."""
    return ("Emails", row["email"]) if row.get("email") is not None else ("UserIds", row["userId"])


def _text(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None


def _merged(held: Fields, sent: Fields, *, nested: bool) -> Fields:
    """Return *held* updated by *sent*: null deletes, objects merge one level deep if *nested*."""
    merged = dict(held)
    for name, value in sent.items():
        if value is None:
            merged.pop(name, None)
        elif nested and isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merged(merged[name], value, nested=False)
        else:
            merged[name] = value
    return merged
