"""The way of the rows: planned in groups, sent in batches, recorded as they come back.

Most rows go through at once. Two kinds come in a later round. A row with the address or the event
of a row that is under way waits for that row's outcome. And an event of a user who was delivered a
moment ago and whom Iterable does not find yet is sent again: Iterable's documentation asks for a
minute between a profile and the calls that depend on it.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from delivery.bulk import BatchLimit, not_sent, packed
from delivery.planner import Plan, Planner
from delivery.recorder import Recorder
from delivery.repeats import LaterRows
from delivery.worker_pool import WorkerPool
from iterable_api.answers import user_not_found
from logger_config import get_logger
from records.columns import Row
from records.outcomes import NOT_SENT, CallStatus, PreparedRow, RowOutcome, row_not_attempted

logger = get_logger(__name__)

# Rows that are planned together, if a batch is not larger. That takes some milliseconds, for which
# the workers have rows at hand.
GROUP_ROWS = 200
# Between a profile and the calls that depend on it.
# Source: POST /api/users/update, https://api.iterable.com/api/docs
VISIBLE_AFTER_S = 60.0


class Pipeline:
    """Delivers the rows of one run; every row gets exactly one outcome, which *recorder* is told.

    *limit* says how large a batch may be. Rows that come later are kept in *folder*.
    """

    def __init__(
        self,
        planner: Planner,
        pool: WorkerPool,
        recorder: Recorder,
        limit: BatchLimit,
        folder: Path,
    ) -> None:
        self._mapping = planner.payloads.mapping
        self._planner = planner
        self._repeats = planner.repeats
        self._pool = pool
        self._recorder = recorder
        self._stop = recorder.stop
        self._limit = limit
        self._later = LaterRows(folder)
        # Number of events that are to be sent again, and when their users should be known.
        self._not_found = 0
        self._visible_s = 0.0
        self._has_waited = False

    def deliver(self, chunks: Iterable[list[Row]]) -> None:
        """Deliver the rows in *chunks*, of which one at a time fits into memory.

        Once the run is to stop the remaining rows are ``not_attempted``. An exception that nobody
        expected stops the run too, and is raised when every row has its outcome.
        """
        with self._pool:
            self._send_round(self._first_round(chunks))
            while len(self._later):
                self._wait_for_users()
                self._repeats.begin_round()
                self._send_round(self._later.next_round())
        self._recorder.refusals.finish()
        self._stop.raise_bug()
        self._warn_of_repeats()

    def _first_round(self, chunks: Iterable[list[Row]]) -> Iterator[list[PreparedRow]]:
        """Yield the rows in groups; record those that cannot be sent or come after a stop."""
        for rows in self._groups(chunks):
            outcomes: list[RowOutcome] = []
            prepared: list[PreparedRow] = []
            if not self._stop.requested:
                with self._recorder.stopping_on_failure():
                    outcomes, prepared = self._planner.prepare(rows)
            if not (outcomes or prepared):
                outcomes = [row_not_attempted(self._mapping.names_of(row)) for row in rows]
            self._recorder.add(outcomes)
            yield prepared

    def _groups(self, chunks: Iterable[list[Row]]) -> Iterator[list[Row]]:
        most = max(GROUP_ROWS, self._limit.rows)
        for chunk in chunks:
            start = 0
            while start < len(chunk):
                # While nothing is being sent, planning holds up nobody.
                end = len(chunk) if self._pool.is_idle else start + most
                yield chunk[start:end]
                start = end

    def _send_round(self, groups: Iterable[list[PreparedRow]]) -> None:
        """Send what is to be sent of the rows in *groups*, and record what comes of it."""
        for outcomes in self._pool.send(packed(self._to_send(groups), self._limit)):
            kept = outcomes
            with self._recorder.stopping_on_failure():
                self._recorder.refusals.watch(outcomes)
                kept = self._less_not_found(outcomes)
            for outcome in kept:
                self._repeats.note(outcome)
            self._recorder.add(kept)

    def _to_send(self, groups: Iterable[list[PreparedRow]]) -> Iterator[PreparedRow]:
        for rows in groups:
            plan = None
            if not self._stop.requested:
                with self._recorder.stopping_on_failure():
                    plan = self._plan(rows)
            self._recorder.add(not_sent(rows) if plan is None else plan.outcomes)
            yield from plan.to_send if plan else ()

    def _plan(self, rows: list[PreparedRow]) -> Plan:
        """Plan *rows*, and do what must be done before they are sent."""
        plan = self._planner.plan(rows)
        self._recorder.ledger.forget(plan.forget)
        self._recorder.ledger.renew(plan.renew)
        self._later.extend(plan.later)
        return plan

    def _less_not_found(self, outcomes: list[RowOutcome]) -> list[RowOutcome]:
        """Put the rows aside whose event is to be sent again; return the others."""
        again = list(filter(_is_to_be_sent_again, outcomes))
        if not again or self._has_waited or self._stop.requested:
            return outcomes
        # The ledger first: a row that it cannot take is not put aside, or it had two outcomes.
        self._recorder.note_in_ledger([o._replace(events_track=NOT_SENT) for o in again])
        self._later.extend(
            [o.prepared._replace(users_update=o.users_update) for o in again if o.prepared]
        )
        self._not_found += len(again)
        self._visible_s = time.monotonic() + VISIBLE_AFTER_S
        # A later row of the same address need not wait for the event.
        for outcome in again:
            self._repeats.note(outcome)
        return [outcome for outcome in outcomes if not _is_to_be_sent_again(outcome)]

    def _wait_for_users(self) -> None:
        """Wait until Iterable should know the users whose events are to be sent again."""
        if self._not_found and not self._has_waited:
            wait_s = max(0.0, self._visible_s - time.monotonic())
            text = "Iterable does not know %d new users yet: their events are sent again in %.0f s"
            logger.info(text, self._not_found, wait_s)
            self._stop.wait(wait_s)
            self._has_waited = True

    def _warn_of_repeats(self) -> None:
        if count := self._recorder.run.users_update[CallStatus.SUPERSEDED]:
            who = "user id" if self._mapping.by_user_id else "address"
            are = "1 row repeats" if count == 1 else f"{count} rows repeat"
            text = "%s an earlier row's %s; the first row's profile is sent"
            logger.warning(text, are, who)


def _is_to_be_sent_again(outcome: RowOutcome) -> bool:
    """Whether the event met a user that was delivered in this run and is not visible yet."""
    accepted_now = outcome.users_update.status in {CallStatus.DELIVERED, CallStatus.SUPERSEDED}
    return accepted_now and user_not_found(outcome.events_track)
