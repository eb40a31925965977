"""A batch of rows through the bulk endpoints: the users first, then the events of those accepted.

What the answer to a batch does not account for is left open: single calls judge these rows. That is
harmless, since both carry the same body, and what was refused was not applied.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from delivery.batching import Batch, BatchLimits, packed
from delivery.stopping import Stop
from iterable_api.answers import Answer, Repeat, too_large
from iterable_api.bulk_answers import calls_of
from iterable_api.payloads import bulk_body
from iterable_client import IterableClient
from records.outcomes import (
    ARRIVED,
    NOT_SENT,
    CallOutcome,
    CallStatus,
    PreparedRow,
    RowOutcome,
    outcome_of,
)

# Batches in flight: enough for 5 a second, if the two requests of each take no more than 1.2 s.
MOST_BATCHES = 12


class OpenRow(NamedTuple):
    """A row with a call still to be made; *before* is the call's outcome if it is never made."""

    row: PreparedRow
    before: CallOutcome = NOT_SENT

    def outcome(self, call: CallOutcome) -> RowOutcome:
        """Return the outcome of the row if *call* is that of the call to be made."""
        row = self.row
        if row.users_update is None:
            return outcome_of(row, call, row.events_track or NOT_SENT)
        return outcome_of(row, row.users_update, row.events_track or call)

    def judged_by(self, single: RowOutcome) -> RowOutcome:
        """Return the outcome of the row after *single* calls, which do not undo what may be."""
        call = single.users_update if self.row.users_update is None else single.events_track
        if call.status is CallStatus.NOT_SENT:
            return self.outcome(self.before)
        if call.status is CallStatus.UNAVAILABLE and self.before.status is CallStatus.UNKNOWN:
            return self.outcome(replace(call, status=CallStatus.UNKNOWN))
        return single


class _Endpoint(NamedTuple):
    """A bulk endpoint: "users" or "events", a row's part of a request, and what sends one."""

    name: str
    body: Callable[[PreparedRow], bytes]
    send: Callable[[Sequence[bytes]], Answer]


class _Told(NamedTuple):
    """What an answer says of a call of *row*; if it *is_open*, a single call is to be made."""

    row: PreparedRow
    call: CallOutcome
    is_open: bool = False


class BulkDelivery:
    """Delivers batches of rows; may be shared by threads."""

    def __init__(self, client: IterableClient, stop: Stop, limits: BatchLimits) -> None:
        self._stop = stop
        self._limits = limits
        self._users = _Endpoint("users", lambda row: row.user, client.update_users)
        self._events = _Endpoint("events", lambda row: row.event, client.track_events)

    def process(self, batch: Batch) -> tuple[list[RowOutcome], list[OpenRow]]:
        """Make the calls of *batch* that are to be made; return outcomes, and the open rows."""
        users = self._send(self._users, [row for row in batch if row.send_user])
        answers = {id(told.row): told for told in users}
        # In their order: the first value of a new field decides its type.
        rows, left = [], []
        for row in batch:
            told = answers.get(id(row))
            if told is None:
                rows.append(row)
            elif told.is_open:
                left.append(OpenRow(row, told.call))
            else:
                rows.append(row._replace(users_update=told.call))
        outcomes = [OpenRow(row).outcome(NOT_SENT) for row in rows if not _wants_event(row)]
        for row, call, is_open in self._send(self._events, list(filter(_wants_event, rows))):
            if is_open:
                left.append(OpenRow(row, call))
            else:
                outcomes.append(OpenRow(row).outcome(call))
        return outcomes, left

    def _send(self, endpoint: _Endpoint, rows: Batch) -> Iterator[_Told]:
        """Send *rows*, in parts if they have become too many since they were packed."""
        for part in packed(rows, self._limits):
            if self._stop.reason:
                yield from (_Told(row, NOT_SENT) for row in part)
                continue
            bodies = [endpoint.body(row) for row in part]
            answer = endpoint.send(bodies)
            if len(part) > 1 and too_large(answer.outcome):
                self._limits.too_large(len(part), len(bulk_body(endpoint.name, bodies)))
                yield from self._send(endpoint, part)
            else:
                yield from self._read(endpoint, part, bodies, answer)

    def _read(
        self, endpoint: _Endpoint, rows: Batch, bodies: Sequence[bytes], answer: Answer
    ) -> Iterator[_Told]:
        """Yield what *answer* says of each of *rows*."""
        call = answer.outcome
        if call.status is CallStatus.DELIVERED:
            calls = calls_of(answer, endpoint.name, [row.key for row in rows], bodies)
            for row, each in zip(rows, calls, strict=True):
                yield _Told(row, each, each.status in {CallStatus.NOT_SENT, CallStatus.UNKNOWN})
            return
        if call.status in {CallStatus.REFUSED, CallStatus.FORGOTTEN}:
            # For the sake of some row; nothing was applied.
            call = NOT_SENT
        yield from (_Told(row, call, self._is_worth_a_single_call(answer)) for row in rows)

    def _is_worth_a_single_call(self, answer: Answer) -> bool:
        """Whether a single call may say more: not of the key, the pace or a run that is to stop."""
        call = answer.outcome
        settled = call.key_refused or answer.repeat is Repeat.THROTTLE
        return not (settled or self._stop.reason or call.status is CallStatus.NOT_SENT)


def _wants_event(row: PreparedRow) -> bool:
    update = row.users_update
    return row.send_event and update is not None and update.status in ARRIVED
