"""Which calls each row needs: rows become prepared rows, less what was delivered before."""

from collections.abc import Sequence
from typing import NamedTuple

from iterable_api.payloads import Payloads, RowError
from records.delivery_ledger import Delivered, DeliveryLedger, Replaced
from records.outcomes import PLANNED, UNCHANGED, PreparedRow, Row, RowOutcome, refused_row


class Plan(NamedTuple):
    """What is to become of some rows.

    ``outcomes`` has the rows that need no call, or cannot be sent. ``to_send`` are the others;
    sending them makes what the ledger knows of ``replaced`` untrue.
    """

    outcomes: list[RowOutcome]
    to_send: list[PreparedRow]
    replaced: list[Replaced]


class Planner:
    """Plans the rows of one run; reads the ledger, and writes nothing.

    With *changed_only* the calls whose content was delivered before are left out. In a *dry_run*
    nothing is to be sent.
    """

    def __init__(
        self, payloads: Payloads, ledger: DeliveryLedger, *, changed_only: bool, dry_run: bool
    ) -> None:
        self._payloads = payloads
        self._ledger = ledger
        self._changed_only = changed_only
        self._dry_run = dry_run

    def plan(self, rows: Sequence[Row]) -> Plan:
        """Return what is to become of *rows*. Raises LedgerError."""
        outcomes: list[RowOutcome] = []
        prepared: list[PreparedRow] = []
        for row in rows:
            try:
                prepared.append(self._payloads.prepare(row))
            except RowError as error:
                outcomes.append(refused_row(row, str(error)))
        known = self._ledger.delivered(row.customer for row in prepared)
        if self._changed_only:
            prepared = [_less_delivered(row, known.get(row.customer)) for row in prepared]
            outcomes += [_unchanged(row) for row in prepared if not _needs_a_call(row)]
            prepared = [row for row in prepared if _needs_a_call(row)]
        if self._dry_run:
            return Plan(outcomes + [_planned(row) for row in prepared], [], [])
        replaced = [
            _replaced(row, known[row.customer]) for row in prepared if row.customer in known
        ]
        return Plan(outcomes, prepared, [each for each in replaced if each.profile or each.event])


def _less_delivered(row: PreparedRow, known: Delivered | None) -> PreparedRow:
    """Return *row* without the calls whose content is *known* to be delivered."""
    if known is None:
        return row
    return row._replace(
        send_user=known.profile != row.user_hash, send_event=known.event != row.event_hash
    )


def _needs_a_call(row: PreparedRow) -> bool:
    return row.send_user or row.send_event


def _replaced(row: PreparedRow, known: Delivered) -> Replaced:
    """Return what of the *known* content is replaced when *row* is sent."""
    return Replaced(
        row.customer,
        profile=row.send_user and known.profile not in {None, row.user_hash},
        event=row.send_event and known.event not in {None, row.event_hash},
    )


def _unchanged(row: PreparedRow) -> RowOutcome:
    return RowOutcome(row.customer_id, row.email, UNCHANGED, UNCHANGED, row)


def _planned(row: PreparedRow) -> RowOutcome:
    update = PLANNED if row.send_user else UNCHANGED
    track = PLANNED if row.send_event else UNCHANGED
    return RowOutcome(row.customer_id, row.email, update, track, row)
