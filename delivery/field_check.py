"""Whether the project has the profile fields that a run has sent, which no single answer tells.

A project may create no new fields. Iterable then takes a profile, says "Success", and drops the
fields that it does not have.
"""

import json
from collections.abc import Callable, Iterable

from iterable_api.payloads import PROFILE_FIELDS
from records.outcomes import CallStatus, RowOutcome

# A field that a run has created shows in the project's list after a while.
PATIENCE_S = 10.0
INTERVAL_S = 2.0


class FieldCheck:
    """Collects the names of the delivered profile fields, and looks for them afterwards."""

    def __init__(self) -> None:
        self._delivered: set[str] = set()

    def add(self, outcomes: Iterable[RowOutcome]) -> None:
        """Note the fields of some more rows."""
        for outcome in outcomes:
            if len(self._delivered) == len(PROFILE_FIELDS):
                return
            row = outcome.prepared
            if row is not None and outcome.users_update.status is CallStatus.DELIVERED:
                self._delivered |= json.loads(row.user)["dataFields"].keys()

    def missing(
        self, fetch: Callable[[], dict[str, str] | None], wait: Callable[[float], bool]
    ) -> set[str]:
        """Return the delivered fields that the project does not have, even after some patience.

        *fetch* returns the project's fields, None if they cannot be had: then nothing is missing.
        *wait* sleeps for some seconds and returns True when the run is to stop.
        """
        waited_s = 0.0
        while self._delivered:
            fields = fetch()
            if fields is None or self._delivered <= fields.keys():
                break
            if waited_s >= PATIENCE_S or wait(INTERVAL_S):
                return self._delivered - fields.keys()
            waited_s += INTERVAL_S
        return set()
