"""Rows that come later in a run: they repeat a row before them, or their user is not found yet.

Of rows with one address the first in Query 2's order is the profile. Of rows with one event, that
is with one ``page_view_id``, customer, time and name, the first is the event: any other would
overwrite it.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from iterable_api.payloads import Payloads, RowError
from records.columns import Column, Kind
from records.outcomes import (
    ARRIVED,
    SUPERSEDED,
    CallOutcome,
    CallStatus,
    Fault,
    PreparedRow,
    RowOutcome,
)
from records.row_spool import RowSpool, SpoolError

# Bits in a map, of 8 MB, of addresses and events by their hashes. Of a million rows some sixty
# thousand share a bit with another one: they look as if they came twice, and get a closer look.
_MAP_BITS = 1 << 26
_COLUMNS = (Column("prepared row", Kind.BINARY),)


class Repeats:
    """Tells which rows have the address or the event of a row before them, in little memory.

    *numbers* are ``Payloads.suspects()`` of all rows. ``count`` is the number of rows up to now
    that repeat an address.
    """

    def __init__(self, payloads: Payloads, numbers: Iterable[tuple[int, int]] = ()) -> None:
        self.count = 0
        self._payloads = payloads
        _, self._view, self._customer = payloads.suspect_places()
        self._twice = _twice(numbers)
        # Of the suspects seen: whether the profile has arrived; the hash of the first event's body,
        # and whether it has arrived.
        self._profiles: dict[str, bool] = {}
        self._events_seen: dict[bytes, tuple[bytes, bool]] = {}

    def is_repeat(self, row: PreparedRow) -> bool:
        """Note *row*; return whether its address or its event was there before.

        Ask once for each row, in Query 2's order.
        """
        same_user = same_event = False
        user = hash(row.key)
        event = hash((row.row[self._view], row.row[self._customer]))
        if self._twice[user % _MAP_BITS >> 3] & 1 << (user & 7):
            same_user = row.key in self._profiles
            self._profiles.setdefault(row.key, False)
        if self._twice[event % _MAP_BITS >> 3] & 1 << (event & 7):
            same_event = row.event_name in self._events_seen
            self._events_seen.setdefault(row.event_name, (self._body_of(row), False))
        self.count += same_user
        return same_user or same_event

    def note(self, outcome: RowOutcome) -> None:
        """Note what Iterable has of a row."""
        row = outcome.prepared
        if row is None:
            return
        if row.key in self._profiles:
            self._profiles[row.key] = _has_arrived(outcome.users_update)
        if row.event_name in self._events_seen and outcome.events_track.fault is not Fault.ROW:
            body, arrived = self._events_seen[row.event_name]
            arrived = arrived or _has_arrived(outcome.events_track)
            self._events_seen[row.event_name] = (body, arrived)

    def presume_arrived(self, row: PreparedRow) -> None:
        """Take it that Iterable will have *row*."""
        if row.key in self._profiles:
            self._profiles[row.key] = True
        if row.event_name in self._events_seen:
            self._events_seen[row.event_name] = (self._events_seen[row.event_name][0], True)

    def must_wait(self, row: PreparedRow) -> bool:
        """Whether a repeat depends on the outcome of a row before it that has not arrived yet."""
        _, arrived = self._events_seen.get(row.event_name, (b"", True))
        return not arrived or not self._profiles.get(row.key, True)

    def less_repeated(self, row: PreparedRow) -> PreparedRow:
        """Return a repeat with the outcomes of those calls that a row before it stands for."""
        if self._profiles.get(row.key):
            row = row._replace(users_update=SUPERSEDED)
        if row.event_name not in self._events_seen:
            return row
        body, arrived = self._events_seen[row.event_name]
        if body != self._body_of(row):
            return row._replace(events_track=self._refusal(row))
        return row._replace(events_track=SUPERSEDED) if arrived else row

    def _body_of(self, row: PreparedRow) -> bytes:
        """Return the hash of the body of the event of *row*; of its values if there is none."""
        try:
            return self._payloads.complete(row).event_body
        except RowError:
            return row.event_content

    def _refusal(self, row: PreparedRow) -> CallOutcome:
        view = self._payloads.mapping.shown(row.row, "page_view_id")
        text = (
            f"page_view_id {view} came before for this customer and time: one event would "
            "overwrite the other; give each row an id of its own"
        )
        return CallOutcome(CallStatus.REFUSED, message=text, fault=Fault.ROW)


def _twice(numbers: Iterable[tuple[int, int]]) -> bytearray:
    """Return a map with the bits of those of *numbers* that came twice."""
    seen, twice = bytearray(_MAP_BITS // 8), bytearray(_MAP_BITS // 8)
    for user, event in numbers:
        place, bit = user % _MAP_BITS >> 3, 1 << (user & 7)
        if seen[place] & bit:
            twice[place] |= bit
        seen[place] |= bit
        place, bit = event % _MAP_BITS >> 3, 1 << (event & 7)
        if seen[place] & bit:
            twice[place] |= bit
        seen[place] |= bit
    return twice


def _has_arrived(call: CallOutcome) -> bool:
    return call.status in ARRIVED or call.status is CallStatus.PLANNED


class LaterRows:
    """Rows that were put aside: in a file in *folder*, because there may be many of them.

    They are taken in rounds; what is put aside during a round is taken in the next one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spools: list[RowSpool] = []
        self._failure: SpoolError | None = None
        # The rest of the round that is under way, and whether what is put aside has a file yet.
        self._round: Iterator[PreparedRow] = iter(())
        self._has_file = False

    def __len__(self) -> int:
        return len(self._spools[-1]) if self._has_file else 0

    def extend(self, rows: Sequence[PreparedRow]) -> None:
        """Put *rows* aside, which are on disk then.

        Raises SpoolError, from then on always, and has none of these *rows*.
        """
        if not rows:
            return
        if self._failure:
            raise self._failure
        length = len(self)
        try:
            if not self._has_file:
                self._spools.append(RowSpool(_COLUMNS, self._folder))
                self._has_file = True
            self._spools[-1].extend([(pickle.dumps(tuple(row)),) for row in rows])
            self._spools[-1].flush()
        except SpoolError as error:
            self._failure = error
            if self._has_file:
                self._spools[-1].cut(length)
            raise

    def next_round(self) -> Iterator[PreparedRow]:
        """Return the rows that were put aside up to now."""
        self._round = _rows_in(self._spools[-1]) if self._has_file else iter(())
        self._has_file = False
        return self._round

    def left(self) -> Iterator[PreparedRow]:
        """Yield the rest of the round that is under way, and what was put aside during it."""
        yield from self._round
        yield from self.next_round()

    def close(self) -> None:
        """Give the disk space back."""
        for spool in self._spools:
            spool.close()


def _rows_in(spool: RowSpool) -> Iterator[PreparedRow]:
    for (row,) in spool.values([0]):
        # Written above, into a file that nobody else can read.
        yield PreparedRow(*pickle.loads(row or b""))  # noqa: S301
