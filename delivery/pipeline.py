"""The way of the rows: planned in groups, sent in batches, recorded as they come back.

Most rows go through at once. Two kinds come in a later round. A row with the address or the event
of a row that is under way waits for that row's outcome. And an event of a user who was delivered a
moment ago and whom Iterable does not find yet is sent again: Iterable's documentation asks for a
minute between a profile and the calls that depend on it.
"""

import pickle
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from delivery.bulk import BatchLimit, packed
from delivery.planner import AnyRow, Plan, Planner
from delivery.recorder import Recorder
from delivery.worker_pool import WorkerPool
from iterable_api.answers import user_not_found
from logger_config import get_logger
from records.columns import Column, Kind, Row
from records.outcomes import (
    NOT_SENT,
    CallStatus,
    PreparedRow,
    RowOutcome,
    outcome_of,
)
from records.row_spool import RowSpool, SpoolError

logger = get_logger(__name__)

# Rows that are planned together. For the milliseconds that this takes, workers have rows at hand.
GROUP_ROWS = 240
# Between a profile and the calls that depend on it.
# Source: POST /api/users/update, https://api.iterable.com/api/docs
VISIBLE_AFTER_S = 60.0
_COLUMNS = (Column("prepared row", Kind.BINARY),)


@dataclass
class Pipeline:
    """Delivers the rows of one run; every row gets exactly one outcome, which is recorded.

    ``limit`` says how large a batch may be. Rows that come later are kept in ``folder``.
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
        # When the users should be known whose events are to be sent again; 0 if there are none.
        self._visible_s = 0.0

    def deliver(self, chunks: Iterable[list[Row]]) -> None:
        """Deliver the rows in *chunks*, of which one at a time fits into memory.

        Once the run is to stop the remaining rows are ``not_attempted``. An exception that nobody
        expected stops the run too, and is raised when every row has its outcome.
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
        """Send what is to be sent of the rows in *groups*, and record what comes of it."""
        for outcomes in self.pool.send(packed(self._to_send(groups), self.limit)):
            kept = outcomes
            with self.recorder.stopping_on_failure():
                self.recorder.refusals.watch(outcomes)
                for outcome in outcomes:
                    self.planner.repeats.note(outcome)
                kept = self._less_not_found(outcomes)
            self.recorder.add(kept)

    def _to_send(self, groups: Iterable[Sequence[AnyRow]]) -> Iterator[PreparedRow]:
        """Yield the rows that are to be sent; record the others."""
        for rows in groups:
            plan = None
            if not self._stop.requested:
                with self.recorder.stopping_on_failure():
                    plan = self._plan(rows)
            self.recorder.add(plan.outcomes if plan else list(map(self._not_sent, rows)))
            yield from plan.to_send if plan else ()

    def _not_sent(self, row: AnyRow) -> RowOutcome:
        if isinstance(row, PreparedRow):
            return outcome_of(row)
        return self.planner.payloads.mapping.not_attempted(row)

    def _plan(self, rows: Sequence[AnyRow]) -> Plan:
        """Plan *rows*, and do what must be done before they are sent."""
        plan = self.planner.plan(rows)
        self.recorder.refusals.watch(plan.outcomes)
        self.recorder.ledger.forget(plan.forget)
        self.recorder.ledger.renew(plan.renew)
        self._later.extend(plan.later)
        return plan

    def _less_not_found(self, outcomes: list[RowOutcome]) -> list[RowOutcome]:
        """Put the rows aside whose event is to be sent again; return the others."""
        again = [
            row._replace(event=row.event._replace(send=True, outcome=NOT_SENT))
            for row in (each.prepared for each in outcomes if _is_to_be_sent_again(each))
            if row
        ]
        if not again or self._round > 1 or self._stop.requested:
            return outcomes
        # The ledger first: a row that it cannot take is not put aside, or it had two outcomes.
        self.recorder.note_in_ledger(list(map(outcome_of, again)))
        self._later.extend(again)
        self._visible_s = time.monotonic() + VISIBLE_AFTER_S
        return [outcome for outcome in outcomes if not _is_to_be_sent_again(outcome)]

    def _wait_for_users(self) -> None:
        """Wait until Iterable should know the users whose events are to be sent again."""
        if self._visible_s:
            wait_s = max(0.0, self._visible_s - time.monotonic())
            text = "Iterable does not find all new users yet: their events are sent again in %.0f s"
            logger.info(text, wait_s)
            self._stop.wait(wait_s)


@dataclass
class LaterRows:
    """Rows for the next round: in a file in ``folder``, because there may be many of them."""

    folder: Path
    _spool: RowSpool | None = None

    def __len__(self) -> int:
        return len(self._spool) if self._spool else 0

    def extend(self, rows: Sequence[PreparedRow]) -> None:
        """Put *rows* aside, which are on disk then.

        Raises SpoolError and has none of these *rows*. Then it can take no more.
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

    def next_round(self) -> Iterator[list[PreparedRow]]:
        """Yield the rows that were put aside up to now; what comes then is for another round."""
        spool, self._spool = self._spool, None
        if spool is not None:
            with closing(spool):
                for chunk in spool.chunks():
                    # Written above, into a file that nobody else can read.
                    yield [pickle.loads(row or b"") for (row,) in chunk]  # noqa: S301


def _groups(chunks: Iterable[list[Row]]) -> Iterator[list[Row]]:
    for chunk in chunks:
        for start in range(0, len(chunk), GROUP_ROWS):
            yield chunk[start : start + GROUP_ROWS]


def _is_to_be_sent_again(outcome: RowOutcome) -> bool:
    """Whether the event met a user that was delivered in this run and is not visible yet."""
    accepted_now = outcome.users_update.status in {CallStatus.DELIVERED, CallStatus.SUPERSEDED}
    return accepted_now and user_not_found(outcome.events_track)
