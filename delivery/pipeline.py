"""The way of the rows: planned in groups, sent in batches, and their outcomes as they come."""

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

from delivery.planner import Plan, Planner
from delivery.recorder import Recorder
from delivery.worker_pool import WorkerPool
from records.outcomes import NOT_SENT, Row, RowOutcome

# Rows that are planned together, if a batch is not larger. Planning more at a time would hold up
# the workers, whose requests are due every two milliseconds.
GROUP_ROWS = 16

T = TypeVar("T")


def deliver(
    rows: Iterable[Row], planner: Planner, recorder: Recorder, pool: WorkerPool
) -> Iterator[list[RowOutcome]]:
    """Yield one outcome for each of *rows*, in lists, as they come.

    Once the run is to stop, or the ledger fails, the remaining rows are ``not_attempted``. An
    exception out of *pool* is raised when every row has its outcome.
    """
    with pool:
        for group in in_groups(rows, max(pool.batch_size, GROUP_ROWS)):
            plan = Plan([not_attempted(row) for row in group], [], [])
            if not pool.stopped:
                with recorder.stopping_on_failure():
                    made = planner.plan(group)
                    recorder.before_sending(made)
                    plan = made
            if plan.outcomes:
                yield plan.outcomes
            for batch in in_groups(plan.to_send, pool.batch_size):
                yield from pool.send(batch)
        yield from pool.finish()


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield *items* in lists of *size*, the last one shorter."""
    remaining = iter(items)
    while group := list(itertools.islice(remaining, size)):
        yield group


def not_attempted(row: Row) -> RowOutcome:
    """Return the outcome of a row that the run did not come to."""
    return RowOutcome(row["customer_id"], row["email"], NOT_SENT, NOT_SENT, attempted=False)
