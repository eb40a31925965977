"""Whether the project has the profile fields that a run has sent, which no single answer tells.

A project may create no new fields. Iterable then takes a profile or an event, says "Success", and
drops the fields that it does not have. So what single calls have delivered counts only when the
project's fields have been looked at: at the end of the run, or else at the start of the next one.
A project tells the fields of its profiles alone. If some of these were left out, then those of the
events may have been too, and both are sent again.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from logger_config import get_logger
from records.delivery_ledger import DeliveryLedger
from records.outcomes import CallStatus, RowOutcome
from records.run import RunRecord

logger = get_logger(__name__)

# A field that a run has created shows in the project's list after a while.
PATIENCE_S = 10.0
INTERVAL_S = 2.0
NOT_TOLD = (
    "Iterable does not tell the project's fields: what it took lately is sent again. --check says "
    "why; --bulk does without them"
)

# Under this name the ledger keeps the fields that the project leaves out.
LEFT_OUT = "left out"

# The names of the project's profile fields; None if they cannot be had.
Fetch = Callable[[], Collection[str] | None]


class FieldCheck:
    """Looks whether the project has the delivered profile fields, and tells *ledger*.

    *names* are all that the run may send; with *objects* some of them are, and what is in these is
    not among the names. *wait* sleeps for some seconds and returns True when the run is to stop.
    With *told_by_answers* the run has the fields that were left out already, from its answers.
    """

    def __init__(  # noqa: PLR0913 - the last two are keyword-only
        self,
        names: Collection[str],
        ledger: DeliveryLedger,
        fetch: Fetch,
        wait: Callable[[float], bool],
        *,
        objects: bool = False,
        told_by_answers: bool = False,
    ) -> None:
        self._told_by_answers = told_by_answers
        self._names = set(names)
        self._objects = objects
        self._ledger = ledger
        self._fetch = fetch
        self._wait = wait
        self._delivered: set[str] = set()
        self._has_objects = False
        # How the fields begin in a body that are still to be seen in one.
        self._unseen = {name: f"{json.dumps(name)}: ".encode("ascii") for name in names}

    def check_earlier_runs(self) -> None:
        """Let count what a run has delivered that ended before it could look, or forget it.

        Raises LedgerError.
        """
        if not self._ledger.has_unproven_runs():
            return
        fields = self._fetch()
        if fields is None:
            logger.warning(NOT_TOLD)
        elif self._names <= set(fields) and not self._objects:
            self._ledger.prove_earlier_runs()
        else:
            self._ledger.forget_unproven()

    def add(self, outcomes: Iterable[RowOutcome]) -> None:
        """Note the fields of the profiles that were delivered now."""
        for outcome in outcomes:
            if not (self._unseen or self._has_objects):
                return
            row = outcome.prepared
            if row is not None and outcome.users_update.status is CallStatus.DELIVERED:
                self._look_into(row.user)

    def _look_into(self, body: bytes) -> None:
        """Note which fields are in *body*."""
        if self._has_objects or any(start in body for start in self._unseen.values()):
            fields = json.loads(body)["dataFields"]
            # What is in an object may be new in any row.
            self._has_objects |= any(isinstance(value, dict) for value in fields.values())
            found = set(_names_in(fields))
            self._delivered |= found
            for name in self._unseen.keys() & found:
                del self._unseen[name]

    def finish(self, run: RunRecord) -> None:
        """Note in *run* the delivered fields that the project does not have.

        If it has all of them, what was delivered counts from now on; if not, it is forgotten, and
        sent again until the project takes all of it. Raises LedgerError.
        """
        if not self._told_by_answers:
            missing = self._missing()
            if missing is None:
                return
            if missing:
                run.filter_out("users_update", missing)
                self._ledger.forget_unproven()
            else:
                self._ledger.prove()
        self._compare(run)

    def _compare(self, run: RunRecord) -> None:
        """Tell *run* if the project leaves out other fields than when a run last looked."""
        before = set(filter(None, self._ledger.noted(LEFT_OUT).split("\n")))
        now = {f"{name} ({call})" for call, names in run.filtered_fields.items() for name in names}
        taken = before & {f"{name} (users_update)" for name in self._delivered} - now
        parts = [f"Iterable now leaves out {_listed(now - before)}"] if now - before else []
        parts += [f"Iterable now takes {_listed(taken)}"] if taken else []
        if parts:
            run.tell("; ".join(parts))
            self._ledger.note(LEFT_OUT, "\n".join(sorted(before - taken | now)))

    def _missing(self) -> set[str] | None:
        """Return the delivered fields that the project does not have, even after some patience.

        None if the project does not tell, or the run is to stop first.
        """
        waited_s = 0.0
        while self._delivered:
            fields = self._fetch()
            if fields is None:
                return None
            missing = self._delivered - set(fields)
            if not missing or waited_s >= PATIENCE_S:
                return missing
            if self._wait(INTERVAL_S):
                return None
            waited_s += INTERVAL_S
        return set()


def _listed(names: Iterable[str]) -> str:
    return (
        ", ".join(sorted(names)).replace("users_update", "profile").replace("events_track", "event")
    )


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
