"""Rows in batches: the users of a batch in one request, then the events of those accepted.

If the answer to a batch does not say what became of a row, a single call sends the row again. That
is harmless: it has the same body, and Iterable has not applied what it refused.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from delivery.stopping import Stop
from iterable_api.answers import Answer, Repeat, too_large
from iterable_api.bulk_answers import calls_of
from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.payloads import bulk_body, new_fields_rule
from iterable_client import IterableClient
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, Delivery, Fault

# Largest request body. Iterable accepts 4 MB; with half of that, the batches in flight take at most
# about 50 MB of memory.
MAX_BYTES = 2_000_000
_RULE_BYTES = len(new_fields_rule(create=False))
_AROUND_BYTES = len(bulk_body("events", [])) + _RULE_BYTES
_NAMES = {UPDATE_USER: "users", TRACK_EVENT: "events"}

# Rows that are sent together: one without --bulk, up to a thousand with it.
Batch = Sequence[Delivery]


@dataclass
class BatchLimit:
    """Maximum number of ``rows`` in a batch; may be shared by threads."""

    rows: int

    def too_large(self, rows: int) -> None:
        """Lower it to half of *rows*, a batch that Iterable found too large."""
        self.rows = max(1, min(self.rows, rows // 2))


def packed(rows: Iterable[Delivery], limit: BatchLimit) -> Iterator[Batch]:
    """Yield *rows* in batches, in order; the users and the events of each fit into a request.

    A row that is too large for any request goes alone, so that Iterable refuses it.
    """
    batch: list[Delivery] = []
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

    def process(self, batch: Batch) -> None:
        """Make the calls of *batch* in bulk; rows with a ``next_call`` left need single ones."""
        self._send_all(UPDATE_USER, batch)
        self._send_all(TRACK_EVENT, batch)

    def _send_all(self, path: str, rows: Batch) -> None:
        """Make the next calls of *rows* that are for *path*, in requests that fit."""
        # In order, because the first value of a new field sets the field's type.
        to_send = [row for row in rows if (call := row.next_call) and call.path == path]
        for part in packed(to_send, self.limit):
            if not self.stop.requested:
                self._send(path, part)

    def _send(self, path: str, part: Batch) -> None:
        """Make the calls of *part* in one request, or in more if Iterable finds it too large."""
        calls = [row.profile if path == UPDATE_USER else row.event for row in part]
        bodies = [call.body for call in calls]
        send = self.client.update_users if path == UPDATE_USER else self.client.track_events
        answer = send(bodies)
        if len(part) > 1 and too_large(answer.outcome):
            self.limit.too_large(len(part))
            self._send_all(path, part)
            return
        outcomes, open_statuses = self._read(path, [row.key for row in part], bodies, answer)
        for call, outcome in zip(calls, outcomes, strict=True):
            call.outcome = outcome
            call.send = outcome.status in open_statuses

    def _read(
        self, path: str, keys: Sequence[str], bodies: Sequence[bytes], answer: Answer
    ) -> tuple[Sequence[CallOutcome], Collection[CallStatus]]:
        """Return the outcome of each row, and the statuses that need a single call."""
        outcome = answer.outcome
        if outcome.status is CallStatus.DELIVERED:
            outcomes = calls_of(answer, _NAMES[path], keys, bodies)
            return outcomes, {CallStatus.NOT_SENT, CallStatus.UNKNOWN}
        if outcome.status in {CallStatus.REFUSED, CallStatus.FORGOTTEN}:
            # Some row was the reason; Iterable applied nothing.
            outcome = NOT_SENT
        # A single call would not succeed either if the key or the rate limit is the reason.
        settled = outcome.fault is Fault.KEY or answer.repeat is Repeat.THROTTLE
        return [outcome] * len(keys), set() if settled else {outcome.status}
