"""Which calls each row needs: rows become prepared rows, less what Iterable holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from delivery.project_fields import ProjectFields
from delivery.repeats import Repeats
from iterable_api.payloads import Payloads, RowError
from records.columns import Row
from records.delivery_ledger import DeliveryLedger, Held
from records.outcomes import (
    PLANNED,
    UNCHANGED,
    CallOutcome,
    PreparedRow,
    RowNames,
    RowOutcome,
    RowStatus,
    outcome_of,
    refused_row,
)
from records.run import RunOptions


@dataclass
class Plan:
    """What is to become of some rows: those that need no call, that are to be sent, and later.

    Those to be sent have their bodies. ``forget`` names what the ledger must forget before they are
    sent; ``renew`` is what it must note as still needed.
    """

    outcomes: list[RowOutcome] = field(default_factory=list)
    to_send: list[PreparedRow] = field(default_factory=list)
    later: list[PreparedRow] = field(default_factory=list)
    forget: list[bytes] = field(default_factory=list)
    renew: list[tuple[bytes, bytes]] = field(default_factory=list)


class Planner:
    """Plans the rows of one run; reads *ledger*, and writes nothing.

    Calls whose content Iterable holds are left out, unless all are asked for, and so are calls that
    repeat one before them, as *repeats* tells. In a dry run nothing is to be sent. *fields* knows
    what is not sure to be there as a whole.
    """

    def __init__(
        self,
        payloads: Payloads,
        ledger: DeliveryLedger,
        options: RunOptions,
        fields: ProjectFields,
        repeats: Repeats,
    ) -> None:
        self.payloads = payloads
        self.repeats = repeats
        self._ledger = ledger
        self._send_all = options.send_all
        self._dry_run = options.dry_run
        self._fields = fields

    def prepare(self, rows: Sequence[Row]) -> tuple[list[RowOutcome], list[PreparedRow]]:
        """Return the outcomes of the rows that cannot be sent, and the others, prepared."""
        outcomes: list[RowOutcome] = []
        prepared: list[PreparedRow] = []
        for row in rows:
            try:
                prepared.append(self.payloads.prepare(row))
            except RowError as error:
                outcomes.append(refused_row(self.payloads.mapping.names_of(row), str(error)))
        return outcomes, prepared

    def held_at(self, chunks: Iterable[list[Row]]) -> set[str]:
        """Return the endpoints, "users" and "events", of which Iterable holds a call of some row.

        The look ends with the first such profile and event, which is nearly at once on most nights.
        """
        found = {"users": False, "events": False}
        for rows in chunks:
            for profile, event in self._ledger.held(self.prepare(rows)[1]):
                found["users"] |= profile.same
                found["events"] |= event.same
            if all(found.values()):
                break
        return {name for name, is_held in found.items() if is_held}

    def plan(self, rows: Sequence[PreparedRow]) -> Plan:
        """Return what is to become of *rows*, which come in their order. Raises LedgerError."""
        plan = Plan()
        for row, (profile, event) in zip(rows, self._ledger.held(rows), strict=True):
            its_turn = self.repeats.turn_of(row)
            if its_turn is None:
                plan.later.append(row)
                continue
            known = self._known(plan, its_turn, profile, event)
            decided = known or self._decide(plan, its_turn, profile, event)
            if isinstance(decided, RowOutcome):
                self.repeats.note(decided)
                plan.outcomes.append(decided)
            else:
                plan.to_send.append(decided)
        if self._dry_run:
            plan.forget, plan.renew = [], []
        return plan

    def _known(self, plan: Plan, row: PreparedRow, profile: Held, event: Held) -> RowOutcome | None:
        """Return the outcome of *row* if it needs no call, as can be told without its bodies."""
        update = row.users_update or (UNCHANGED if profile.same and profile.sure else None)
        track = row.events_track or (UNCHANGED if event.same and event.sure else None)
        if self._send_all or not (update and track):
            return None
        if profile.stale and update is UNCHANGED:
            plan.renew.append((row.user_content, row.user_name))
        if event.stale and track is UNCHANGED:
            plan.renew.append((row.event_content, row.event_name))
        return outcome_of(row, update, track)

    def _decide(
        self, plan: Plan, row: PreparedRow, profile: Held, event: Held
    ) -> RowOutcome | PreparedRow:
        """Return the outcome of *row*, or the row with the calls that are to be made."""
        try:
            whole = self.payloads.complete(row)
        except RowError as error:
            return refused_row(RowNames(row.customer_id, row.email, row.user_id), str(error))
        calls = (whole.users_update, profile), (whole.events_track, event)
        unsure = any(call is None and held.same and not held.sure for call, held in calls)
        if unsure and not self._send_all:
            whole = whole._replace(once_more=self._fields.may_be_sent_again(whole))
            self._fields.unsure_rows += not (whole.once_more or self._dry_run)
        update = whole.users_update or self._held(plan, whole, "user", profile)
        track = whole.events_track or self._held(plan, whole, "event", event)
        if update and track:
            return outcome_of(whole, update, track)
        if self._dry_run:
            return outcome_of(whole, update or PLANNED, track or PLANNED)
        return whole._replace(users_update=update, events_track=track)

    def _held(self, plan: Plan, row: PreparedRow, call: str, held: Held) -> CallOutcome | None:
        """Return the outcome of a call that Iterable holds; None if it is to be made.

        Add to *plan* what that makes untrue, or shows to be needed.
        """
        content, name, body = (
            (row.user_content, row.user_name, row.user_body)
            if call == "user"
            else (row.event_content, row.event_name, row.event_body)
        )
        same = held.body == body or held.same
        wanted = held.same and not held.sure and row.once_more
        if same and not self._send_all and not wanted:
            if held.stale or not held.same:
                plan.renew.append((content, name))
            return UNCHANGED
        if held.known and not same:
            plan.forget.append(name)
        return None


def length_to_send(limit: int, chunks: Iterable[list[Row]], planner: Planner) -> int:
    """Return how many rows there are up to the one with which *limit* of them need sending.

    They come in *chunks*, of which one at a time fits into memory. *planner* is that of a dry run.
    Those in between are a part of the run too, so that the first row of an address stays the first.
    """
    taken = 0
    for chunk in chunks:
        while chunk:
            rows, chunk = chunk[:limit], chunk[limit:]  # noqa: PLW2901 - what is left of it
            taken += len(rows)
            outcomes = planner.plan(planner.prepare(rows)[1]).outcomes
            limit -= sum(outcome.status is RowStatus.PLANNED for outcome in outcomes)
            if not limit:
                return taken
    return taken
