"""A batch of rows through the bulk endpoints: the users first, then the events of those accepted.

Only bulk endpoints are used, also for single rows: Iterable processes the two kinds separately, and
may apply them to one user in another order than they were sent.
"""

from delivery.batching import Batch, BatchLimits
from delivery.bulk_bisection import Bisection
from delivery.bulk_verdicts import Endpoint
from delivery.refusals import RefusalWatch
from delivery.stopping import Stop
from iterable_client import IterableClient
from records.outcomes import ARRIVED, NOT_SENT, CallOutcome, RowOutcome, outcome_of

# Threads: enough for 5 batches a second, if the two requests of each take no more than 1.2 s.
WORKERS = 12
# Batches that are packed and wait: each takes a megabyte or more of memory.
READY = 2


class BulkDelivery:
    """Delivers batches of rows; may be shared by threads."""

    def __init__(
        self, client: IterableClient, stop: Stop, limits: BatchLimits, refusals: RefusalWatch
    ) -> None:
        self._stop = stop
        self._limits = limits
        self._users = Endpoint("users", lambda row: row.user, client.update_users)
        self._events = Endpoint("events", lambda row: row.event, client.track_events)
        for endpoint in (self._users, self._events):
            endpoint.accepted = refusals.has_accepted(endpoint.name)

    def process(self, batch: Batch) -> list[RowOutcome]:
        """Make the calls of *batch* that are to be made; return the outcome of each row."""
        found = self._send(self._users, [row for row in batch if row.send_user])
        updates = [row.users_update or found.get(id(row), NOT_SENT) for row in batch]
        events = [
            row
            for row, update in zip(batch, updates, strict=True)
            if row.send_event and update.status in ARRIVED
        ]
        found = self._send(self._events, events)
        return [
            outcome_of(row, update, row.events_track or found.get(id(row), NOT_SENT))
            for row, update in zip(batch, updates, strict=True)
        ]

    def _send(self, endpoint: Endpoint, rows: Batch) -> dict[int, CallOutcome]:
        return Bisection(endpoint, rows, self._limits, self._stop).outcomes()
