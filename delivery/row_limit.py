"""How many of Query 2's rows a run is about that was told to send so many."""

from collections.abc import Iterable

from delivery.planner import Planner
from delivery.repeats import Repeats
from records.columns import Row
from records.outcomes import PreparedRow


def length_to_send(
    limit: int, chunks: Iterable[list[Row]], planner: Planner, repeats: Repeats
) -> int:
    """Return how many rows there are up to the one with which *limit* of them need sending.

    They come in *chunks*, of which one at a time fits into memory. *planner* knows which do;
    *repeats*, made of the same rows, which of their calls are not. Those in between are a part of
    the run too, so that the first row of an address stays the first.
    """
    taken = 0
    for group in chunks:
        prepared = [
            (length, _less_repeated(row, repeats))
            for length, each in enumerate(group, taken + 1)
            for row in planner.prepare([each])[1]
        ]
        decided = planner.plan([row for _, row in prepared]).decided
        for (length, _), each in zip(prepared, decided, strict=True):
            limit -= isinstance(each, PreparedRow)
            if limit == 0:
                return length
        taken += len(group)
    return taken


def _less_repeated(row: PreparedRow, repeats: Repeats) -> PreparedRow:
    """Return *row* less what a row before it stands for, once that is delivered."""
    least = repeats.less_repeated(row) if repeats.is_repeat(row) else row
    repeats.presume_arrived(row)
    return least
