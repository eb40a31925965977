"""Which calls each row needs: rows become prepared rows, less what was delivered before."""

from collections.abc import Sequence
from typing import NamedTuple

from iterable_api.payloads import Payloads, RowError
from records.delivery_ledger import Change, DeliveryLedger, Held
from records.outcomes import (
    PLANNED,
    UNCHANGED,
    PreparedRow,
    Row,
    RowOutcome,
    outcome_of,
    refused_row,
)

_SAME = (Held.SAME, Held.SAME_LONG_SINCE)
# Of which something is to be noted.
_NOTED = frozenset({Held.OTHER, Held.SAME_LONG_SINCE})


class Plan(NamedTuple):
    """What is to become of some rows.

    ``outcomes`` has the rows that need no call; ``to_send`` are the others. ``change`` is what the
    ledger must forget before they are sent, and what it must mark as still needed.
    """

    outcomes: list[RowOutcome]
    to_send: list[PreparedRow]
    change: Change


class Planner:
    """Plans the rows of one run; reads the ledger, and writes nothing.

    Calls whose content Iterable already holds are left out, unless *send_all*. In a *dry_run*
    nothing is to be sent.
    """

    def __init__(
        self, payloads: Payloads, ledger: DeliveryLedger, *, send_all: bool, dry_run: bool
    ) -> None:
        self._payloads = payloads
        self._ledger = ledger
        # By what is known of a call, its outcome where it need not be made.
        self._left_out = {} if send_all else dict.fromkeys(_SAME, UNCHANGED)
        self._dry_run = dry_run

    def prepare(self, rows: Sequence[Row]) -> tuple[list[RowOutcome], list[PreparedRow]]:
        """Return the outcomes of the rows that cannot be sent, and the others, prepared."""
        outcomes: list[RowOutcome] = []
        prepared: list[PreparedRow] = []
        for row in rows:
            try:
                prepared.append(self._payloads.prepare(row))
            except RowError as error:
                outcomes.append(refused_row(row, str(error)))
        return outcomes, prepared

    def held_at(self, rows: Sequence[Row]) -> set[str]:
        """Return the endpoints, "users" and "events", of which Iterable holds a call of *rows*."""
        held = list(self._ledger.held(self.prepare(rows)[1]))
        return {
            name
            for name, place in (("users", 0), ("events", 1))
            if any(h[place] in _SAME for h in held)
        }

    def plan(self, rows: Sequence[PreparedRow]) -> Plan:
        """Return what is to become of *rows*. Raises LedgerError."""
        plan = Plan([], [], Change())
        for row, held in zip(rows, self._ledger.held(rows), strict=True):
            self._add(plan, row, *held)
        if self._dry_run:
            return Plan(plan.outcomes + [_planned(row) for row in plan.to_send], [], Change())
        return plan

    def _add(self, plan: Plan, row: PreparedRow, profile: Held, event: Held) -> None:
        """Add *row* to *plan*: the calls that are to be made, and what they make untrue."""
        update = row.users_update or self._left_out.get(profile)
        track = row.events_track or self._left_out.get(event)
        if update and track:
            plan.outcomes.append(outcome_of(row, update, track))
        elif update or track:
            plan.to_send.append(row._replace(users_update=update, events_track=track))
        else:
            plan.to_send.append(row)
        change = plan.change
        if profile in _NOTED and not row.users_update:
            self._note(row, profile, change.profiles_to_forget, change.profiles_to_mark)
        if event in _NOTED and not row.events_track:
            self._note(row, event, change.events_to_forget, change.events_to_mark)

    def _note(
        self, row: PreparedRow, held: Held, forget: list[PreparedRow], mark: list[PreparedRow]
    ) -> None:
        """Note what sending a call makes untrue, or that it is left out and still needed."""
        if held is Held.OTHER:
            forget.append(row)
        elif held in self._left_out:
            mark.append(row)


def _planned(row: PreparedRow) -> RowOutcome:
    return outcome_of(row, row.users_update or PLANNED, row.events_track or PLANNED)
