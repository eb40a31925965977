"""The outcome of a row and of its two API calls: the terms that the other modules share."""

import functools
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from records.columns import Row


class CallStatus(StrEnum):
    """How a call ended; beside each status, what to do about it."""

    DELIVERED = "delivered"  # nothing
    REFUSED = "refused"  # fix the row
    UNAVAILABLE = "unavailable"  # run again
    UNKNOWN = "unknown"  # run again: it was sent and no answer came, so it may have arrived
    UNCHANGED = "unchanged"  # nothing: Iterable has it from an earlier run
    FORGOTTEN = "forgotten"  # nothing: Iterable has forgotten the user at their request
    SUPERSEDED = "superseded"  # nothing: an earlier row has the same address
    NO_EVENT = "no_event"  # nothing: the row has no event
    NOT_SENT = "not_sent"  # nothing left this machine
    PLANNED = "planned"  # a dry run: it would have been sent

    # Faster than Enum's own: each row is counted by its statuses.
    __hash__ = str.__hash__


# Nothing to send: Iterable has the content already, or that of an earlier row, or there is none.
_NOT_NEEDED = frozenset({CallStatus.UNCHANGED, CallStatus.SUPERSEDED, CallStatus.NO_EVENT})
ARRIVED = _NOT_NEEDED | {CallStatus.DELIVERED}
# No request was sent for the call.
_NO_REQUEST = _NOT_NEEDED | {CallStatus.NOT_SENT}


class Fault(StrEnum):
    """Where the cause lies if a call was not delivered."""

    ROW = "row"  # in this row alone
    FIELD = "field"  # in a value, or in the type that the project has for its field
    KEY = "key"  # no request with this key can succeed
    PROJECT = "project"  # in the project's settings or limits, or in what the key may do
    ITERABLE = "iterable"
    NETWORK = "network"  # between this machine and Iterable, or another server answers


class RowStatus(StrEnum):
    """How a row ended."""

    SUCCESSFUL = "successful"
    PARTIAL_FAILURE = "partial_failure"  # the user was updated, the event was not delivered
    TOTAL_FAILURE = "total_failure"  # the user was not updated, so no event was sent
    UNCHANGED = "unchanged"  # Iterable had both already
    FORGOTTEN = "forgotten"  # Iterable has forgotten the user at their request
    NOT_ATTEMPTED = "not_attempted"  # the run stopped before this row
    PLANNED = "planned"  # a dry run: the row would have been sent

    __hash__ = str.__hash__


# The row was tried, and not all of it was delivered.
FAILED_OUTCOMES = frozenset({RowStatus.PARTIAL_FAILURE, RowStatus.TOTAL_FAILURE})
GOOD_OUTCOMES = frozenset(RowStatus) - FAILED_OUTCOMES - {RowStatus.NOT_ATTEMPTED}
# The name of each status's number of rows in the summary of the results file.
COUNTERS = {
    status: f"{status}s" if status in FAILED_OUTCOMES else str(status) for status in RowStatus
}


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What happened to one API call.

    ``attempts`` is the number of requests sent. ``code`` and ``message`` come from Iterable's last
    answer, cut short. They may quote a customer's values, so they go to the results file only,
    never to the log. ``fields`` are those that the answer names, each with its type in the project
    or with ``filtered out``.
    """

    status: CallStatus
    http_status: int | None = None
    code: str | None = None
    attempts: int = 0
    message: str = ""
    fault: Fault | None = None
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def key_refused(self) -> bool:
        """Whether no call with this API key can succeed."""
        return self.fault is Fault.KEY

    def __str__(self) -> str:
        """Return the text for the log, without Iterable's message."""
        if self.http_status is None:
            details = self.message  # our own words
        else:
            side = {4: "client error ", 5: "server error "}.get(self.http_status // 100, "")
            details = f"{side}{self.http_status} {self.code or ''}".rstrip()
        return f"{self.status} ({details})" if details else str(self.status)


NOT_SENT = CallOutcome(CallStatus.NOT_SENT)
UNCHANGED = CallOutcome(CallStatus.UNCHANGED)
SUPERSEDED = CallOutcome(CallStatus.SUPERSEDED)
NO_EVENT = CallOutcome(CallStatus.NO_EVENT)
PLANNED = CallOutcome(CallStatus.PLANNED)


# The kinds of calls: users/update and events/track.
PROFILE, EVENT = 1, 2
# The event's name in a row without an event. No hash has this value.
NO_EVENT_NAME = bytes(16)
# The upper two bits of this digit are the UUID's variant. By hand, as uuid.UUID takes three times
# as long, and every row has one.
_VARIANTS = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}


class Call(NamedTuple):
    """One of the two calls of a row.

    ``name`` identifies the call among those of its ``kind`` in the ledger; ``content`` is a hash of
    the values that it sends. ``body`` is the encoded request body, once it is made, and ``digest``
    its hash. ``send`` says whether the call is still to be made; ``outcome`` is its outcome so far.
    """

    kind: int
    name: bytes
    content: bytes
    body: bytes = b""
    digest: bytes = b""
    send: bool = True
    outcome: CallOutcome = NOT_SENT

    def known(self, outcome: CallOutcome | None) -> "Call":
        """Return the call with an *outcome* that makes sending needless; None changes nothing."""
        return self._replace(outcome=outcome, send=False) if outcome else self


class PreparedRow(NamedTuple):
    """A row whose user and event are identified.

    ``row`` has its values until the bodies are made. ``key`` identifies the user in Iterable: the
    address in lower case or, if users are identified by user id, ``userId:`` and the id. The name
    of ``profile`` is a hash of the key; that of ``event`` is what the event's id is made of, or
    ``NO_EVENT_NAME``.
    """

    row: Row
    customer_id: int | str | None
    email: int | str | None
    user_id: str | None
    key: str
    profile: Call
    event: Call

    @property
    def event_id(self) -> str:
        """The event's id as it is sent: a UUID of version 5, by RFC 9562."""
        text = self.event.name.hex()
        variant = _VARIANTS[text[16]]
        return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"

    @property
    def next_call(self) -> Call | None:
        """The next call to make; never an event for a user whom Iterable does not have."""
        if self.profile.send:
            return self.profile
        return self.event if self.event.send and self.profile.outcome.status in ARRIVED else None

    def after(self, outcome: CallOutcome, *, final: bool = True) -> "PreparedRow":
        """Return the row with the *outcome* of its next call; if not *final*, it stays the next."""
        call = (self.next_call or self.event)._replace(outcome=outcome, send=not final)
        return self._replace(profile=call) if call.kind == PROFILE else self._replace(event=call)

    def knowing(
        self, users_update: CallOutcome | None = None, events_track: CallOutcome | None = None
    ) -> "PreparedRow":
        """Return the row with the outcomes of calls that need not be made; None for the others."""
        profile, event = self.profile.known(users_update), self.event.known(events_track)
        return self._replace(profile=profile, event=event)


class RowOutcome(NamedTuple):
    """What happened to one row of Query 2; by default nothing was sent.

    ``prepared`` is None for a row that was not prepared. ``user_id`` is None if users are
    identified by email.
    """

    customer_id: int | str | None
    email: int | str | None
    users_update: CallOutcome = NOT_SENT
    events_track: CallOutcome = NOT_SENT
    prepared: PreparedRow | None = None
    user_id: int | str | None = None

    def refused(self, reason: str) -> "RowOutcome":
        """Return the outcome of the row if it cannot be sent as it is, for this *reason*."""
        refusal = CallOutcome(CallStatus.REFUSED, message=reason, fault=Fault.ROW)
        return self._replace(users_update=refusal)

    @property
    def name(self) -> int | str | None:
        """The name of the row's user for the operator."""
        return self.email if self.user_id is None else self.user_id

    @property
    def status(self) -> RowStatus:
        """The row's status, which follows from its two calls."""
        return _status_of(self.users_update.status, self.events_track.status)

    @property
    def failed_call(self) -> CallOutcome | None:
        """The first call that was not delivered; None if both were."""
        if self.users_update.status not in ARRIVED:
            return self.users_update
        return None if self.events_track.status in ARRIVED else self.events_track

    @property
    def failed_path(self) -> str:
        """The endpoint of ``failed_call``."""
        return "users/update" if self.failed_call is self.users_update else "events/track"

    @property
    def refused_for_itself(self) -> bool:
        """Whether the row was not delivered because of one of its values."""
        call = self.failed_call or self.users_update
        return call.status is CallStatus.REFUSED and call.fault in {Fault.ROW, Fault.FIELD}

    @property
    def event_id(self) -> str | None:
        """The id of the row's event, the same at every run; None where there is none."""
        has_event = self.events_track.status is not CallStatus.NO_EVENT
        return self.prepared.event_id if self.prepared and has_event else None


@functools.cache
def _status_of(update: CallStatus, track: CallStatus) -> RowStatus:
    """Return the status of a row from those of its two calls."""
    both = {update, track}
    if CallStatus.PLANNED in both:
        return RowStatus.PLANNED
    if CallStatus.FORGOTTEN in both:
        return RowStatus.FORGOTTEN
    if both <= _NOT_NEEDED:
        return RowStatus.UNCHANGED
    if both <= ARRIVED:
        return RowStatus.SUCCESSFUL
    if both <= _NO_REQUEST:
        return RowStatus.NOT_ATTEMPTED
    return RowStatus.PARTIAL_FAILURE if update in ARRIVED else RowStatus.TOTAL_FAILURE


def outcome_of(
    prepared: PreparedRow,
    users_update: CallOutcome | None = None,
    events_track: CallOutcome | None = None,
) -> RowOutcome:
    """Return the outcome of a row; that of a call is by default what *prepared* says."""
    update = users_update or prepared.profile.outcome
    track = events_track or prepared.event.outcome
    customer_id, email, user_id = prepared.customer_id, prepared.email, prepared.user_id
    return RowOutcome(customer_id, email, update, track, prepared, user_id)
