"""The outcome of a row and of its two API calls: the terms that the other modules share."""

import functools
from dataclasses import dataclass, field, replace
from enum import StrEnum

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


# The event's name in a row without an event. No hash has this value.
NO_EVENT_NAME = bytes(16)
# The upper two bits of this digit are the UUID's variant. By hand, as uuid.UUID takes three times
# as long, and every row has one.
_VARIANTS = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}


@dataclass(slots=True)
class Call:
    """One of the two calls of a row, and what became of it.

    ``path`` is its endpoint. ``name`` identifies it in the ledger among those with this path;
    ``content`` is a hash of the values that it sends. ``body`` is the encoded request body, once it
    is made, and ``digest`` its hash. ``send`` says whether the call is still to be made;
    ``outcome`` is its outcome so far.
    """

    path: str
    name: bytes = b""
    content: bytes = b""
    body: bytes = b""
    digest: bytes = b""
    send: bool = False
    outcome: CallOutcome = NOT_SENT

    def settle(self, outcome: CallOutcome) -> None:
        """Note the *outcome* of the call, which is then not to be made any more."""
        # In this order, because another thread may look at the call meanwhile.
        self.outcome, self.send = outcome, False


@dataclass(slots=True)
class Delivery:
    """One row of Query 2: its user, its two calls, and what became of them.

    ``user_id`` is None if users are identified by email. ``values`` are the row as it was read,
    until the bodies are made. ``key`` identifies the user in Iterable: the address in lower case or
    ``userId:`` and the id. The name of ``profile`` is a hash of the key; that of ``event`` is what
    the event's id is made of, or ``NO_EVENT_NAME``. A row that cannot be sent has no names.
    """

    customer_id: int | str | None
    email: int | str | None
    user_id: int | str | None = None
    values: Row = ()
    key: str = ""
    profile: Call = field(default_factory=lambda: Call("users/update"))
    event: Call = field(default_factory=lambda: Call("events/track"))

    @property
    def event_id(self) -> str | None:
        """The event's id, the same at every run: a UUID of version 5, by RFC 9562."""
        if self.event.name in {b"", NO_EVENT_NAME}:
            return None
        text = self.event.name.hex()
        variant = _VARIANTS[text[16]]
        return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"

    @property
    def next_call(self) -> Call | None:
        """The next call to make; never an event for a user whom Iterable does not have."""
        if self.profile.send:
            return self.profile
        return self.event if self.event.send and self.profile.outcome.status in ARRIVED else None

    def refuse(self, reason: str) -> "Delivery":
        """Note that the row cannot be sent as it is, for this *reason*; return it."""
        self.profile.settle(CallOutcome(CallStatus.REFUSED, message=reason, fault=Fault.ROW))
        self.event.send = False
        return self

    def ended(self, outcome: CallOutcome) -> "Delivery":
        """Return a copy whose next call has this *outcome*; a thread may still have the row."""
        copy = replace(self, profile=replace(self.profile), event=replace(self.event))
        if call := copy.next_call:
            call.settle(outcome)
        return copy

    @property
    def name(self) -> int | str | None:
        """The name of the row's user for the operator."""
        return self.email if self.user_id is None else self.user_id

    @property
    def status(self) -> RowStatus:
        """The row's status, which follows from its two calls."""
        return _status_of(self.profile.outcome.status, self.event.outcome.status)

    @property
    def failed_call(self) -> Call | None:
        """The first call that was not delivered; None if both were."""
        calls = (self.profile, self.event)
        return next((call for call in calls if call.outcome.status not in ARRIVED), None)

    @property
    def refused_for_itself(self) -> bool:
        """Whether the row was not delivered because of one of its values."""
        outcome = (self.failed_call or self.profile).outcome
        refused = outcome.status is CallStatus.REFUSED
        return refused and outcome.fault in {Fault.ROW, Fault.FIELD}


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
