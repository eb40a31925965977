"""Rows in batches: the users of a batch in one request, then the events of those accepted.

If the answer to a batch does not say what became of a row, a single call sends the row again. That
is harmless: it has the same body, and Iterable has not applied what it refused.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from delivery.stopping import Stop
from iterable_api.answers import Answer, Repeat, too_large
from iterable_api.bulk_answers import calls_of
from iterable_api.payloads import bulk_body, new_fields_rule
from iterable_client import IterableClient
from records.outcomes import EVENT, NOT_SENT, PROFILE, CallOutcome, CallStatus, PreparedRow

# Largest request body. Iterable accepts 4 MB; with half of that, the batches in flight take at most
# about 50 MB of memory.
MAX_BYTES = 2_000_000
_RULE_BYTES = len(new_fields_rule(create=False))
_AROUND_BYTES = len(bulk_body("events", [])) + _RULE_BYTES
_NAMES = {PROFILE: "users", EVENT: "events"}

# Rows that are sent together: one without --bulk, up to a thousand with it.
Batch = Sequence[PreparedRow]


@dataclass
class BatchLimit:
    """Maximum number of ``rows`` in a batch; may be shared by threads."""

    rows: int

    def too_large(self, rows: int) -> None:
        """Lower it to half of *rows*, a batch that Iterable found too large."""
        self.rows = max(1, min(self.rows, rows // 2))


def packed(rows: Iterable[PreparedRow], limit: BatchLimit) -> Iterator[Batch]:
    """Yield *rows* in batches, in order; the users and the events of each fit into a request.

    A row that is too large for any request goes alone, so that Iterable refuses it.
    """
    batch: list[PreparedRow] = []
    size = _AROUND_BYTES
    for row in rows:
        row_size = max(len(row.profile.body), len(row.event.body)) + len(",") + _RULE_BYTES
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


@dataclass(frozen=True)
class BulkDelivery:
    """Delivers batches of rows; may be shared by threads."""

    client: IterableClient
    stop: Stop
    limit: BatchLimit

    def process(self, batch: Batch) -> Batch:
        """Make the calls of *batch* in bulk; return its rows with their outcomes.

        Rows that still have a ``next_call`` need single calls.
        """
        return self._send_all(EVENT, self._send_all(PROFILE, batch))

    def _send_all(self, kind: int, rows: Batch) -> Batch:
        """Make the next calls of *rows* that are of this *kind*, in requests that fit."""
        # In order, because the first value of a new field sets the field's type.
        to_send = [row for row in rows if (call := row.next_call) and call.kind == kind]
        sent: dict[int, PreparedRow] = {}
        for part in packed(to_send, self.limit):
            if not self.stop.requested:
                sent.update(zip(map(id, part), self._send(kind, part), strict=True))
        return [sent.get(id(row), row) for row in rows]

    def _send(self, kind: int, part: Batch) -> Batch:
        """Make the calls of *part* in one request, or in more if Iterable finds it too large."""
        bodies = [(row.profile if kind == PROFILE else row.event).body for row in part]
        send = self.client.update_users if kind == PROFILE else self.client.track_events
        answer = send(bodies)
        if len(part) > 1 and too_large(answer.outcome):
            self.limit.too_large(len(part))
            return self._send_all(kind, part)
        outcomes, open_statuses = self._read(kind, part, bodies, answer)
        return [
            row.after(outcome, final=outcome.status not in open_statuses)
            for row, outcome in zip(part, outcomes, strict=True)
        ]

    def _read(
        self, kind: int, rows: Batch, bodies: Sequence[bytes], answer: Answer
    ) -> tuple[Sequence[CallOutcome], Collection[CallStatus]]:
        """Return the outcome of each of *rows*, and the statuses that need a single call."""
        outcome = answer.outcome
        if outcome.status is CallStatus.DELIVERED:
            outcomes = calls_of(answer, _NAMES[kind], [row.key for row in rows], bodies)
            return outcomes, {CallStatus.NOT_SENT, CallStatus.UNKNOWN}
        if outcome.status in {CallStatus.REFUSED, CallStatus.FORGOTTEN}:
            # Some row was the reason; Iterable applied nothing.
            outcome = NOT_SENT
        # A single call would not succeed either if the key or the rate limit is the reason.
        settled = outcome.key_refused or answer.repeat is Repeat.THROTTLE
        return [outcome] * len(rows), set() if settled else {outcome.status}
