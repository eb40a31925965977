"""Whether the project has the profile fields that a run has sent, which no single answer tells.

A project may create no new fields. Iterable then takes a profile or an event, says "Success", and
drops the fields that it does not have. So a delivery is sure only when the project is known to have
all fields that were in it. The project tells those of its profiles alone: an event is sure when
those of the run's profiles are all there.

What is not sure counts as held, or a project that takes no new fields would get every row again
each night. When the fields are there, it is sent once more.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from logger_config import get_logger
from records.delivery_ledger import DeliveryLedger
from records.outcomes import CallStatus, PreparedRow, RowOutcome
from records.run import RunRecord

logger = get_logger(__name__)

# A field that a run has created shows in the project's list after a while.
PATIENCE_S = 10.0
INTERVAL_S = 2.0
# Under this name the ledger keeps the fields that the project leaves out, by call.
LEFT_OUT = "fields left out"
_PROFILE, _EVENT = "users_update", "events_track"
_SHOWN = {_PROFILE: "profile", _EVENT: "event"}

# The names of the project's profile fields; None if they cannot be had.
Fetch = Callable[[], Collection[str] | None]


class ProjectFields:
    """What is known of the project's fields during *run*, and what follows from it.

    *fetch* asks for the fields; *wait* sleeps for some seconds and returns True when the run is to
    stop. Only the thread that has made it may use it.
    """

    def __init__(
        self, run: RunRecord, ledger: DeliveryLedger, fetch: Fetch, wait: Callable[[float], bool]
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._fetch = fetch
        self._wait = wait
        # Rows that count as held and are not sure to be there as a whole.
        self.unsure_rows = 0
        self._known: set[str] | None = None
        # The profile fields of all rows of which something was delivered, and those that were sent.
        self._needed: set[str] = set()
        self._sent: set[str] = set()
        # What was left out up to the last run, by call.
        self._left_out: dict[str, set[str]] = {_PROFILE: set(), _EVENT: set()}
        for call, names in json.loads(ledger.noted(LEFT_OUT) or "{}").items():
            self._left_out[call] = set(names)
        # Of events only the answers to batches tell.
        self._left_out_of_events = self._left_out[_EVENT] if run.options.bulk else set()
        # Whether deliveries of this run are not sure yet, and when to look for their fields next.
        self._unsettled = False
        self._look_s = 0.0
        self._pause_s = INTERVAL_S

    def know(self, fields: Collection[str] | None) -> None:
        """Note the *fields* that the project has; None if they cannot be had."""
        if fields is not None:
            self._known = set(fields)

    def may_be_sent_again(self, row: PreparedRow) -> bool:
        """Whether the project now has all fields of *row*, of which Iterable may hold only some."""
        left_out = self._left_out[_PROFILE]
        # Event fields alone nobody tells: only with new profile fields may they be there too.
        if self._known is None or (self._left_out_of_events and not left_out):
            return False
        return left_out | _fields_of(row) <= self._known

    def add(self, outcomes: Iterable[RowOutcome]) -> bool:
        """Note the profile fields of the rows of which something was delivered now.

        Return whether the project is known to have all that this run has delivered. Raises
        LedgerError.
        """
        for outcome in outcomes:
            update, track = outcome.users_update.status, outcome.events_track.status
            if outcome.prepared and CallStatus.DELIVERED in {update, track}:
                names = _fields_of(outcome.prepared)
                self._needed |= names
                self._sent |= names if update is CallStatus.DELIVERED else set()
        is_sure = self._is_sure()
        if not is_sure and time.monotonic() >= self._look_s:
            # In another thread, as the rows go on: if the run is killed, what it has delivered up
            # to then is sure.
            self._look_s = math.inf
            threading.Thread(target=self._look, daemon=True).start()
        return is_sure

    def _is_sure(self) -> bool:
        """Whether the project has all needed fields; settle what was not sure before."""
        is_sure = self._needed <= (self._known or set())
        if is_sure and self._unsettled:
            self._ledger.settle(sure=True)
        self._unsettled = not is_sure
        return is_sure

    def _look(self) -> None:
        self.know(self._fetch())
        self._look_s = time.monotonic() + self._pause_s
        self._pause_s *= 2

    def finish(self, *, patient: bool) -> None:
        """Settle what is sure of this run, and tell the run which fields the project leaves out.

        If not *patient*, the project is not asked. Raises LedgerError.
        """
        told = self._is_sure() or (patient and self._look_patiently())
        if not self._is_sure():
            self._ledger.settle(sure=False)
        missing = self._needed - (self._known or set())
        if told:
            if missing & self._sent:
                self._run.filter_out(_PROFILE, missing & self._sent)
            self._tell_news()
        elif patient:
            logger.warning(
                "Iterable does not tell the project's fields, see --check. What this run delivered "
                "counts as held; it is sent once more when all its fields are known to be there"
            )
        if self.unsure_rows and not self._run.filtered_fields:
            self._warn_of_unsure_rows()

    def _look_patiently(self) -> bool:
        """Ask for the fields until all are there, for a while; return whether the project told.

        It did not if the run is to stop first.
        """
        for look in range(1 + int(PATIENCE_S / INTERVAL_S)):
            if look and self._wait(INTERVAL_S):
                return False
            fields = self._fetch()
            if fields is None:
                return False
            self.know(fields)
            # What was left out before is not waited for.
            if self._needed - set(fields) <= self._left_out[_PROFILE]:
                break
        return True

    def _tell_news(self) -> None:
        """Tell the run if the project leaves out other fields than up to the last run."""
        filtered = self._run.filtered_fields
        now = {call: filtered.get(call, set()) | names for call, names in self._left_out.items()}
        now[_PROFILE] -= self._known or set()
        if self._run.options.bulk and self._run.events_track[CallStatus.DELIVERED]:
            now[_EVENT] = filtered.get(_EVENT, set())
        if now != self._left_out:
            listed = [f"{n} ({_SHOWN[call]})" for call in now for n in sorted(now[call])]
            self._run.tell(f"Iterable now leaves out {', '.join(listed) or 'no fields'}")
            noted = {call: sorted(names) for call, names in now.items()}
            self._ledger.note(LEFT_OUT, json.dumps(noted))

    def _warn_of_unsure_rows(self) -> None:
        rows = "1 row counts" if self.unsure_rows == 1 else f"{self.unsure_rows} rows count"
        why = "Iterable does not tell the project's fields, see --check"
        if self._known is not None:
            absent = self._left_out[_PROFILE] - self._known | self._left_out_of_events
            why = f"the project lacks fields {', '.join(sorted(absent))}".rstrip()
        text = "%s as held, perhaps without all fields: %s. %s"
        logger.warning(text, rows, why, "Once all fields are there, this is sent once more")


def _fields_of(row: PreparedRow) -> set[str]:
    """Return the names of the profile fields of *row*, which has its bodies."""
    return set(_names_in(json.loads(row.user)["dataFields"]))


def _names_in(fields: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of *fields* as a project lists them: what is in an object after a dot.

    What makes no field in any project is not among them.
    """
    for name, value in fields.items():
        if _makes_a_field(value):
            yield prefix + name
        if isinstance(value, dict):
            yield from _names_in(value, f"{prefix}{name}.")


def _makes_a_field(value: object) -> bool:
    """Whether there is a type to be seen: not in a null, nor in an array with nothing else."""
    if isinstance(value, list):
        return any(map(_makes_a_field, value))
    return value is not None
