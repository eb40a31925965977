"""What became of a row and of its two API calls: the words the other modules share."""

import functools
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from records.columns import Row


class CallStatus(StrEnum):
    """What the reader of a call's outcome should do about it."""

    DELIVERED = "delivered"  # nothing
    REFUSED = "refused"  # fix the row
    UNAVAILABLE = "unavailable"  # run again
    UNKNOWN = "unknown"  # it was sent, no answer came: it may have landed; run again
    UNCHANGED = "unchanged"  # nothing: Iterable holds it from an earlier run
    FORGOTTEN = "forgotten"  # nothing: the person asked Iterable to forget them
    SUPERSEDED = "superseded"  # nothing: a row before this one has the same address
    NO_EVENT = "no_event"  # nothing: the row has no event
    NOT_SENT = "not_sent"  # nothing left this machine
    PLANNED = "planned"  # a dry run: it would have been sent

    # Enum's own is slower, and each row is looked up and counted by its statuses.
    __hash__ = str.__hash__


# Nothing needs to be sent: Iterable has the call's content, or that of the row which stands for it,
# or there is none.
_NOT_NEEDED = frozenset({CallStatus.UNCHANGED, CallStatus.SUPERSEDED, CallStatus.NO_EVENT})
ARRIVED = _NOT_NEEDED | {CallStatus.DELIVERED}
# No request was sent for the call.
_NO_REQUEST = _NOT_NEEDED | {CallStatus.NOT_SENT}


class Fault(StrEnum):
    """Where the reason lies why a call was not delivered."""

    ROW = "row"  # in this row alone
    FIELD = "field"  # in a value, or in the type that the project has for its field
    KEY = "key"  # no request with this key can succeed
    PROJECT = "project"  # in the project's settings or limits, or in what the key may do
    ITERABLE = "iterable"
    NETWORK = "network"  # in what lies between, or another server answers


class RowStatus(StrEnum):
    """How a row ended."""

    SUCCESSFUL = "successful"
    PARTIAL_FAILURE = "partial_failure"  # the user was updated, the event was not delivered
    TOTAL_FAILURE = "total_failure"  # the user was not updated, so no event was sent
    UNCHANGED = "unchanged"  # Iterable had both already
    FORGOTTEN = "forgotten"  # the person asked Iterable to forget them: never to be delivered
    NOT_ATTEMPTED = "not_attempted"  # the run stopped before this row
    PLANNED = "planned"  # a dry run: the row would have been sent

    __hash__ = str.__hash__


# How a row ends that was tried and is not, or not wholly, at Iterable.
FAILED_OUTCOMES = frozenset({RowStatus.PARTIAL_FAILURE, RowStatus.TOTAL_FAILURE})
# How a row ends when all is well.
GOOD_OUTCOMES = frozenset(RowStatus) - FAILED_OUTCOMES - {RowStatus.NOT_ATTEMPTED}
# What the summary of the results file calls the number of rows that ended so.
COUNTERS = {
    status: f"{status}s" if status in FAILED_OUTCOMES else str(status) for status in RowStatus
}


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What happened to one API call.

    ``attempts`` counts the requests sent; 0 means that Iterable never saw the call. ``code`` and
    ``message`` come from Iterable's last answer, cut short. They may quote a customer's values:
    results file only, never the log. ``fields`` has the fields that the answer names, each with the
    type that the project has for it, or with ``filtered out``.
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
        """Return what may be logged: never a message of Iterable's."""
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
# The name of the event of a row without one. No hash is it.
NO_EVENT_NAME = bytes(16)
# Of the digit that says the variant only the lower two bits are the hash's.
_VARIANTS = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}


class Call(NamedTuple):
    """One of the two calls of a row.

    ``name`` is what the ledger tells the calls of a ``kind`` apart by; ``content`` is a hash of the
    values that the call sends. ``body`` is what it sends, encoded, once that is made; ``digest`` is
    a hash of the body. While ``send`` is true, the call is to be made, and ``outcome`` is what will
    have come of it if it is not.
    """

    kind: int
    name: bytes
    content: bytes
    body: bytes = b""
    digest: bytes = b""
    send: bool = True
    outcome: CallOutcome = NOT_SENT

    def known(self, outcome: CallOutcome | None) -> "Call":
        """Return the call that need not be made any more; as it is if *outcome* is None."""
        return self._replace(outcome=outcome, send=False) if outcome else self


class PreparedRow(NamedTuple):
    """A row of which it is known who and what it is about.

    ``row`` has its values, until there are bodies made of them. ``key`` is how Iterable tells users
    apart: the address in lower case, or where ``user_id`` is not None, that after ``userId:``. The
    name of the ``profile`` is a hash of the key, that of the ``event`` is what the event's id is
    made of, ``NO_EVENT_NAME`` if the row has no event.
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
        """The call to be made next: no event of a user whom Iterable does not have."""
        if self.profile.send:
            return self.profile
        return self.event if self.event.send and self.profile.outcome.status in ARRIVED else None

    def after(self, outcome: CallOutcome, *, final: bool = True) -> "PreparedRow":
        """Return the row with the *outcome* of its next call, which if not *final* stays the next.

        Only for a row that has one.
        """
        call = (self.next_call or self.event)._replace(outcome=outcome, send=not final)
        return self._replace(profile=call) if call.kind == PROFILE else self._replace(event=call)

    def knowing(
        self, users_update: CallOutcome | None = None, events_track: CallOutcome | None = None
    ) -> "PreparedRow":
        """Return the row with the outcomes of calls that need not be made, None for the others."""
        profile, event = self.profile.known(users_update), self.event.known(events_track)
        return self._replace(profile=profile, event=event)


class RowOutcome(NamedTuple):
    """What happened to one row of Query 2, by default nothing; one of ``results`` in the file.

    ``prepared`` is None for a row that could not be made ready, or was not. ``user_id`` is None
    where users are told apart by email.
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
        """What the row's user is called for the operator."""
        return self.email if self.user_id is None else self.user_id

    @property
    def status(self) -> RowStatus:
        """The row's status, which follows from its two calls."""
        return _status_of(self.users_update.status, self.events_track.status)

    @property
    def failed_call(self) -> CallOutcome | None:
        """The first of the two calls that did not arrive; None when both did."""
        if self.users_update.status not in ARRIVED:
            return self.users_update
        return None if self.events_track.status in ARRIVED else self.events_track

    @property
    def failed_path(self) -> str:
        """The path of ``failed_call``: its endpoint in Iterable's API."""
        return "users/update" if self.failed_call is self.users_update else "events/track"

    @property
    def refused_for_itself(self) -> bool:
        """Whether a value of the row is why the row was not delivered."""
        call = self.failed_call or self.users_update
        return call.status is CallStatus.REFUSED and call.fault in {Fault.ROW, Fault.FIELD}

    @property
    def event_id(self) -> str | None:
        """The id of the row's event, the same at every run; None where there is none."""
        has_event = self.events_track.status is not CallStatus.NO_EVENT
        return self.prepared.event_id if self.prepared and has_event else None


@functools.cache
def _status_of(update: CallStatus, track: CallStatus) -> RowStatus:
    """Return the status of a row whose two calls ended so."""
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
    """Return the outcome of a row: of a call by default what is known of it."""
    update = users_update or prepared.profile.outcome
    track = events_track or prepared.event.outcome
    customer_id, email, user_id = prepared.customer_id, prepared.email, prepared.user_id
    return RowOutcome(customer_id, email, update, track, prepared, user_id)
