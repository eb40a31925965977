"""The events of one Iterable project.

Documented by Iterable: an event sent again with the same id is updated in place, whoever's it is;
the id is made up where none is sent.
"""

import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sandbox.bodies import Fields
from sandbox.lagged import LaggedStore
from sandbox.profiles import Profiles
from sandbox.variants import Variants


class Event(NamedTuple):
    """One event. Never changed in place: the same id sent again puts a new one in its stead."""

    id: str
    event_name: str
    email: str | None  # in lower case; that of the profile if none was sent
    user_id: str | None
    created_at: int | None  # seconds as sent; None: when it was accepted
    data_fields: Fields
    received: int  # how many times this id was applied
    user_existed: bool  # False if it was ever applied before its user was known
    accepted_at: float  # seconds since 1970


class Events:
    """All events by id."""

    def __init__(self, variants: Variants, profiles: Profiles, clock: Callable[[], float]) -> None:
        self._variants, self._profiles, self._clock = variants, profiles, clock
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._store: LaggedStore[Event] = LaggedStore(self._clock)
        self.by_id = self._store.current

    def write(self, row: Fields, fields: Fields, *, user_known: bool, now: float) -> Event:
        """Create or update one event, and return it."""
        event_id = row.get("id") or str(uuid.uuid4())
        held = self.by_id.get(event_id)
        event = Event(
            event_id,
            row["eventName"],
            self._profiles.email_of(row),
            row.get("userId"),
            row.get("createdAt"),
            fields if self._variants.keep_fields else {},
            held.received + 1 if held else 1,
            user_known and (held is None or held.user_existed),
            now,
        )
        self._store.put(event_id, event, self._variants.lag_s)
        return event

    def shown(self) -> Iterator[Event]:
        """Yield all events that the outside sees now."""
        return self._store.all_shown()
