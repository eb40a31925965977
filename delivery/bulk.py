"""A batch of rows through the bulk endpoints: the users first, then the events of those accepted.

Only bulk endpoints are used, also for single rows: Iterable processes the two kinds separately, and
may apply them to one user in another order than they were sent.
"""

from collections.abc import Callable, Iterator, Sequence

from iterable_api.answers import Answer

from delivery.bulk_bisection import Bisection, KeyedRow
from delivery.stopping import Stop
from delivery.worker_pool import Batch
from iterable_api.payloads import bulk_body
from iterable_client import IterableClient
from records.exit_statuses import StopReason
from records.outcomes import ARRIVED, NOT_SENT, UNCHANGED, CallOutcome, RowOutcome, outcome_of

# The most that a bulk request may hold, as sent. Iterable says "4 MB"; this is the smaller reading.
MAX_BYTES = 4_000_000
# Threads: enough for 5 requests a second, even if each takes more than a second.
WORKERS = 8


class BulkDelivery:
    """Delivers batches of rows; may be shared by threads."""

    def __init__(self, client: IterableClient, stop: Stop) -> None:
        self._client = client
        self._stop = stop
        # Which of the two endpoints have taken a row in this run.
        self._taken: set[str] = set()

    def process(self, prepared_rows: Batch) -> list[RowOutcome]:
        """Deliver *prepared_rows* and return the outcome of each."""
        items = [KeyedRow(prepared.email.lower(), prepared) for prepared in prepared_rows]
        return [out for group in without_repeated_keys(items) for out in self._deliver(group)]

    def _deliver(self, items: list[KeyedRow]) -> Iterator[RowOutcome]:
        send = [item for item in items if item.row.send_user]
        updates = self._outcomes_of(
            "users", send, lambda item: item.row.user, self._client.update_users
        )
        send = [
            item
            for item in items
            if item.row.send_event and updates.get(item.key, UNCHANGED).status in ARRIVED
        ]
        tracks = self._outcomes_of(
            "events", send, lambda item: item.row.event, self._client.track_events
        )
        for key, prepared in items:
            yield outcome_of(
                prepared,
                updates.get(key, UNCHANGED),
                tracks.get(key, NOT_SENT if prepared.send_event else UNCHANGED),
            )

    def _outcomes_of(
        self,
        name: str,
        items: list[KeyedRow],
        body: Callable[[KeyedRow], bytes],
        send: Callable[[Sequence[bytes]], Answer],
    ) -> dict[str, CallOutcome]:
        """Return the outcome of each item's call, by key; NOT_SENT once the run is to stop."""
        bisection = Bisection(name, body, send, self._taken, self._stop)
        for group in within_bytes(name, items, body):
            bisection.resolve(group)
        if bisection.all_refused:
            self._stop.request(StopReason.EVERY_ROW_REFUSED, bisection.all_refused)
        return {item.key: bisection.outcomes.get(item.key, NOT_SENT) for item in items}


def without_repeated_keys(items: list[KeyedRow]) -> Iterator[list[KeyedRow]]:
    """Yield *items* in as few groups as have no key twice.

    Iterable names failures by email alone: in one batch two rows of one email could not be told
    apart.
    """
    while items:
        group: dict[str, KeyedRow] = {}
        others = [item for item in items if group.setdefault(item.key, item) is not item]
        yield list(group.values())
        items = others


def within_bytes(
    name: str, items: list[KeyedRow], body: Callable[[KeyedRow], bytes]
) -> Iterator[list[KeyedRow]]:
    """Yield *items* in groups whose request stays within ``MAX_BYTES``.

    An item that is larger goes alone: it is for Iterable to refuse it.
    """
    group: list[KeyedRow] = []
    size = len(bulk_body(name, []))
    for item in items:
        more = len(body(item)) + len(b",")
        if group and size + more > MAX_BYTES:
            yield group
            group, size = [], len(bulk_body(name, []))
        group.append(item)
        size += more
    if group:
        yield group
