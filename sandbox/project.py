"""The state of one Iterable project, and what its endpoints answer.

No sockets, no threads: :meth:`Project.handle` takes the bytes of a body, returns an
:class:`Answer`, and has changed the state or not by then. Time is what the clock says that it was
given, and matters only to what is seen later than it is written and to the time of events.

Documented by Iterable: the first value of a field fixes its type for ever, for user fields in the
whole project, for event fields per event name; bulk endpoints list refused rows by identifier in a
200, among them events of unknown users; fields that may not be created are named in a bulk answer;
4 MB for ``users/bulkUpdate``; a user is to be given 60 seconds before it is relied on; a code
BatchTooLarge.

Seen in other clients' tests and recordings: the texts and shapes of the error bodies, one field of
the wrong type refusing a whole batch, the five layouts that make a string a date, a disallowed
event reported in the message of a 200, and 413 for what is too large.

Assumed, since nobody says: that a refused batch applies nothing; the bodies of 413 and broken JSON,
and that a limit to the number of rows would be told as one in bytes; that ``events/track`` takes an
event for an unknown user, or else refuses it with 400 and the code for an unknown identifier, and
refuses a forgotten one; code Success for a disallowed event; the case of emails in failure lists;
that any label of letters is a top-level domain; 4 MB for ``events/trackBulk``; that a row without
identifier, with a malformed event id, or with a value that is too long fails by itself in bulk, and
that the last of these is listed under invalidData for users, the others nowhere; that fields which
may not be created are named with dots where they lie in an object, and are dropped without a word
from a single call; that a write is seen as a whole when the lag is over, a user by events too.

``profiles.py`` and ``reading.py`` say the same of who is who and of the endpoints that read. What a
careful client should survive either way is a switch in :class:`Variants`.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from sandbox.bodies import (
    EVENT,
    USER,
    Answer,
    Fields,
    RefusedError,
    TooLongError,
    Types,
    bad_json,
    check_event_id,
    envelope,
    judge_fields,
    known_only,
    parse,
    parse_bulk,
    reply,
)
from sandbox.endpoints import (
    EVENTS_TRACK,
    EVENTS_TRACK_BULK,
    USERS_BULK_UPDATE,
    USERS_GET_FIELDS,
    USERS_UPDATE,
)
from sandbox.events import Event, Events
from sandbox.profiles import Profiles, User, check_new_identity
from sandbox.reading import Parameters, Reading
from sandbox.variants import Variants

MAX_BULK_BYTES: Final = 4_000_000
_BULK: Final = (USERS_BULK_UPDATE, EVENTS_TRACK_BULK)
_USER_BUCKETS: Final = ("invalid", "invalidData", "conflict", "forgotten", "notFound")
_EVENT_BUCKETS: Final = ("invalid", "forgotten", "notFound")


class _MismatchError(RefusedError):
    """A row with a value that does not fit the type of its field."""

    def __init__(self, answer: Answer, wrong: Fields, kind: str, value: str) -> None:
        super().__init__(answer, f"invalidData{kind}", value)
        self.wrong = wrong


@dataclass(slots=True)
class _RequestResult:
    """What became of the rows of one request; a single call is a request of one row."""

    succeeded: int = 0
    failed: int = 0
    failures: dict[str, list[str]] = field(default_factory=dict)  # bucket -> identifiers
    # Types of fields that no earlier row had, each with the table that it was added to.
    new_types: list[tuple[Types, Types]] = field(default_factory=list)
    filtered_out: dict[str, None] = field(default_factory=dict)  # an ordered set

    def fail(self, refused: RefusedError) -> None:
        self.failed += 1
        if refused.bucket:
            self.failures.setdefault(refused.bucket, []).append(refused.value)

    def take_back_new_types(self) -> None:
        for types, new in self.new_types:
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
            "createdFields": list(dict.fromkeys(name for _, new in self.new_types for name in new)),
            "failedUpdates": lists,
        }


class Project:
    """One project: ``users`` by email or userId, ``events`` by id, and the types of fields.

    Not safe to share between threads; no method waits. *clock* is in seconds since 1970.
    """

    def __init__(
        self,
        variants: Variants | None = None,
        project_id: int = 4711,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.variants = variants or Variants()
        self.project_id = project_id
        self._clock = clock
        self._profiles = Profiles(self.variants, clock)
        self._events = Events(self.variants, self._profiles, clock)
        self._reading = Reading(self.variants, self._profiles, self._events)
        self._handlers: dict[str, Callable[[bytes], Answer]] = {
            USERS_UPDATE: self._users_update,
            EVENTS_TRACK: self._events_track,
            USERS_BULK_UPDATE: self._users_bulk_update,
            EVENTS_TRACK_BULK: self._events_track_bulk,
        }
        self.reset()

    def reset(self) -> None:
        """Forget everything but the variants."""
        self._profiles.reset()
        self._events.reset()
        self.disallowed_events: set[str] = set()
        self._user_types: Types = dict.fromkeys(("email", "userId", "phoneNumber"), "string")
        self._user_types["signupDate"] = "date"
        self._event_types: dict[str, Types] = {}

    @property
    def users(self) -> dict[str, User]:
        """All profiles, as they were written last."""
        return self._profiles.users

    @property
    def events(self) -> dict[str, Event]:
        """All events, as they were written last."""
        return self._events.by_id

    def forget(self, identifier: str) -> None:
        """Delete the profile of an email or userId, and refuse it from now on in any case."""
        self._profiles.forget(identifier)

    def handle(self, endpoint: str, body: bytes) -> Answer:
        """Apply one request to one of ENDPOINTS and return its answer; KeyError for any other."""
        if len(body) > MAX_BULK_BYTES and endpoint in _BULK:
            return self._too_large(f"{MAX_BULK_BYTES} bytes")
        try:
            return self._handlers[endpoint](body)
        except RefusedError as refused:
            return refused.answer
        except RecursionError:  # objects nested a thousand deep
            return bad_json(endpoint).answer

    def read(self, endpoint: str, parameters: Parameters) -> Answer:
        """Answer one request to an endpoint that only reads; KeyError for any other."""
        if endpoint == USERS_GET_FIELDS:
            return reply(200, {"fields": self._user_types})
        try:
            return self._reading.answer(endpoint, parameters)
        except RefusedError as refused:
            return refused.answer

    def _too_large(self, limit: str) -> Answer:
        status = self.variants.too_large_status
        if self.variants.too_large_as_json:
            return envelope(status, "BatchTooLarge", f"Request is over {limit}.")
        return Answer(status, b"<html><h1>Request Entity Too Large</h1></html>", "text/html")

    def _users_update(self, body: bytes) -> Answer:
        row = parse(USERS_UPDATE, body, USER)
        fields = self._check_user(row, row.get("createNewFields"), _RequestResult())
        self._profiles.write(row, fields)
        return envelope(200, "Success", "")

    def _events_track(self, body: bytes) -> Answer:
        row = parse(EVENTS_TRACK, body, EVENT, "eventName")
        known_only = self.variants.track_needs_user
        fields = self._check_event(row, _RequestResult(), known_only=known_only)
        known = self._profiles.knows(row)
        event = self._events.write(row, fields, user_known=known, now=self._clock())
        return envelope(200, "Success", f"Event with id: {event.id} tracked.", {"id": event.id})

    def _users_bulk_update(self, body: bytes) -> Answer:
        outer, rows = parse_bulk(USERS_BULK_UPDATE, body, "users", USER)
        result, allow_new = _RequestResult(), outer.get("createNewFields")
        by_row = not self.variants.mismatch_rejects_batch
        passed = self._check_rows(
            rows, lambda row: self._check_user(row, allow_new, result), result, by_row=by_row
        )
        for row, fields in passed:
            try:
                self._profiles.write(row, fields)
                result.succeeded += 1
            except RefusedError as refused:
                result.fail(refused)
        document = result.document(_USER_BUCKETS, lower_case=self.variants.echo_lower_case)
        return reply(200, document | {"noOpEmails": [], "noOpUserIds": []})

    def _events_track_bulk(self, body: bytes) -> Answer:
        _, rows = parse_bulk(EVENTS_TRACK_BULK, body, "events", EVENT, "eventName")
        result, now = _RequestResult(), self._clock()
        for row, fields in self._check_rows(
            rows, lambda row: self._check_event(row, result, known_only=True), result, by_row=False
        ):
            self._events.write(row, fields, user_known=True, now=now)
            result.succeeded += 1
        disallowed = result.failures.get("disallowedEventNames", [])
        if not self.variants.disallowed_counted:
            result.failed -= len(disallowed)
        document = result.document(_EVENT_BUCKETS, lower_case=self.variants.echo_lower_case)
        return reply(200, document | {"disallowedEventNames": list(dict.fromkeys(disallowed))})

    # --- Checks: raise for a row that cannot be applied, and keep the types of new fields

    def _check_rows(
        self,
        rows: list[Fields],
        check: Callable[[Fields], Fields],
        result: _RequestResult,
        *,
        by_row: bool,
    ) -> list[tuple[Fields, Fields]]:
        """Return the rows that pass with their dataFields; the others are in *result*.

        Unless mismatches count *by_row*, a single one refuses the whole request.
        """
        self._refuse_too_many(rows)
        passed: list[tuple[Fields, Fields]] = []
        mismatches: Fields = {}
        for row in rows:
            try:
                passed.append((row, check(row)))
            except _MismatchError as mismatch:
                result.fail(mismatch)
                mismatches = mismatch.wrong | mismatches  # one offender a field: the first
            except RefusedError as refused:
                result.fail(refused)
        if mismatches and not by_row:
            result.take_back_new_types()
            raise RefusedError(self._mismatch(mismatches))
        return passed

    def _refuse_too_many(self, rows: list[Fields]) -> None:
        most = self.variants.most_rows_in_bulk
        if most is not None and len(rows) > most:
            raise RefusedError(self._too_large(f"{most} rows"))

    def _check_user(self, row: Fields, allow_new: bool | None, result: _RequestResult) -> Fields:
        self._profiles.check(row)
        check_new_identity(row.get("dataFields") or {})
        return self._check_fields(row, self._user_types, "user", allow_new, result)

    def _check_event(self, row: Fields, result: _RequestResult, *, known_only: bool) -> Fields:
        self._profiles.check(row)
        if self.variants.check_event_ids and row.get("id") is not None:
            check_event_id(row["id"])
        name = row["eventName"]
        if name in self.disallowed_events:
            answer = envelope(200, "Success", f"Event {name} is disallowed from tracking.")
            raise RefusedError(answer, "disallowedEventNames", name)
        if known_only and not self._profiles.knows(row):
            raise self._profiles.unknown(row, "notFound")
        types = self._event_types.setdefault(name, {})
        return self._check_fields(row, types, "event", row.get("createNewFields"), result)

    def _check_fields(
        self,
        row: Fields,
        types: Types,
        category: str,
        allow_new: bool | None,
        result: _RequestResult,
    ) -> Fields:
        """Return the dataFields to apply, once their types fit and those of new ones are kept."""
        fields: Fields = row.get("dataFields") or {}
        if not (self.variants.create_new_fields if allow_new is None else allow_new):
            fields, dropped = known_only(types, fields)
            result.filtered_out |= dict.fromkeys(dropped)
        try:
            new, wrong = judge_fields(types, category, fields, self.variants.longest_value)
        except TooLongError as name:
            kind, value = self._profiles.identifier(row)
            answer = envelope(400, "BadParams", f"The value of field '{name}' is too long.")
            raise RefusedError(answer, f"invalidData{kind}", value) from None
        if wrong:
            raise _MismatchError(self._mismatch(wrong), wrong, *self._profiles.identifier(row))
        if new:
            types.update(new)
            result.new_types.append((types, new))
        return fields

    def _mismatch(self, wrong: Fields) -> Answer:
        name, first = next(iter(wrong.items()))
        msg = (
            f"Project {self.project_id}: the {first['category']} field '{name}' is of type "
            f"{first['expectedType']}; the value sent could be {', '.join(first['incomingTypes'])}."
        )
        return envelope(400, "RequestFieldsTypesMismatched", msg, {"validationErrors": wrong})
