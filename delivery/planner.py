"""Which calls each row needs: rows become prepared rows, less what was delivered before."""

from collections.abc import Sequence
from typing import NamedTuple

from iterable_api.payloads import Payloads, RowError
from records.delivery_ledger import Change, DeliveryLedger, Known
from records.outcomes import (
    PLANNED,
    UNCHANGED,
    PreparedRow,
    Row,
    RowOutcome,
    outcome_of,
    refused_row,
)


class Plan(NamedTuple):
    """What is to become of some rows.

    ``outcomes`` has the rows that need no call, or cannot be sent; ``to_send`` are the others.
    ``change`` is what the ledger must forget before they are sent.
    """

    outcomes: list[RowOutcome]
    to_send: list[PreparedRow]
    change: Change


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

    def plan(self, rows: Sequence[PreparedRow]) -> Plan:
        """Return what is to become of *rows*. Raises LedgerError."""
        known = self._ledger.known(rows)
        if self._changed_only:
            rows = [_less_delivered(row, each) for row, each in zip(rows, known, strict=True)]
        outcomes = [
            outcome_of(row, row.users_update, row.events_track)
            for row in rows
            if row.users_update is not None and row.events_track is not None
        ]
        to_send = [row for row in rows if row.send_user or row.send_event]
        if self._dry_run:
            return Plan(outcomes + [_planned(row) for row in to_send], [], Change())
        return Plan(outcomes, to_send, _change(rows, known))


def _less_delivered(row: PreparedRow, known: Known) -> PreparedRow:
    """Return *row* without the calls whose content is *known* to be delivered."""
    profile, event = known
    if row.send_user and profile is not None and profile.proves(row.user_hash):
        row = row._replace(users_update=UNCHANGED)
    if row.send_event and event is not None and event.proves(row.event_hash):
        row = row._replace(events_track=UNCHANGED)
    return row


def _change(rows: Sequence[PreparedRow], known: Sequence[Known]) -> Change:
    """Return what sending *rows* makes untrue of what is *known*, and what is still needed."""
    forget_profiles, forget_events = [], []
    mark_profiles, mark_events = [], []
    for row, (profile, event) in zip(rows, known, strict=True):
        if profile is not None:
            if row.send_user and not profile.proves(row.user_hash):
                forget_profiles.append(row)
            elif profile.is_old and row.users_update == UNCHANGED:
                mark_profiles.append(row)
        if event is not None:
            if row.send_event and not event.proves(row.event_hash):
                forget_events.append(row)
            elif event.is_old and row.events_track == UNCHANGED:
                mark_events.append(row)
    return Change(forget_profiles, forget_events, mark_profiles, mark_events)


def _planned(row: PreparedRow) -> RowOutcome:
    return outcome_of(row, row.users_update or PLANNED, row.events_track or PLANNED)
