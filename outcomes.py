"""What became of a row and of its two API calls: the words the other modules share."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class CallStatus(StrEnum):
    """What the reader of a call's outcome should do about it."""

    DELIVERED = "delivered"  # nothing
    REFUSED = "refused"  # fix the row
    UNAVAILABLE = "unavailable"  # run again
    UNKNOWN = "unknown"  # it was sent, no answer came: it may have landed; run again
    NOT_SENT = "not_sent"  # nothing left this machine


class RowStatus(StrEnum):
    """How a row ended."""

    SUCCESSFUL = "successful"
    PARTIAL_FAILURE = "partial_failure"  # the user was updated, the event was not delivered
    TOTAL_FAILURE = "total_failure"  # the user was not updated, so no event was sent
    NOT_ATTEMPTED = "not_attempted"  # the run stopped before this row


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What happened to one API call.

    ``attempts`` counts the requests sent; 0 means that Iterable never saw the call. ``code`` and
    ``message`` come from Iterable's last answer, cut short. They may quote a customer's values:
    results file only, never the log.
    """

    status: CallStatus
    http_status: int | None = None
    code: str | None = None
    attempts: int = 0
    message: str = ""

    @property
    def key_refused(self) -> bool:
        """Whether no call with this API key can succeed."""
        return self.http_status == 401

    def __str__(self) -> str:
        """Return what may be logged: never a message of Iterable's."""
        if self.http_status is None:
            details = self.message  # our own words
        else:
            side = {4: "client error ", 5: "server error "}.get(self.http_status // 100, "")
            details = f"{side}{self.http_status} {self.code or ''}".rstrip()
        return f"{self.status} ({details})" if details else str(self.status)


NOT_SENT = CallOutcome(CallStatus.NOT_SENT)


class RowOutcome(NamedTuple):
    """What happened to one row of Query 2; one object of ``results`` in the results file."""

    customer_id: int | str | None
    email: str | None
    users_update: CallOutcome
    events_track: CallOutcome
    event_id: str | None = None
    attempted: bool = True

    @property
    def status(self) -> RowStatus:
        """The row's status, which follows from its two calls."""
        if not self.attempted:
            return RowStatus.NOT_ATTEMPTED
        if self.users_update.status is not CallStatus.DELIVERED:
            return RowStatus.TOTAL_FAILURE
        if self.events_track.status is not CallStatus.DELIVERED:
            return RowStatus.PARTIAL_FAILURE
        return RowStatus.SUCCESSFUL

    @property
    def key_refused(self) -> bool:
        """Whether Iterable refused the API key for either call."""
        return self.users_update.key_refused or self.events_track.key_refused
