"""What to send: rows become tasks, less what Iterable already holds and what cannot be sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from iterable_api.payloads import Payloads, RowError
from records.delivery_ledger import DeliveryLedger
from records.outcomes import PLANNED, UNCHANGED, Row, RowOutcome, Task, refused_row


class Plan(NamedTuple):
    """The rows that are settled already, and the tasks that are to be sent."""

    settled: list[RowOutcome]
    tasks: list[Task]


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans the rows of one run.

    With ``changed_only`` the calls that ``ledger`` knows as delivered are left out; with
    ``dry_run`` nothing is to be sent, and nothing in the ledger changes.
    """

    payloads: Payloads
    ledger: DeliveryLedger
    changed_only: bool = False
    dry_run: bool = False

    def plan(self, rows: Sequence[Row]) -> Plan:
        """Return what becomes of *rows*."""
        settled, tasks = [], []
        for row in rows:
            try:
                tasks.append(self.payloads.task(row))
            except RowError as error:
                settled.append(refused_row(row, str(error)))
        if self.changed_only:
            tasks = self.ledger.unchanged(tasks)
            settled += [_unchanged(t) for t in tasks if not (t.send_user or t.send_event)]
            tasks = [task for task in tasks if task.send_user or task.send_event]
        if self.dry_run:
            return Plan(settled + [_planned(task) for task in tasks], [])
        self.ledger.forget_before_sending(tasks)
        return Plan(settled, tasks)


def _unchanged(task: Task) -> RowOutcome:
    return RowOutcome(task.customer_id, task.email, UNCHANGED, UNCHANGED, task)


def _planned(task: Task) -> RowOutcome:
    update = PLANNED if task.send_user else UNCHANGED
    track = PLANNED if task.send_event else UNCHANGED
    return RowOutcome(task.customer_id, task.email, update, track, task)
