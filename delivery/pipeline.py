"""The way of the rows: planned in groups, sent in batches, recorded as they come back.

Most rows go through at once. Two kinds come later. A row with the address or the event of a row
before it waits for that row's outcome, so that nothing depends on a race. And an event of a user
who was delivered a moment ago and whom Iterable does not find yet is sent again: Iterable's
documentation asks for a minute between a profile and the calls that depend on it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial

from delivery.batching import BatchLimits, Packer, in_groups
from delivery.planner import Planner
from delivery.recorder import Recorder
from delivery.repeats import LaterRows, Repeats
from delivery.worker_pool import WorkerPool, not_sent
from iterable_api.answers import user_not_found
from logger_config import get_logger
from records.columns import Row
from records.outcomes import CallStatus, PreparedRow, RowOutcome, row_not_attempted

logger = get_logger(__name__)

# Rows that are planned together, if a batch is not larger. Planning more at a time would hold up
# the workers, whose requests are due every two milliseconds. While nothing is to be sent, it holds
# up nobody.
GROUP_ROWS = 16
MOST_GROUP_ROWS = 1024
# Between a profile and the calls that depend on it.
# Source: POST /api/users/update, https://api.iterable.com/api/docs
VISIBLE_AFTER_S = 60.0


class Pipeline:
    """Delivers the rows of one run; every row gets exactly one outcome, which *recorder* is told.

    *limits* say how large a batch may be; *later* keeps the rows that come later.
    """

    def __init__(
        self,
        planner: Planner,
        pool: WorkerPool,
        recorder: Recorder,
        limits: BatchLimits,
        later: LaterRows,
    ) -> None:
        self._mapping = planner.payloads.mapping
        self._planner = planner
        self._pool = pool
        self._recorder = recorder
        self._limits = limits
        self._packer = Packer(limits)
        self._repeats = Repeats(planner.payloads)
        self._later = later
        # Of the events whose user is not found yet: how many wait, and since when.
        self._not_found = 0
        self._not_found_s = 0.0
        self._has_waited = False
        self._idle_rows = 0
        # Read, and not planned yet.
        self._chunk: list[Row] = []
        # Planned and not yet packed.
        self._planned: deque[PreparedRow] = deque()

    def deliver(self, chunks: Iterable[list[Row]], repeats: Repeats) -> None:
        """Deliver the rows in *chunks*, of which one at a time fits into memory.

        *repeats* knows which of them repeat a row before them. Once the run is to stop the
        remaining rows are ``not_attempted``. Whatever is raised on the way is raised again when
        every batch in flight has come back and is recorded.
        """
        self._repeats = repeats
        remaining = iter(chunks)
        with closing(self._later), self._pool:
            try:
                self._send_first_rows(remaining)
                self._send_later_rows()
                self._recorder.refusals.finish()
            finally:
                # After an exception there is something left.
                self._drain()
                self._record(not_sent([*(self._packer.flush() or ()), *self._planned]))
                for group in in_groups(self._later.left(), GROUP_ROWS):
                    self._record(not_sent(group))
                while some := self._next_group(remaining, MOST_GROUP_ROWS):
                    self._record(self._not_attempted(some))
        if self._pool.bugs:
            raise self._pool.bugs[0]

    def _send_first_rows(self, chunks: Iterator[list[Row]]) -> None:
        while group := self._next_group(chunks, self._group_rows()):
            if self._pool.stopped:
                self._record(self._not_attempted(group))
                continue
            with self._recording_if_it_fails(partial(self._not_attempted, group)):
                outcomes, prepared = self._planner.prepare(group)
            self._record(outcomes)
            repeated = [row for row in prepared if self._repeats.is_repeat(row)]
            if repeated:
                self._put_aside(repeated)
                ids = {id(row) for row in repeated}
                prepared = [row for row in prepared if id(row) not in ids]
            self._send(prepared)
        self._send_packed()

    def _put_aside(self, repeated: list[PreparedRow]) -> None:
        """Keep the *repeated* rows until it is their turn; they have none if the disk is full."""
        with self._recorder.stopping_on_failure():
            self._later.extend(repeated)
            return
        self._record(not_sent(repeated))

    def _send_later_rows(self) -> None:
        """Send the rows that were put aside, in rounds: some of them are put aside once more.

        A repeat is sent less what a row before it stands for. If the first row's profile did not
        arrive, the next one's is sent in its place.
        """
        self._warn_of_repeats()
        while len(self._later):
            self._wait_for_users()
            for row in self._later.next_round():
                if row.row and self._repeats.must_wait(row):
                    self._send_packed()
                if row.row:
                    self._send([self._repeats.less_repeated(row)])
                else:
                    # Planned before; only its event is left.
                    self._submit(self._packer.add(row))
            self._send_packed()

    def _warn_of_repeats(self) -> None:
        if count := self._repeats.count:
            who = "user id" if self._mapping.by_user_id else "address"
            are = "1 row repeats" if count == 1 else f"{count} rows repeat"
            text = "%s an earlier row's %s; the first row's profile is sent"
            logger.warning(text, are, who)

    def _wait_for_users(self) -> None:
        """Wait until Iterable should know the users whose events are to be sent again."""
        if not self._not_found:
            return
        wait_s = max(0.0, self._not_found_s + VISIBLE_AFTER_S - time.monotonic())
        text = "Iterable does not know %d new users yet: their events are sent again in %.0f s"
        logger.info(text, self._not_found, wait_s)
        self._recorder.stop.wait(wait_s)
        self._not_found = 0
        self._has_waited = True

    def _group_rows(self) -> int:
        """Return how many rows to plan together next."""
        self._idle_rows = 0 if self._pool.busy else min(2 * self._idle_rows + 1, MOST_GROUP_ROWS)
        return max(GROUP_ROWS, self._idle_rows, min(self._limits.rows, MOST_GROUP_ROWS))

    def _next_group(self, chunks: Iterator[list[Row]], most_rows: int) -> list[Row]:
        """Take the next rows, at most so many; none if there are no more."""
        if not self._chunk:
            self._chunk = next(chunks, [])
        group, self._chunk = self._chunk[:most_rows], self._chunk[most_rows:]
        return group

    def _send(self, rows: list[PreparedRow]) -> None:
        """Plan *rows*; record those that need no call, and hand on the others."""
        if self._pool.stopped:
            self._record(not_sent(rows))
            return
        plan = None
        with (
            self._recording_if_it_fails(partial(not_sent, rows)),
            self._recorder.stopping_on_failure(),
        ):
            made = self._planner.plan(rows)
            self._recorder.before_sending(made)
            plan = made
        if plan is None:
            self._record(not_sent(rows))
            return
        self._record(plan.outcomes)
        self._planned.extend(plan.to_send)
        while self._planned:
            self._submit(self._packer.add(self._planned.popleft()))

    def _submit(self, batch: Sequence[PreparedRow] | None) -> None:
        if not batch:
            return
        if self._pool.stopped:
            self._record(not_sent(batch))
            return
        self._pool.submit(batch)
        while self._pool.full:
            self._take()

    def _send_packed(self) -> None:
        """Send what is packed, and wait until nothing is in flight."""
        self._submit(self._packer.flush())
        self._drain()

    def _drain(self) -> None:
        while self._pool.busy:
            self._take()

    def _take(self) -> None:
        outcomes = kept = self._pool.take()
        if self._pool.left_open:
            self._recorder.fields.told_by_answers = False
        try:
            with self._recorder.stopping_on_failure():
                kept = self._less_not_found(outcomes)
            self._recorder.refusals.watch(outcomes)
        finally:
            self._record(kept)

    def _record(self, outcomes: list[RowOutcome]) -> None:
        if outcomes:
            self._note_arrivals(outcomes)
            self._recorder.add(outcomes)

    def _note_arrivals(self, outcomes: list[RowOutcome]) -> None:
        """Note what Iterable has of these rows, for the rows that come later."""
        for outcome in outcomes:
            self._repeats.note(outcome)

    def _not_attempted(self, rows: Iterable[Row]) -> list[RowOutcome]:
        """Return the outcomes of rows that the run did not come to."""
        return [row_not_attempted(self._mapping.names_of(row)) for row in rows]

    @contextmanager
    def _recording_if_it_fails(self, outcomes: Callable[[], list[RowOutcome]]) -> Iterator[None]:
        """Give some rows the outcomes of rows that were not sent, if an exception loses them."""
        try:
            yield
        except BaseException:
            self._record(outcomes())
            raise

    def _less_not_found(self, outcomes: list[RowOutcome]) -> list[RowOutcome]:
        """Put the rows aside whose event is to be sent again, once; return the others."""
        if self._has_waited:
            return outcomes
        aside = [outcome for outcome in outcomes if _is_to_be_sent_again(outcome)]
        if not aside:
            return outcomes
        # The ledger first: a row that it cannot take is not put aside, or it had two outcomes.
        self._recorder.note_profiles(aside)
        self._later.extend(
            [o.prepared._replace(users_update=o.users_update) for o in aside if o.prepared]
        )
        self._not_found += len(aside)
        self._not_found_s = time.monotonic()
        # A later row of the same address need not wait for the event.
        self._note_arrivals(aside)
        ids = {id(outcome) for outcome in aside}
        return [outcome for outcome in outcomes if id(outcome) not in ids]


def _is_to_be_sent_again(outcome: RowOutcome) -> bool:
    """Whether the event met a user that was delivered in this run and is not visible yet."""
    accepted_now = outcome.users_update.status in {CallStatus.DELIVERED, CallStatus.SUPERSEDED}
    return accepted_now and user_not_found(outcome.events_track)
