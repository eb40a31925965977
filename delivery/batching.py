"""How large the requests are: rows are packed into batches that fill them to the brim."""

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from iterable_api.payloads import bulk_body, new_fields_rule
from records.outcomes import PreparedRow

# Rows that are sent together: one in per-user mode, up to a thousand in bulk mode.
Batch = Sequence[PreparedRow]

# The most that a request may hold, as sent. Iterable says "4 MB"; this is the smaller reading.
MAX_BYTES = 4_000_000
_RULE_BYTES = len(new_fields_rule(create=False))
_AROUND_BYTES = len(bulk_body("events", [])) + _RULE_BYTES
_COMMA_BYTES = 1

T = TypeVar("T")


class BatchLimits:
    """At most so many rows and bytes in one request; may be shared by threads.

    Iterable may draw the line elsewhere. What it has found too large is not tried again.
    """

    def __init__(self, rows: int, body_bytes: int = MAX_BYTES) -> None:
        self.rows = rows
        self.body_bytes = body_bytes
        self._changing = threading.Lock()

    def too_large(self, rows: int, body_bytes: int) -> None:
        """Lower a limit to half of a request that Iterable has found too large.

        Iterable does not say what there was too much of. Taken is the limit that the request had
        used up further: small rows need not go in small batches because large ones must.
        """
        with self._changing:
            if rows / self.rows >= body_bytes / self.body_bytes:
                self.rows = max(1, min(self.rows, rows // 2))
            else:
                # Each half is a request, with what stands around its rows.
                self.body_bytes = min(self.body_bytes, body_bytes // 2 + _AROUND_BYTES)


class Packer:
    """Packs a stream of rows into batches; the users and the events of each fit into one request.

    A row that is too large for any request goes alone: it is for Iterable to refuse it.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._rows: list[PreparedRow] = []
        self._users_bytes = self._events_bytes = _AROUND_BYTES

    def add(self, row: PreparedRow) -> Batch | None:
        """Take *row*; return a batch when one is full, by now or because *row* has no room in it.

        Each row is in the batch that is returned or in a later one.
        """
        users_bytes = len(row.user) + _COMMA_BYTES if row.send_user else 0
        events_bytes = len(row.event) + _COMMA_BYTES + _RULE_BYTES if row.send_event else 0
        most = self._limits.body_bytes
        full = None
        if self._users_bytes + users_bytes > most or self._events_bytes + events_bytes > most:
            full = self.flush()
        self._rows.append(row)
        self._users_bytes += users_bytes
        self._events_bytes += events_bytes
        if full is None and len(self._rows) >= self._limits.rows:
            return self.flush()
        return full

    def flush(self) -> Batch | None:
        """Return the rows that are left, None if there are none."""
        rows, self._rows = self._rows, []
        self._users_bytes = self._events_bytes = _AROUND_BYTES
        return rows or None


def packed(rows: Iterable[PreparedRow], limits: BatchLimits) -> Iterator[Batch]:
    """Yield *rows* in as few batches as they fit into, in their order."""
    packer = Packer(limits)
    for row in rows:
        if batch := packer.add(row):
            yield batch
    if batch := packer.flush():
        yield batch


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield *items* in lists of *size*, the last one shorter."""
    remaining = iter(items)
    while group := list(itertools.islice(remaining, size)):
        yield group
