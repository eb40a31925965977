"""A batch of rows through the bulk endpoints: the users first, then the events of those accepted.

Only bulk endpoints are used, also for single rows: Iterable processes the two kinds separately, and
may apply them to one user in another order than they were sent.
"""

from collections.abc import Callable, Iterator, Sequence

from bulk_search import Item, Search
from delivery import Parcel, Stop, StopReason
from iterable_client import Answer, IterableClient, bulk_body, encode
from outcomes import NOT_SENT, CallOutcome, CallStatus, Row, RowOutcome
from payloads import RowError

# The most that a bulk request may hold, as sent. Iterable says "4 MB"; this is the smaller reading.
MAX_BYTES = 4_000_000
# Threads: enough for 5 requests a second, even if each takes more than a second.
WORKERS = 8


class BulkDelivery:
    """Delivers parcels of rows; may be shared by threads."""

    def __init__(self, client: IterableClient, stop: Stop) -> None:
        self._client = client
        self._stop = stop
        # Which of the two endpoints have taken a row in this run.
        self._taken: set[str] = set()

    def process(self, rows: Parcel) -> list[RowOutcome]:
        """Deliver *rows* and return the outcome of each."""
        items, outcomes = [], []
        for row in rows:
            try:
                items.append(self._encode(row))
            except RowError as error:
                refused = CallOutcome(CallStatus.REFUSED, message=str(error))
                outcomes.append(RowOutcome(row["customer_id"], row["email"], refused, NOT_SENT))
        for group in without_namesakes(items):
            outcomes += self._deliver(group)
        return outcomes

    def _encode(self, row: Row) -> Item:
        user, event = self._client.payloads.user(row), self._client.payloads.event(row)
        return Item(row, user["email"].lower(), encode(user), encode(event), event["id"])

    def _deliver(self, items: list[Item]) -> Iterator[RowOutcome]:
        updates = self._settle("users", items, lambda item: item.user, self._client.update_users)
        accepted = [i for i in items if updates[i.key].status is CallStatus.DELIVERED]
        tracks = self._settle("events", accepted, lambda i: i.event, self._client.track_events)
        for item in items:
            update = updates[item.key]
            yield RowOutcome(
                item.row["customer_id"],
                item.row["email"],
                update,
                tracks.get(item.key, NOT_SENT),
                item.event_id,
                attempted=update is not NOT_SENT,
            )

    def _settle(
        self,
        name: str,
        items: list[Item],
        body: Callable[[Item], bytes],
        send: Callable[[Sequence[bytes]], Answer],
    ) -> dict[str, CallOutcome]:
        """Return the outcome of each item's call, by key; NOT_SENT once the run is to stop."""
        search = Search(name, body, send, self._taken)
        for group in within_bytes(name, items, body):
            if not search.all_refused:
                search.settle(group)
        if search.all_refused:
            self._stop.request(StopReason.EVERY_ROW_REFUSED, search.all_refused)
        return {item.key: search.outcomes.get(item.key, NOT_SENT) for item in items}


def without_namesakes(items: list[Item]) -> Iterator[list[Item]]:
    """Yield *items* in as few groups as have no key twice.

    Iterable names failures by email alone: in one batch two rows of one email could not be told
    apart.
    """
    while items:
        group: dict[str, Item] = {}
        others = [item for item in items if group.setdefault(item.key, item) is not item]
        yield list(group.values())
        items = others


def within_bytes(
    name: str, items: list[Item], body: Callable[[Item], bytes]
) -> Iterator[list[Item]]:
    """Yield *items* in groups whose request stays within ``MAX_BYTES``.

    An item that is larger goes alone: it is for Iterable to refuse it.
    """
    group: list[Item] = []
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
