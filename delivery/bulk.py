"""Rows in batches: the users of a batch in one request, then the events of those accepted.

What the answer to a batch does not account for is left open: single calls judge these rows. That is
harmless, since both carry the same body, and what was refused was not applied.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from delivery.stopping import Stop
from iterable_api.answers import Answer, Repeat, too_large
from iterable_api.bulk_answers import calls_of
from iterable_api.payloads import bulk_body, new_fields_rule
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

# Batches in flight: enough for 5 a second, if the two requests of each take no more than 1.6 s.
MOST_BATCHES = 8
# The most that a request may hold, as sent. Iterable says "4 MB"; this is the smaller reading.
MAX_BYTES = 4_000_000
_RULE_BYTES = len(new_fields_rule(create=False))
_AROUND_BYTES = len(bulk_body("events", [])) + _RULE_BYTES
_COMMA_BYTES = 1

# Rows that are sent together: one in per-user mode, up to a thousand in bulk mode.
Batch = Sequence[PreparedRow]


class BatchLimit:
    """The number of ``rows`` that a batch may have; may be shared by threads."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def too_large(self, rows: int) -> None:
        """Lower it to half of a batch that Iterable has found too large."""
        self.rows = max(1, min(self.rows, rows // 2))


def packed(rows: Iterable[PreparedRow], limit: BatchLimit) -> Iterator[Batch]:
    """Yield *rows* in batches, in their order: each fits into a request, its users and its events.

    A row that is too large for any request goes alone: it is for Iterable to refuse it.
    """
    batch: list[PreparedRow] = []
    size = _AROUND_BYTES
    for row in rows:
        row_size = max(len(row.user), len(row.event)) + _COMMA_BYTES + _RULE_BYTES
        if batch and size + row_size > MAX_BYTES:
            yield batch
            batch, size = [], _AROUND_BYTES
        batch.append(row)
        size += row_size
        if len(batch) >= limit.rows:
            yield batch
            batch, size = [], _AROUND_BYTES
    if batch:
        yield batch


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


def not_sent(rows: Iterable[PreparedRow]) -> list[RowOutcome]:
    """Return the outcomes of rows whose calls were not made."""
    return [OpenRow(row).outcome(NOT_SENT) for row in rows]


class BulkDelivery:
    """Delivers batches of rows; may be shared by threads."""

    def __init__(self, client: IterableClient, stop: Stop, limit: BatchLimit) -> None:
        self._client = client
        self._stop = stop
        self._limit = limit

    def process(self, batch: Batch) -> tuple[list[RowOutcome], list[OpenRow]]:
        """Make the calls of *batch* that are to be made; return outcomes, and the open rows."""
        left: list[OpenRow] = []
        users = [row for row in batch if row.send_user]
        calls = {id(row): call for row, call in self._send("users", users, left)}
        calls |= {id(row): row.users_update for row in batch if row.users_update}
        # In their order: the first value of a new field decides its type.
        rows = [row._replace(users_update=calls[id(row)]) for row in batch if id(row) in calls]
        outcomes = not_sent(row for row in rows if not _wants_event(row))
        for row, call in self._send("events", list(filter(_wants_event, rows)), left):
            outcomes.append(OpenRow(row).outcome(call))
        return outcomes, left

    def _send(
        self, name: str, rows: Batch, left: list[OpenRow]
    ) -> Iterator[tuple[PreparedRow, CallOutcome]]:
        """Send the "users" or the "events" of *rows*; yield the outcomes, add open rows to *left*.

        In parts, if Iterable finds them too large.
        """
        send = self._client.update_users if name == "users" else self._client.track_events
        for part in packed(rows, self._limit):
            if self._stop.requested:
                yield from ((row, NOT_SENT) for row in part)
                continue
            bodies = [row.user if name == "users" else row.event for row in part]
            answer = send(bodies)
            if len(part) > 1 and too_large(answer.outcome):
                self._limit.too_large(len(part))
                yield from self._send(name, part, left)
                continue
            calls, open_statuses = self._read(name, part, bodies, answer)
            for row, call in zip(part, calls, strict=True):
                if call.status in open_statuses:
                    left.append(OpenRow(row, call))
                else:
                    yield row, call

    def _read(
        self, name: str, rows: Batch, bodies: Sequence[bytes], answer: Answer
    ) -> tuple[Sequence[CallOutcome], Collection[CallStatus]]:
        """Return what *answer* says of each of *rows*, and of which statuses single calls judge."""
        call = answer.outcome
        if call.status is CallStatus.DELIVERED:
            calls = calls_of(answer, name, [row.key for row in rows], bodies)
            return calls, {CallStatus.NOT_SENT, CallStatus.UNKNOWN}
        # A single call says no more of the key, the pace or a run that is to stop.
        settled = call.key_refused or answer.repeat is Repeat.THROTTLE or self._stop.requested
        settled |= call.status is CallStatus.NOT_SENT
        if call.status in {CallStatus.REFUSED, CallStatus.FORGOTTEN}:
            # For the sake of some row; nothing was applied.
            call = NOT_SENT
        return [call] * len(rows), set() if settled else {call.status}


def _wants_event(row: PreparedRow) -> bool:
    update = row.users_update
    return row.send_event and update is not None and update.status in ARRIVED
