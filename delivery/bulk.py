"""A batch of rows through the bulk endpoints: the users first, then the events of those accepted.

Only bulk endpoints are used, also for single rows: Iterable processes the two kinds separately, and
may apply them to one user in another order than they were sent.
"""

from collections.abc import Callable, Iterator, Sequence

from delivery.bulk_bisection import Item, Search
from delivery.stopping import Stop, StopReason
from delivery.worker_pool import Parcel
from iterable_client import Answer, IterableClient, bulk_body
from records.outcomes import HELD, NOT_SENT, UNCHANGED, CallOutcome, RowOutcome, outcome_of

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

    def process(self, tasks: Parcel) -> list[RowOutcome]:
        """Deliver *tasks* and return the outcome of each."""
        items = [Item(task.email.lower(), task) for task in tasks]
        return [out for group in without_namesakes(items) for out in self._deliver(group)]

    def _deliver(self, items: list[Item]) -> Iterator[RowOutcome]:
        send = [item for item in items if item.task.send_user]
        updates = self._settle(
            "users", send, lambda item: item.task.user, self._client.update_users
        )
        send = [
            item
            for item in items
            if item.task.send_event and updates.get(item.key, UNCHANGED).status in HELD
        ]
        tracks = self._settle(
            "events", send, lambda item: item.task.event, self._client.track_events
        )
        for key, task in items:
            yield outcome_of(
                task,
                updates.get(key, UNCHANGED),
                tracks.get(key, NOT_SENT if task.send_event else UNCHANGED),
            )

    def _settle(
        self,
        name: str,
        items: list[Item],
        body: Callable[[Item], bytes],
        send: Callable[[Sequence[bytes]], Answer],
    ) -> dict[str, CallOutcome]:
        """Return the outcome of each item's call, by key; NOT_SENT once the run is to stop."""
        search = Search(name, body, send, self._taken, self._stop)
        for group in within_bytes(name, items, body):
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
