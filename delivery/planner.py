"""Decides which calls each row needs: those whose content Iterable does not hold yet.

If rows share a user, the first one in Query 2's order gives the profile. If rows share an event
(``page_view_id``, customer, time and name), the first one gives the event: others would overwrite
it. A row that depends on the outcome of an earlier row waits for it, so that no race decides.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from delivery.project_fields import ProjectFields
from iterable_api.payloads import Payloads, RowError
from records.columns import Row
from records.delivery_ledger import HELD, DeliveryLedger, Held
from records.outcomes import (
    ARRIVED,
    PLANNED,
    SUPERSEDED,
    UNCHANGED,
    Call,
    CallOutcome,
    CallStatus,
    Delivery,
    Fault,
    RowStatus,
)
from records.run import RunOptions

# A row as it was read, or one that was prepared in an earlier round.
AnyRow = Row | Delivery
# Number of bits in the map of hashes of users and events; it takes 16 MB while rows are read. Of a
# million rows, about fifteen thousand share a bit with an earlier row and get a closer look.
_MAP_BITS = 1 << 27
# Stands in for the number of a round.
_ARRIVED = -1
_OVERWRITES = (
    "an earlier row has the same page_view_id (%s), customer and time, so one event would "
    "overwrite the other; give each row its own page_view_id"
)


def find_suspects(rows: Iterable[Row], payloads: Payloads, suspects: set[int]) -> Iterator[Row]:
    """Yield *rows* as they are; add to *suspects* what may repeat an earlier row.

    *suspects* are numbers of users and events, as *payloads* computes them.
    """
    seen = bytearray(_MAP_BITS // 8)
    user_number, event_number = payloads.user_number, payloads.event_number
    for row in rows:
        for number in (user_number(row), event_number(row)):
            place, bit = number % _MAP_BITS >> 3, 1 << (number & 7)
            if seen[place] & bit:
                suspects.add(number)
            else:
                seen[place] |= bit
        yield row


class Repeats:
    """Finds the calls of a row that an earlier row makes already, in little memory.

    *suspects* has what ``find_suspects()`` found in all rows; by default no row repeats another.
    """

    def __init__(self, payloads: Payloads, suspects: Collection[int] = ()) -> None:
        self._payloads = payloads
        self._suspects = suspects
        self._round = 1
        # For profiles and events that may repeat, by their names in the ledger: the last round in
        # which a row sent it or waited for it; _ARRIVED if Iterable has it.
        self._rounds: dict[bytes, int] = {}
        # The hash of what the first row sends, by the name of the event.
        self._contents: dict[bytes, bytes] = {}

    def begin_round(self) -> None:
        """Give the rows that had to wait their turn."""
        self._round += 1

    def must_wait(self, row: Delivery) -> bool:
        """Settle the calls of *row* that an earlier row makes for it.

        Return True if they are not known yet, so that it must wait for the next round. Call it once
        for each row of a round, in order.
        """
        profile, event = row.profile, row.event
        if values := row.values:
            is_user = hash(row.key) in self._suspects
            is_event = event.send and self._payloads.event_number(values) in self._suspects
            if not (is_user or is_event):
                return False
            if is_user:
                self._rounds.setdefault(profile.name, 0)
            if is_event:
                self._rounds.setdefault(event.name, 0)
                self._contents.setdefault(event.name, event.content)
        names = (profile.name, event.name)
        missing = [name for name in names if self._rounds.get(name, _ARRIVED) != _ARRIVED]
        must_wait = any(self._rounds[name] == self._round for name in missing)
        self._rounds.update(dict.fromkeys(missing, self._round))
        if not must_wait:
            self._settle_repeats(row)
        return must_wait

    def _settle_repeats(self, row: Delivery) -> None:
        profile, event = row.profile, row.event
        if profile.send and self._rounds.get(profile.name) == _ARRIVED:
            profile.settle(SUPERSEDED)
        if self._contents.get(event.name, event.content) != event.content:
            text = _OVERWRITES % self._payloads.mapping.shown(row.values, "page_view_id")
            event.settle(CallOutcome(CallStatus.REFUSED, message=text, fault=Fault.ROW))
        elif self._rounds.get(event.name) == _ARRIVED:
            event.settle(SUPERSEDED)

    def note(self, row: Delivery) -> None:
        """Note which calls of *row* Iterable has accepted."""
        for call in (row.profile, row.event) if self._rounds else ():
            has_arrived = call.outcome.status in ARRIVED or call.outcome is PLANNED
            if has_arrived and call.name in self._rounds:
                self._rounds[call.name] = _ARRIVED


@dataclass
class Plan:
    """The decisions on some rows: which are done without a call, to be sent, or to wait.

    Rows in ``to_send`` have their bodies. The ledger must delete the entries of the calls in
    ``forget`` before these are sent, and note those in ``renew`` as still needed.
    """

    done: list[Delivery] = field(default_factory=list)
    to_send: list[Delivery] = field(default_factory=list)
    later: list[Delivery] = field(default_factory=list)
    forget: list[Call] = field(default_factory=list)
    renew: list[Call] = field(default_factory=list)


@dataclass
class Planner:
    """Plans the rows of one run; reads the ledger, and writes nothing.

    It leaves out calls whose content Iterable holds, unless the run sends all, and calls that an
    earlier row makes, as ``repeats`` finds. In a dry run it plans nothing to send.
    """

    payloads: Payloads
    ledger: DeliveryLedger
    options: RunOptions
    fields: ProjectFields
    repeats: Repeats

    def plan(self, rows: Sequence[AnyRow]) -> Plan:
        """Return the plan for *rows*, which must come in order. Raises LedgerError."""
        plan = Plan()
        prepared = list(self._prepared(plan, rows))
        for row, held in zip(prepared, self.ledger.held(prepared), strict=True):
            if self.repeats.must_wait(row):
                plan.later.append(row)
                continue
            self._decide(plan, row, *held)
            if row.next_call:
                plan.to_send.append(row)
            else:
                self.repeats.note(row)
                plan.done.append(row)
        if self.options.dry_run:
            plan.forget, plan.renew = [], []
        return plan

    def _prepared(self, plan: Plan, rows: Iterable[AnyRow]) -> Iterator[Delivery]:
        """Yield *rows* prepared; those that cannot be sent are done in *plan*."""
        for row in rows:
            if isinstance(row, Delivery):
                yield row
                continue
            try:
                yield self.payloads.prepare(row)
            except RowError as error:
                plan.done.append(self.payloads.mapping.not_attempted(row).refuse(str(error)))

    def _decide(self, plan: Plan, row: Delivery, profile: Held, event: Held) -> None:
        """Settle the calls of *row* that need not be made."""
        send_all = self.options.send_all
        # The usual case: most rows are unchanged.
        if profile is event is HELD and row.profile.send and row.event.send and not send_all:
            row.profile.settle(UNCHANGED)
            row.event.settle(UNCHANGED)
            return
        calls = (row.profile, profile), (row.event, event)
        if any(call.send and (send_all or not (held.same and held.sure)) for call, held in calls):
            try:
                self.payloads.complete(row)
            except RowError as error:
                row.refuse(str(error))
        for call, held in calls:
            if call.send and self._is_needless(plan, row, call, held):
                call.settle(UNCHANGED)
            elif call.send and self.options.dry_run:
                call.settle(PLANNED)

    def _is_needless(self, plan: Plan, row: Delivery, call: Call, held: Held) -> bool:
        """Whether a *call* of *row* need not be made, because Iterable has its content.

        Add to *plan* the entries that the call makes wrong, or that are still needed.
        """
        same = held.same or held.body == call.digest
        if same and not self.options.send_all:
            if held.sure or not self.fields.may_be_sent_again(row):
                if held.stale or not held.same:
                    plan.renew.append(call)
                return True
        elif held.body is not None and not same:
            plan.forget.append(call)
        return False


def length_to_send(limit: int, chunks: Iterable[list[Row]], planner: Planner) -> int:
    """Return the number of rows up to the last one of the first *limit* rows that need sending.

    The rows come in *chunks*, each small enough for memory. *planner* is that of a dry run. Rows in
    between belong to the run too, so that the first row of a user stays the first.
    """
    taken = 0
    for chunk in chunks:
        start = 0
        while start < len(chunk):
            rows = chunk[start : start + limit]
            start += len(rows)
            taken += len(rows)
            done = planner.plan(rows).done
            limit -= sum(row.status is RowStatus.PLANNED for row in done)
            if not limit:
                return taken
    return taken
