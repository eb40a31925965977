"""Stops a run that is refused as a whole, for a reason that lies in none of its rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from delivery.stopping import Stop
from iterable_api.answers import NAME_BLOCKED
from iterable_api.mapping import EVENT_NAME
from records.exit_statuses import StopReason
from records.outcomes import CallOutcome, CallStatus, Fault, RowOutcome

# Number of rows that an endpoint refuses, with none accepted in between, before the run stops. A
# reason that cannot lie in a row needs few of them. A value of the wrong type can, so it counts
# only as long as nothing was accepted at that endpoint.
REFUSED_ROWS: Mapping[Fault | None, int] = {Fault.PROJECT: 4, Fault.NETWORK: 4, Fault.FIELD: 20}
# The same for a run that is over before that, and of which nothing was accepted.
IN_ALL: Mapping[Fault | None, int] = {Fault.PROJECT: 1, Fault.NETWORK: 1, Fault.FIELD: 4}

_USUAL_NAME = f'"eventName": "{EVENT_NAME}"'.encode("ascii")


class RefusalWatch:
    """Counts the rows that each endpoint refuses, "users" or "events"; asks the run to stop."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._accepted: set[str] = set()
        # Endpoints with failures that say nothing about other rows.
        self._others: set[str] = set()
        # Refused since a row was accepted.
        self._refused: dict[str, list[CallOutcome]] = {"users": [], "events": []}

    def accept(self, names: Collection[str]) -> None:
        """Note that Iterable already holds rows of this run at the endpoints with these *names*.

        What is refused now is then refused for a reason in its own row.
        """
        self._accepted |= set(names)

    def watch(self, outcomes: Sequence[RowOutcome]) -> None:
        """Count some more rows, in the order in which they came back."""
        self._watch("users", [outcome.users_update for outcome in outcomes])
        self._watch("events", [_event_call(outcome) for outcome in outcomes])

    def _watch(self, name: str, calls: Sequence[CallOutcome]) -> None:
        # All came back at once, so it does not matter which of them was accepted.
        if any(call.status is CallStatus.DELIVERED for call in calls):
            self._accepted.add(name)
            self._refused[name].clear()
        for call in calls:
            its_own = call.fault is Fault.FIELD and name in self._accepted
            passing = call.fault is Fault.NETWORK and call.http_status is None and call.code is None
            if call.fault in REFUSED_ROWS and not (its_own or passing):
                self._refused[name].append(call)
            elif call.fault is not None and not passing:
                self._others.add(name)
        self._judge(name, REFUSED_ROWS)

    def finish(self) -> None:
        """Ask for a stop also after a short run that was refused as a whole."""
        for name in self._refused.keys() - self._accepted - self._others:
            self._judge(name, IN_ALL)

    def _judge(self, name: str, enough: Mapping[Fault | None, int]) -> None:
        refused = self._refused[name]
        if refused and len(refused) >= enough[refused[0].fault]:
            self._stop.request(StopReason.EVERY_ROW_REFUSED, _reason(name, refused[0]))


def _event_call(outcome: RowOutcome) -> CallOutcome:
    """Return the event's outcome; a name that is blocked is a row's own if rows have names."""
    call, row = outcome.events_track, outcome.prepared
    if call.message == NAME_BLOCKED and row is not None and _USUAL_NAME not in row.event:
        return replace(call, fault=Fault.FIELD)
    return call


def _reason(name: str, call: CallOutcome) -> str:
    """Return why every row is refused. Quotes no value."""
    text = f"Iterable takes no {name}: {call}"
    if call.fault is not Fault.FIELD and call.message and call.http_status is not None:
        # Our own words: Iterable's would be about a row. Without an answer they are there already.
        text += f", {call.message}"
    for field, kind in call.fields:
        text += f"; the project has the field {field!r} as {kind}"
    return text
