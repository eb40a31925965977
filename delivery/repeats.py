"""Rows that repeat a row before them, and rows that come later in a run.

Of rows with one address the first in Query 2's order is the profile. Of rows with one event, that
is with one ``page_view_id``, customer, time and name, the first is the event: any other would
overwrite it. A row that depends on the outcome of one before it waits for that, so that nothing
depends on a race.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from iterable_api.payloads import Payloads
from records.columns import Column, Kind, Row
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

# Bits in the map of addresses and events by their hashes; it takes 16 MB while rows are read. Of a
# million rows some fifteen thousand share a bit with a row before them, and get a closer look.
_MAP_BITS = 1 << 27
# In place of a round's number.
_ARRIVED = -1
_COLUMNS = (Column("prepared row", Kind.BINARY),)


class Suspects:
    """Finds, while the rows of a run are read, which may repeat a row before them.

    ``numbers`` are those of their addresses and events, by ``Payloads``.
    """

    def __init__(self, payloads: Payloads) -> None:
        self.numbers: set[int] = set()
        self._payloads = payloads

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield *rows* as they are."""
        seen = bytearray(_MAP_BITS // 8)
        user_number, event_number = self._payloads.user_number, self._payloads.event_number
        for row in rows:
            for number in (user_number(row), event_number(row)):
                place, bit = number % _MAP_BITS >> 3, 1 << (number & 7)
                if seen[place] & bit:
                    self.numbers.add(number)
                else:
                    seen[place] |= bit
            yield row


class Repeats:
    """Tells what of a row was there before, in little memory.

    *suspects* has seen all rows. Without it no row repeats another.
    """

    def __init__(self, payloads: Payloads, suspects: Suspects | None = None) -> None:
        self._payloads = payloads
        self._suspects = suspects.numbers if suspects else set()
        self._round = 1
        # Of profiles and events that may come again, by their names in the ledger: the round in
        # which a row was the last to send it or to wait for it, or that Iterable has it.
        self._rounds: dict[bytes, int] = {}
        # By the names of these events, the hash of what the first row sends.
        self._contents: dict[bytes, bytes] = {}

    def begin_round(self) -> None:
        """Let rows that had to wait have their turn."""
        self._round += 1

    def turn_of(self, row: PreparedRow) -> PreparedRow | None:
        """Return *row* with the outcomes of calls that a row before it stands for.

        None if that is not known yet: then it must wait for the next round. Ask once for each row
        of a round, in their order.
        """
        if values := row.row:
            is_user = hash(row.key) in self._suspects
            is_event = row.send_event and self._payloads.event_number(values) in self._suspects
            if not (is_user or is_event):
                return row
            if is_user:
                self._rounds.setdefault(row.user_name, 0)
            if is_event:
                self._rounds.setdefault(row.event_name, 0)
                self._contents.setdefault(row.event_name, row.event_content)
        names = (row.user_name, row.event_name)
        missing = [name for name in names if self._rounds.get(name, _ARRIVED) != _ARRIVED]
        must_wait = any(self._rounds[name] == self._round for name in missing)
        self._rounds.update(dict.fromkeys(missing, self._round))
        return None if must_wait else self._less_repeated(row)

    def _less_repeated(self, row: PreparedRow) -> PreparedRow:
        if row.users_update is None and self._rounds.get(row.user_name) == _ARRIVED:
            row = row._replace(users_update=SUPERSEDED)
        if self._contents.get(row.event_name, row.event_content) != row.event_content:
            return row._replace(events_track=self._refusal(row))
        has_event = self._rounds.get(row.event_name) == _ARRIVED
        return row._replace(events_track=SUPERSEDED) if has_event else row

    def _refusal(self, row: PreparedRow) -> CallOutcome:
        view = self._payloads.mapping.shown(row.row, "page_view_id")
        text = (
            f"page_view_id {view} came before for this customer and time: one event would "
            "overwrite the other; give each row an id of its own"
        )
        return CallOutcome(CallStatus.REFUSED, message=text, fault=Fault.ROW)

    def note(self, outcome: RowOutcome) -> None:
        """Note what Iterable has of a row now."""
        row = outcome.prepared
        if row is None:
            return
        if row.user_name in self._rounds and _has_arrived(outcome.users_update):
            self._rounds[row.user_name] = _ARRIVED
        if row.event_name in self._rounds and _has_arrived(outcome.events_track):
            self._rounds[row.event_name] = _ARRIVED


def _has_arrived(call: CallOutcome) -> bool:
    return call.status in ARRIVED or call.status is CallStatus.PLANNED


class LaterRows:
    """Rows for the next round: in a file in *folder*, because there may be many of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spool: RowSpool | None = None

    def __len__(self) -> int:
        return 0 if self._spool is None else len(self._spool)

    def extend(self, rows: Sequence[PreparedRow]) -> None:
        """Put *rows* aside, which are on disk then.

        Raises SpoolError and has none of these *rows*. Then it can take no more.
        """
        if not rows:
            return
        if self._spool is None:
            self._spool = RowSpool(_COLUMNS, self._folder)
        length = len(self._spool)
        try:
            self._spool.extend([(pickle.dumps(row),) for row in rows])
            self._spool.flush()
        except SpoolError:
            self._spool.cut(length)
            raise

    def next_round(self) -> Iterator[list[PreparedRow]]:
        """Yield the rows that were put aside up to now; what comes then is for another round."""
        spool, self._spool = self._spool, None
        if spool is not None:
            with closing(spool):
                for chunk in spool.chunks():
                    # Written above, into a file that nobody else can read.
                    yield [pickle.loads(row or b"") for (row,) in chunk]  # noqa: S301
