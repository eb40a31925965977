"""A store that shows what is written only after a while, as Iterable does."""

import math
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LaggedStore(Generic[Value]):
    """Values by key: ``current`` as they were written, :meth:`shown` as they are seen from outside.

    ``clock`` is asked only while something is not shown yet.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.current: dict[str, Value] = {}
        self._clock = clock
        # For each key with writes that may not be shown yet: from when on each value is seen,
        # oldest first. The first is the one that is shown; None is for nothing.
        self._pending: dict[str, list[tuple[float, Value | None]]] = {}

    def put(self, key: str, value: Value, lag_s: float) -> None:
        """Write a value that is shown *lag_s* from now, but not before those written earlier."""
        if lag_s > 0 or key in self._pending:
            before = (-math.inf, self.current.get(key))
            self._pending.setdefault(key, [before]).append((self._clock() + lag_s, value))
        self.current[key] = value

    def remove(self, key: str) -> Value | None:
        """Take a value out at once, and return it."""
        self._pending.pop(key, None)
        return self.current.pop(key, None)

    def shown(self, key: str) -> Value | None:
        """Return the value that is seen now."""
        if key not in self._pending:
            return self.current.get(key)
        pending = self._pending[key]
        now = self._clock()
        while len(pending) > 1 and pending[1][0] <= now:
            del pending[0]
        if len(pending) == 1:
            del self._pending[key]
        return pending[0][1]

    def all_shown(self) -> Iterator[Value]:
        """Yield every value that is seen now."""
        for key in self.current:
            value = self.shown(key)
            if value is not None:
                yield value
