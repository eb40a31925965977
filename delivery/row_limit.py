"""How many of Query 2's rows a run is about that was told to send so many."""

from collections.abc import Iterable

from delivery.planner import Planner
from delivery.repeats import Repeats
from records.outcomes import SUPERSEDED, PreparedRow, Row


def length_to_send(
    limit: int, chunks: Iterable[list[Row]], planner: Planner, repeats: Repeats
) -> int:
    """Return how many rows there are up to the one with which *limit* of them need sending.

    They come in *chunks*, of which one at a time fits into memory. *planner* knows which do;
    *repeats*, made of the same rows, of which the profile is not sent. Those in between are a part
    of the run too, so that the first row of an address stays the first.
    """
    taken = 0
    for group in chunks:
        prepared = [
            (length, _less_repeated(row, repeats))
            for length, each in enumerate(group, taken + 1)
            for row in planner.prepare([each])[1]
        ]
        found = len(planner.plan([row for _, row in prepared]).to_send)
        if found >= limit:
            for length, row in prepared:
                limit -= len(planner.plan([row]).to_send)
                if limit == 0:
                    return length
        limit -= found
        taken += len(group)
    return taken


def _less_repeated(row: PreparedRow, repeats: Repeats) -> PreparedRow:
    """Return *row* without its profile, if it has the address of a row before it."""
    return row._replace(users_update=SUPERSEDED) if repeats.is_repeat(row.key) else row
