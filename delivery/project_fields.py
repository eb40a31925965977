"""Checks that the project has the profile fields that a run has sent: no single answer says so.

A project can be set to create no new fields. Iterable then accepts a profile or an event, says
"Success", and drops the fields that it does not have. So a delivery is sure only once the project
lists all profile fields of the run. Iterable lists no event fields.

A row that is not sure counts as delivered, or such a project would get every row again each night.
Once the project has the fields, the row is sent once more.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from logger_config import get_logger
from records.delivery_ledger import DeliveryLedger
from records.outcomes import CallStatus, Delivery
from records.run import RunRecord

logger = get_logger(__name__)

# A field that a run has created shows in the project's list after a while.
PATIENCE_S = 10.0
INTERVAL_S = 2.0
# The ledger keeps the profile fields that the project ignores under this name.
LEFT_OUT = "profile fields left out"


@dataclass
class ProjectFields:
    """The project's profile fields, as far as a run knows them.

    ``fetch`` asks for their names, and returns None if that fails; ``wait`` sleeps for a number of
    seconds and returns True if the run is to stop. Only the thread that created it may use it.
    """

    run: RunRecord
    ledger: DeliveryLedger
    fetch: Callable[[], Collection[str] | None]
    wait: Callable[[float], bool]

    def __post_init__(self) -> None:
        # The fields that the project is known to have.
        self._known: set[str] = set()
        # The profile fields of all rows with a delivered call.
        self._needed: set[str] = set()
        # The fields that the project ignored up to the last run.
        self._left_out = set(json.loads(self.ledger.notes.get(LEFT_OUT, "[]")))
        # Fields that rows may lack in Iterable though they count as delivered.
        self._lacking: set[str] = set()
        # Whether deliveries of this run are not sure yet, and when to ask for the fields next.
        self._unsettled = False
        self._look_s = 0.0

    def know(self, fields: Collection[str] | None) -> None:
        """Note the *fields* that the project has; None if they could not be fetched."""
        if fields is not None:
            self._known = set(fields)

    def may_be_sent_again(self, row: Delivery) -> bool:
        """Whether the project now has all fields of *row*, some of which it may have ignored."""
        # With the fields of other rows: the event's own fields may then exist as well.
        needed = self._left_out | _fields_of(row)
        self._lacking |= needed - self._known
        return needed <= self._known

    def add(self, rows: Iterable[Delivery]) -> bool:
        """Note the profile fields of the rows with a delivered call.

        Return whether the project is known to have all fields of this run. Raises LedgerError.
        """
        for row in rows:
            if CallStatus.DELIVERED in {row.profile.outcome.status, row.event.outcome.status}:
                self._needed |= _fields_of(row)
        is_sure = self._is_sure()
        if not is_sure and time.monotonic() >= self._look_s:
            # In another thread, while rows are sent: if the run is killed later, its deliveries up
            # to now are sure.
            self._look_s = math.inf
            threading.Thread(target=self._look, daemon=True).start()
        return is_sure

    def _is_sure(self) -> bool:
        """Whether the project has all needed fields; settle what was not sure before."""
        is_sure = self._needed <= self._known
        if is_sure and self._unsettled:
            self.ledger.settle(sure=True)
        self._unsettled = not is_sure
        return is_sure

    def _look(self) -> None:
        self.know(self.fetch())
        self._look_s = time.monotonic() + PATIENCE_S

    def finish(self, *, patient: bool) -> None:
        """Settle which deliveries are sure, and tell the run which fields the project ignores.

        It asks the project only if *patient*. Raises LedgerError.
        """
        told = self._is_sure() or (patient and self._look_patiently())
        if not self._is_sure():
            self.ledger.settle(sure=False)
        if told:
            self._report_ignored()
        elif patient:
            self._lacking |= self._needed
        if (lacking := self._lacking - self._known) and not self.run.filtered_fields:
            text = (
                "Some rows count as delivered, perhaps without these fields: %s. The project may "
                "not have them, see --check. Once it has them, a later run sends the rows again"
            )
            logger.warning(text, ", ".join(sorted(lacking)))

    def _look_patiently(self) -> bool:
        """Ask for the fields until all are there, for a while; return whether Iterable listed them.

        Return False also if the run is to stop first.
        """
        for look in range(1 + int(PATIENCE_S / INTERVAL_S)):
            if look and self.wait(INTERVAL_S):
                return False
            fields = self.fetch()
            if fields is None:
                return False
            self.know(fields)
            # Fields that the project ignored before are not waited for.
            if self._needed - self._known <= self._left_out:
                break
        return True

    def _report_ignored(self) -> None:
        """Tell the run which fields the project ignores; as news if that has changed."""
        if missing := self._needed - self._known:
            self.run.filtered_fields["users_update"] |= missing
        now = (self._left_out | missing) - self._known
        if now != self._left_out:
            self.run.news = f"Iterable now ignores {', '.join(sorted(now)) or 'no fields'}"
            self.ledger.note({LEFT_OUT: json.dumps(sorted(now))})


def _fields_of(row: Delivery) -> set[str]:
    """Return the names of the profile fields in the body of *row*."""
    return set(_names_in(json.loads(row.profile.body)["dataFields"]))


def _names_in(fields: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of *fields* as a project lists them, with a dot for each level of objects."""
    for name, value in fields.items():
        # No project creates a field for a null, nor for an array of nulls.
        if value not in (None, [], [None]):
            yield prefix + name
        if isinstance(value, dict):
            yield from _names_in(value, f"{prefix}{name}.")
