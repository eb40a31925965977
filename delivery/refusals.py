"""Stops a run that is refused as a whole, for a reason that lies in none of its rows."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from delivery.stopping import Stop
from iterable_api.answers import NAME_BLOCKED
from iterable_api.mapping import EVENT_NAME
from records.exit_statuses import StopReason
from records.outcomes import CallOutcome, CallStatus, Fault, RowOutcome

# So many rows in a row that an endpoint turns away for one and the same reason, with none accepted
# in between. A reason that cannot lie in a row needs few of them. A value of the wrong type can,
# unless nothing was accepted at that endpoint before.
SAME_REASON_ROWS = {Fault.PROJECT: 4, Fault.NETWORK: 4, Fault.FIELD: 20}

_USUAL_NAME = f'"eventName": "{EVENT_NAME}"'.encode("ascii")
_Reason = tuple[int | None, str | None, tuple[tuple[str, str], ...]]


class RefusalWatch:
    """Counts the rows that each endpoint turns away for the same reason; asks the run to stop."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._endpoints = {"users": _Endpoint("users"), "events": _Endpoint("events")}

    def accept(self, names: Collection[str]) -> None:
        """Note that Iterable already holds rows of this run at the endpoints with these *names*.

        What is refused now is then refused for a reason in its own row.
        """
        for name in names:
            self._endpoints[name].accepted = True

    def watch(self, outcomes: Sequence[RowOutcome]) -> None:
        """Count some more rows, in the order in which they came back."""
        self._endpoints["users"].watch([outcome.users_update for outcome in outcomes])
        self._endpoints["events"].watch([_event_call(outcome) for outcome in outcomes])
        for endpoint in self._endpoints.values():
            if endpoint.refuses_all:
                self._stop.request(StopReason.EVERY_ROW_REFUSED, endpoint.text)

    def finish(self) -> None:
        """Ask for a stop also after a short run that was turned away as a whole."""
        for endpoint in self._endpoints.values():
            if endpoint.refused_all:
                self._stop.request(StopReason.EVERY_ROW_REFUSED, endpoint.text)


def _event_call(outcome: RowOutcome) -> CallOutcome:
    """Return the event's outcome; a name that is blocked is a row's own if rows have names."""
    call, row = outcome.events_track, outcome.prepared
    if call.message == NAME_BLOCKED and row is not None and _USUAL_NAME not in row.event:
        return replace(call, fault=Fault.FIELD)
    return call


class _Endpoint:
    """The answers of one endpoint, as far as they are about more than their row."""

    def __init__(self, name: str) -> None:
        self.text = ""
        self._name = name
        self.accepted = self._others = False
        self._reason: _Reason | None = None
        self._fault: Fault | None = None
        self._rows = 0

    def watch(self, calls: Sequence[CallOutcome]) -> None:
        """Count some more calls."""
        # All came back at once, so it does not matter which of them was accepted.
        if any(call.status is CallStatus.DELIVERED for call in calls):
            self.accepted, self._rows, self._reason = True, 0, None
        for call in calls:
            if call.status is not CallStatus.DELIVERED:
                self._count(call)

    def _count(self, call: CallOutcome) -> None:
        passing = call.fault is Fault.NETWORK and call.http_status is None and call.code is None
        if call.fault is None or passing:
            return
        if call.fault not in SAME_REASON_ROWS:
            # A row's own fault, or Iterable's: says nothing about the others.
            self._others = True
            return
        reason = (call.http_status, call.code, call.fields)
        if reason != self._reason:
            self._others |= self._reason is not None
            self._reason, self._fault, self._rows = reason, call.fault, 0
            self.text = describe(self._name, call)
        self._rows += 1

    @property
    def refuses_all(self) -> bool:
        """Whether it is time to stop."""
        if self._fault is None or (self._fault is Fault.FIELD and self.accepted):
            return False
        return self._rows >= SAME_REASON_ROWS[self._fault]

    @property
    def refused_all(self) -> bool:
        """Whether every call of a finished run was turned away for one reason, not its row's."""
        enough = 1 if self._fault is not Fault.FIELD else SAME_REASON_ROWS[Fault.PROJECT]
        return self._rows >= enough and not (self.accepted or self._others)


def describe(name: str, call: CallOutcome) -> str:
    """Return why every row is turned away; *name* is "users" or "events". Quotes no value."""
    text = f"Iterable takes no {name}: {call}"
    if call.fault is not Fault.FIELD and call.message and call.http_status is not None:
        # Our own words: Iterable's would be about a row. Without an answer they are there already.
        text += f", {call.message}"
    for field, kind in call.fields:
        text += f"; the project has the field {field!r} as {kind}"
    return text
