"""Takes the rows through a run: plans them in groups, sends them in batches, records outcomes.

Most rows go through in the first round. A later round takes two kinds of rows. A row that repeats
the user or the event of a row in flight waits for that row's outcome. And an event is sent again if
Iterable does not find its user, delivered a moment ago: Iterable's documentation asks for a minute
between a profile and the calls that depend on it.
"""

import pickle
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from delivery.bulk import BatchLimit, packed
from delivery.planner import AnyRow, Plan, Planner
from delivery.recorder import Recorder
from delivery.worker_pool import WorkerPool
from iterable_api.answers import user_not_found
from logger_config import get_logger
from records.columns import Column, Kind, Row
from records.outcomes import NOT_SENT, CallStatus, Delivery
from records.row_spool import RowSpool, SpoolError

logger = get_logger(__name__)

# Number of rows planned together. Meanwhile, for milliseconds, the workers have rows waiting.
GROUP_ROWS = 240
# Pause between a profile and the calls that depend on it.
# Source: POST /api/users/update, https://api.iterable.com/api/docs
VISIBLE_AFTER_S = 60.0
_COLUMNS = (Column("prepared row", Kind.BINARY),)


@dataclass
class Pipeline:
    """Delivers the rows of one run; every row gets exactly one outcome, which is recorded.

    ``limit`` limits a batch. ``folder`` is for the file with the rows of the next round.
    """

    planner: Planner
    pool: WorkerPool
    recorder: Recorder
    limit: BatchLimit
    folder: Path

    def __post_init__(self) -> None:
        self._stop = self.recorder.stop
        self._later = LaterRows(self.folder)
        self._round = 1
        # When Iterable should know the users whose events are sent again; 0 if there are none.
        self._visible_s = 0.0

    def deliver(self, chunks: Iterable[list[Row]]) -> None:
        """Deliver the rows in *chunks*, each small enough for memory.

        After a stop the remaining rows are ``not_attempted``. An unexpected exception stops the run
        too, and is raised once every row has its outcome.
        """
        with self.pool:
            self._send_round(_groups(chunks))
            self._wait_for_users()
            while len(self._later):
                self._round += 1
                self.planner.repeats.begin_round()
                self._send_round(self._later.next_round())
        self.recorder.refusals.finish()
        self._stop.raise_bug()
        if count := self.recorder.run.users_update[CallStatus.SUPERSEDED]:
            who = "user id" if self.planner.payloads.mapping.by_user_id else "address"
            are = "1 row repeats" if count == 1 else f"{count} rows repeat"
            logger.warning("%s an earlier row's %s; the first row's profile is sent", are, who)

    def _send_round(self, groups: Iterable[Sequence[AnyRow]]) -> None:
        """Send the rows in *groups* that need sending, and record all outcomes."""
        for rows in self.pool.send(packed(self._to_send(groups), self.limit)):
            done = rows
            with self.recorder.stopping_on_failure():
                self.recorder.refusals.watch(rows)
                for row in rows:
                    self.planner.repeats.note(row)
                done = self._set_aside_not_found(rows)
            self.recorder.add(done)

    def _to_send(self, groups: Iterable[Sequence[AnyRow]]) -> Iterator[Delivery]:
        """Yield the rows to send; record the others."""
        for rows in groups:
            plan = None
            if not self._stop.requested:
                with self.recorder.stopping_on_failure():
                    plan = self._plan(rows)
            self.recorder.add(plan.done if plan else list(map(self._not_attempted, rows)))
            yield from plan.to_send if plan else ()

    def _not_attempted(self, row: AnyRow) -> Delivery:
        if isinstance(row, Delivery):
            return row
        return self.planner.payloads.mapping.not_attempted(row)

    def _plan(self, rows: Sequence[AnyRow]) -> Plan:
        """Plan *rows* and update the ledger as needed before they are sent."""
        plan = self.planner.plan(rows)
        self.recorder.refusals.watch(plan.done)
        self.recorder.ledger.forget(plan.forget)
        self.recorder.ledger.renew(plan.renew)
        self._later.extend(plan.later)
        return plan

    def _set_aside_not_found(self, rows: list[Delivery]) -> list[Delivery]:
        """Keep the rows whose event is to be sent again for later; return the others."""
        again = [
            replace(row, event=replace(row.event, send=True, outcome=NOT_SENT))
            for row in rows
            if _needs_resend(row)
        ]
        if not again or self._round > 1 or self._stop.requested:
            return rows
        # The ledger first: if it fails, the row is not kept, and so gets only one outcome.
        self.recorder.note_in_ledger(again)
        self._later.extend(again)
        self._visible_s = time.monotonic() + VISIBLE_AFTER_S
        return [row for row in rows if not _needs_resend(row)]

    def _wait_for_users(self) -> None:
        """Wait until Iterable should know the users whose events are sent again."""
        if self._visible_s:
            wait_s = max(0.0, self._visible_s - time.monotonic())
            text = "Iterable does not find all new users yet: their events are sent again in %.0f s"
            logger.info(text, wait_s)
            self._stop.wait(wait_s)


@dataclass
class LaterRows:
    """Rows for the next round, in a file in ``folder`` because there may be many."""

    folder: Path
    _spool: RowSpool | None = None

    def __len__(self) -> int:
        return len(self._spool) if self._spool else 0

    def extend(self, rows: Sequence[Delivery]) -> None:
        """Add *rows*; they are on disk when this returns.

        After a SpoolError it has none of these *rows* and can take no more.
        """
        if not rows:
            return
        if self._spool is None:
            self._spool = RowSpool(_COLUMNS, self.folder)
        length = len(self._spool)
        try:
            self._spool.extend([(pickle.dumps(row),) for row in rows])
        except SpoolError:
            self._spool.cut(length)
            raise

    def next_round(self) -> Iterator[list[Delivery]]:
        """Yield the rows added up to now; rows added later are for another round."""
        spool, self._spool = self._spool, None
        if spool is not None:
            with closing(spool):
                for chunk in spool.chunks():
                    # Written above, into a file that no other user can read.
                    yield [pickle.loads(row or b"") for (row,) in chunk]  # noqa: S301


def _groups(chunks: Iterable[list[Row]]) -> Iterator[list[Row]]:
    for chunk in chunks:
        for start in range(0, len(chunk), GROUP_ROWS):
            yield chunk[start : start + GROUP_ROWS]


def _needs_resend(row: Delivery) -> bool:
    """Whether Iterable does not find the event's user, though it accepted the profile now."""
    accepted_now = row.profile.outcome.status in {CallStatus.DELIVERED, CallStatus.SUPERSEDED}
    return accepted_now and user_not_found(row.event.outcome)
