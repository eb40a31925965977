"""Whether the project has the profile fields that a run has sent, which no single answer tells.

A project may create no new fields. Iterable then takes a profile or an event, says "Success", and
drops the fields that it does not have. So a delivery is sure only when the project is known to have
all profile fields of the run; of event fields no project tells.

What is not sure counts as held, or a project that takes no new fields would get every row again
each night. When the fields are there, it is sent once more.
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
from records.outcomes import CallStatus, PreparedRow, RowOutcome
from records.run import RunRecord

logger = get_logger(__name__)

# A field that a run has created shows in the project's list after a while.
PATIENCE_S = 10.0
INTERVAL_S = 2.0
# Under this name the ledger keeps the profile fields that the project leaves out.
LEFT_OUT = "profile fields left out"


@dataclass
class ProjectFields:
    """What is known of the project's profile fields during a run, and what follows from it.

    ``fetch`` asks for their names, and returns None if they cannot be had; ``wait`` sleeps for some
    seconds and returns True when the run is to stop. Only the thread that has made it may use it.
    """

    run: RunRecord
    ledger: DeliveryLedger
    fetch: Callable[[], Collection[str] | None]
    wait: Callable[[float], bool]

    def __post_init__(self) -> None:
        # The fields that the project is known to have.
        self._known: set[str] = set()
        # The profile fields of all rows of which something was delivered.
        self._needed: set[str] = set()
        # What was left out up to the last run.
        self._left_out = set(json.loads(self.ledger.noted(LEFT_OUT) or "[]"))
        # What rows that count as held may lack in Iterable.
        self._lacking: set[str] = set()
        # Whether deliveries of this run are not sure yet, and when to look for their fields next.
        self._unsettled = False
        self._look_s = 0.0

    def know(self, fields: Collection[str] | None) -> None:
        """Note the *fields* that the project has; None if they cannot be had."""
        if fields is not None:
            self._known = set(fields)

    def may_be_sent_again(self, row: PreparedRow) -> bool:
        """Whether the project now has all fields of *row*, of which Iterable may hold only some."""
        # With those of other rows: then its event may be there as a whole too.
        needed = self._left_out | _fields_of(row)
        self._lacking |= needed - self._known
        return needed <= self._known

    def add(self, outcomes: Iterable[RowOutcome]) -> bool:
        """Note the profile fields of the rows of which something was delivered now.

        Return whether the project is known to have all that this run has delivered. Raises
        LedgerError.
        """
        for outcome in outcomes:
            statuses = {outcome.users_update.status, outcome.events_track.status}
            if outcome.prepared and CallStatus.DELIVERED in statuses:
                self._needed |= _fields_of(outcome.prepared)
        is_sure = self._is_sure()
        if not is_sure and time.monotonic() >= self._look_s:
            # In another thread, as the rows go on: if the run is killed, what it has delivered up
            # to then is sure.
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
        """Settle what is sure of this run, and tell the run which fields the project leaves out.

        If not *patient*, the project is not asked. Raises LedgerError.
        """
        told = self._is_sure() or (patient and self._look_patiently())
        if not self._is_sure():
            self.ledger.settle(sure=False)
        if told:
            self._tell()
        elif patient:
            self._lacking |= self._needed
        if (lacking := self._lacking - self._known) and not self.run.filtered_fields:
            text = (
                "Some rows count as delivered, perhaps without these fields: %s. The project may "
                "not have them, see --check. Once it has, a later run sends the rows again"
            )
            logger.warning(text, ", ".join(sorted(lacking)))

    def _look_patiently(self) -> bool:
        """Ask for the fields until all are there, for a while; return whether the project told.

        It did not if the run is to stop first.
        """
        for look in range(1 + int(PATIENCE_S / INTERVAL_S)):
            if look and self.wait(INTERVAL_S):
                return False
            fields = self.fetch()
            if fields is None:
                return False
            self.know(fields)
            # What was left out before is not waited for.
            if self._needed - self._known <= self._left_out:
                break
        return True

    def _tell(self) -> None:
        """Tell the run what the project leaves out; as news if that is not what it was before."""
        if missing := self._needed - self._known:
            self.run.filter_out("users_update", missing)
        now = (self._left_out | missing) - self._known
        if now != self._left_out:
            self.run.tell(f"Iterable now ignores {', '.join(sorted(now)) or 'no fields'}")
            self.ledger.note(LEFT_OUT, json.dumps(sorted(now)))


def _fields_of(row: PreparedRow) -> set[str]:
    """Return the names of the profile fields of *row*, which has its bodies."""
    return set(_names_in(json.loads(row.profile.body)["dataFields"]))


def _names_in(fields: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of *fields* as a project lists them: what is in an object after a dot."""
    for name, value in fields.items():
        # A null makes no field in any project, nor an array with nothing else in it.
        if value not in (None, [], [None]):
            yield prefix + name
        if isinstance(value, dict):
            yield from _names_in(value, f"{prefix}{name}.")
