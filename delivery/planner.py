"""Which calls each row needs: rows become prepared rows, less what Iterable holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from delivery.project_fields import ProjectFields
from delivery.repeats import Repeats
from iterable_api.payloads import Payloads, RowError
from records.columns import Row
from records.delivery_ledger import EVENT, PROFILE, DeliveryLedger, EntryName, Held
from records.outcomes import (
    PLANNED,
    UNCHANGED,
    CallOutcome,
    PreparedRow,
    RowNames,
    RowOutcome,
    outcome_of,
    refused_row,
)
from records.run import RunOptions


@dataclass
class Plan:
    """What is to become of some rows, in their order.

    ``decided`` has the outcome of a row that needs no call, and of any other the row itself, with
    its bodies. ``forget`` names what the ledger must forget before they are sent; ``renew`` is what
    it must note as still needed. ``unsure_rows`` count as held, perhaps without all their fields.
    """

    decided: list[RowOutcome | PreparedRow] = field(default_factory=list)
    forget: list[EntryName] = field(default_factory=list)
    renew: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    unsure_rows: int = 0

    @property
    def outcomes(self) -> list[RowOutcome]:
        """The outcomes of the rows that need no call."""
        return [each for each in self.decided if isinstance(each, RowOutcome)]

    @property
    def to_send(self) -> list[PreparedRow]:
        """The rows that are to be sent."""
        return [each for each in self.decided if isinstance(each, PreparedRow)]


class Planner:
    """Plans the rows of one run; reads *ledger*, and writes nothing.

    Calls whose content Iterable holds are left out, unless all are asked for. In a dry run nothing
    is to be sent. *fields* knows what is not sure to be there as a whole.
    """

    def __init__(
        self,
        payloads: Payloads,
        ledger: DeliveryLedger,
        options: RunOptions,
        fields: ProjectFields,
    ) -> None:
        self.payloads = payloads
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

    def held_at(self, rows: Sequence[Row]) -> set[str]:
        """Return the endpoints, "users" and "events", of which Iterable holds a call of *rows*."""
        found = set()
        for profile, event in self._ledger.held(self.prepare(rows)[1]):
            found |= ({"users"} if profile.same else set()) | ({"events"} if event.same else set())
        return found

    def plan(self, rows: Sequence[PreparedRow]) -> Plan:
        """Return what is to become of *rows*. Raises LedgerError."""
        plan = Plan()
        for row, (profile, event) in zip(rows, self._ledger.held(rows), strict=True):
            known = self._known(plan, row, profile, event)
            plan.decided.append(known or self._decide(plan, row, profile, event))
        return Plan(plan.decided) if self._dry_run else plan

    def _known(self, plan: Plan, row: PreparedRow, profile: Held, event: Held) -> RowOutcome | None:
        """Return the outcome of *row* if it needs no call, as can be told without its bodies."""
        update = row.users_update or self._unchanged_if(profile)
        track = row.events_track or self._unchanged_if(event)
        if not (update and track):
            return None
        if profile.stale:
            plan.renew.append((row.user_content, PROFILE, row.user_name))
        if event.stale:
            plan.renew.append((row.event_content, EVENT, row.event_name))
        return outcome_of(row, update, track)

    def _unchanged_if(self, held: Held) -> CallOutcome | None:
        return UNCHANGED if held.same and held.sure and not self._send_all else None

    def _decide(
        self, plan: Plan, row: PreparedRow, profile: Held, event: Held
    ) -> RowOutcome | PreparedRow:
        """Return the outcome of *row*, or the row with the calls that are to be made."""
        try:
            whole = self.payloads.complete(row)
        except RowError as error:
            names = RowNames(row.customer_id, row.email, row.user_id)
            return refused_row(names, str(error))
        if self._holds_perhaps_not_all(whole, profile, event):
            whole = whole._replace(once_more=self._fields.may_be_sent_again(whole))
            plan.unsure_rows += not whole.once_more
        update = self._call(plan, whole, PROFILE, profile)
        track = self._call(plan, whole, EVENT, event)
        if update and track:
            return outcome_of(whole, update, track)
        whole = whole._replace(users_update=update, events_track=track)
        if self._dry_run:
            return outcome_of(whole, update or PLANNED, track or PLANNED)
        return whole

    def _holds_perhaps_not_all(self, row: PreparedRow, profile: Held, event: Held) -> bool:
        """Whether a call would be left out although not all of it is sure to be there."""
        unsure_profile = row.users_update is None and profile.same and not profile.sure
        unsure_event = row.events_track is None and event.same and not event.sure
        return not self._send_all and (unsure_profile or unsure_event)

    def _call(self, plan: Plan, row: PreparedRow, kind: int, held: Held) -> CallOutcome | None:
        """Return the outcome of a call that is not to be made; None if it is.

        Add to *plan* what that makes untrue, or shows to be needed.
        """
        known, content, name, body = (
            (row.users_update, row.user_content, row.user_name, row.user_body)
            if kind == PROFILE
            else (row.events_track, row.event_content, row.event_name, row.event_body)
        )
        if known is not None:
            return known
        same = held.body == body or held.same
        wanted = held.same and not held.sure and row.once_more
        if same and not self._send_all and not wanted:
            if held.stale or not held.same:
                plan.renew.append((content, kind, name))
            return UNCHANGED
        if held.known and not same:
            plan.forget.append((kind, name))
        return None


def length_to_send(
    limit: int, chunks: Iterable[list[Row]], planner: Planner, repeats: Repeats
) -> int:
    """Return how many rows there are up to the one with which *limit* of them need sending.

    They come in *chunks*, of which one at a time fits into memory. *planner* knows which do;
    *repeats*, made of the same rows, which of their calls are not. Those in between are a part of
    the run too, so that the first row of an address stays the first.
    """
    taken = 0
    for group in chunks:
        prepared = [
            (length, _less_repeated(row, repeats))
            for length, each in enumerate(group, taken + 1)
            for row in planner.prepare([each])[1]
        ]
        decided = planner.plan([row for _, row in prepared]).decided
        for (length, _), each in zip(prepared, decided, strict=True):
            limit -= isinstance(each, PreparedRow)
            if limit == 0:
                return length
        taken += len(group)
    return taken


def _less_repeated(row: PreparedRow, repeats: Repeats) -> PreparedRow:
    """Return *row* less what a row before it stands for, once that is delivered."""
    least = repeats.less_repeated(row) if repeats.is_repeat(row) else row
    repeats.presume_arrived(row)
    return least
