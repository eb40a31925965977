"""Whether the project has the profile fields that a run has sent, which no single answer tells.

A project may create no new fields. Iterable then takes a profile or an event, says "Success", and
drops the fields that it does not have. So a delivery is sure only when the project is known to have
all fields that were in it. The project tells those of its profiles alone: an event is sure when
those of the run's profiles are all there.

What is not sure counts as held, or a project that takes no new fields would get every row again
each night. When the fields are there, it is sent once more.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from logger_config import get_logger
from records.delivery_ledger import DeliveryLedger
from records.outcomes import CallStatus, PreparedRow, RowOutcome
from records.run import RunRecord

logger = get_logger(__name__)

# A field that a run has created shows in the project's list after a while.
PATIENCE_S = 10.0
INTERVAL_S = 2.0
# Under this name the ledger keeps the fields that the project leaves out, each with its call.
LEFT_OUT = "left out"
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
        # The answers to batches name what was left out, those to single calls do not.
        self.told_by_answers = run.options.bulk
        self._known: set[str] | None = None
        # The profile fields of all rows of which something was delivered, and those that were sent.
        self._needed: set[str] = set()
        self._sent: set[str] = set()
        self._left_out = {
            (call, name)
            for call, _, name in (
                line.partition(" ") for line in ledger.noted(LEFT_OUT).splitlines()
            )
        }
        self._missed = {name for call, name in self._left_out if call == _PROFILE}
        # Of events only the bulk answers tell when their fields are taken.
        self._missed_of_events = {
            name for call, name in self._left_out if call == _EVENT and self.told_by_answers
        }
        # Looks at the fields while rows are sent: the first delivery, and how many there were.
        self._first_s: float | None = None
        self._looks = 0
        self._looking = False
        self._seen: SimpleQueue[Collection[str] | None] = SimpleQueue()
        # Rows that count as held and are not sure to be there as a whole.
        self.unsure_rows = 0

    def know(self, fields: Collection[str] | None) -> None:
        """Note the *fields* that the project has before anything is sent; None if unknown."""
        self._known = None if fields is None else set(fields)

    def may_be_sent_again(self, row: PreparedRow) -> bool:
        """Whether the project now has all fields of *row*, of which Iterable may hold only some."""
        known = self._known
        # Event fields alone nobody tells: only with new profile fields may they be there too.
        if known is None or (self._missed_of_events and not self._missed):
            return False
        return self._missed <= known and _fields_of(row) <= known

    def add(self, outcomes: Iterable[RowOutcome]) -> bool:
        """Note the profile fields of the rows of which something was delivered now.

        Return whether the project is known to have all that this run has delivered.
        """
        for outcome in outcomes:
            update, track = outcome.users_update.status, outcome.events_track.status
            if outcome.prepared and CallStatus.DELIVERED in {update, track}:
                names = _fields_of(outcome.prepared)
                self._needed |= names
                self._sent |= names if update is CallStatus.DELIVERED else set()
        if self.told_by_answers or self._needed <= (self._known or set()):
            return True
        return self._look_meanwhile()

    def _look_meanwhile(self) -> bool:
        """Look again in another thread, now and then, while the run goes on.

        So that what was delivered up to then is sure, whatever ends the run.
        """
        now_s = time.monotonic()
        self._first_s = self._first_s or now_s
        if not self._looking and self._looks <= (now_s - self._first_s) / INTERVAL_S:
            if now_s - self._first_s > PATIENCE_S:
                return False
            self._looking = True
            self._looks += 1
            threading.Thread(target=lambda: self._seen.put(self._fetch()), daemon=True).start()
        if not self._seen.empty():
            self._looking = False
            self._known = set(self._seen.get() or ()) | (self._known or set())
            if self._needed <= self._known:
                self._ledger.settle(sure=True)
        return self._needed <= (self._known or set())

    def finish(self, *, patient: bool) -> None:
        """Settle what is sure of this run, and tell the run which fields the project leaves out.

        If not *patient*, the project is not asked. Raises LedgerError.
        """
        missing: set[str] | None = self._run.filtered_fields.get(_PROFILE, set())
        if not self.told_by_answers:
            missing = self._missing(patient=patient)
            self._ledger.settle(sure=missing == set())
            if missing and missing & self._sent:
                self._run.filter_out(_PROFILE, missing & self._sent)
        if missing is not None:
            self._compare()
        elif patient:
            logger.warning(
                "Iterable does not tell the project's fields, see --check. What this run delivered "
                "counts as held; it is sent once more when all its fields are known to be there"
            )
        if self.unsure_rows and not self._run.filtered_fields:
            self._warn_of_unsure_rows()

    def _missing(self, *, patient: bool) -> set[str] | None:
        """Return the needed fields that the project does not have, even after some patience.

        None if the project does not tell, or the run is to stop first.
        """
        waited_s = 0.0
        while missing := self._needed - (self._known or set()):
            if not patient:
                return None
            fields = self._fetch()
            if fields is None:
                return None
            self._known = set(fields)
            missing = self._needed - self._known
            # What was left out before is not waited for.
            if missing and (missing <= self._missed or waited_s >= PATIENCE_S):
                return missing
            if missing and self._wait(INTERVAL_S):
                return None
            waited_s += INTERVAL_S
        return set()

    def _compare(self) -> None:
        """Tell the run if the project leaves out other fields than at the last look."""
        now = {(call, n) for call, names in self._run.filtered_fields.items() for n in names}
        taken = {each for each in self._left_out - now if self._is_taken(*each)}
        new = now - self._left_out
        parts = [f"Iterable now leaves out {_listed(new)}"] if new else []
        parts += [f"Iterable now takes {_listed(taken)}"] if taken else []
        if parts:
            self._run.tell("; ".join(parts))
            self._left_out = self._left_out - taken | now
            lines = sorted(f"{call} {name}" for call, name in self._left_out)
            self._ledger.note(LEFT_OUT, "\n".join(lines))

    def _is_taken(self, call: str, name: str) -> bool:
        """Whether a field that was left out is there now. Those of events nobody tells."""
        if call == _PROFILE:
            held = self._sent if self.told_by_answers else set()
            return name in held | (self._known or set())
        return self._run.events_track[CallStatus.DELIVERED] > 0 and self.told_by_answers

    def _warn_of_unsure_rows(self) -> None:
        rows = "1 row counts" if self.unsure_rows == 1 else f"{self.unsure_rows} rows count"
        why = "Iterable does not tell the project's fields, see --check"
        if self._known is not None:
            absent = ", ".join(sorted(self._missed - self._known | self._missed_of_events))
            why = f"the project lacks fields {absent}".rstrip()
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


def _listed(fields: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({_SHOWN[call]})" for call, name in sorted(fields))
