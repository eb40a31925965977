"""Rows whose turn comes later in the run, on disk, because there may be many of them."""

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

from records.columns import Column, Kind
from records.outcomes import PreparedRow
from records.row_spool import RowSpool, SpoolError

_COLUMNS = (Column("prepared row", Kind.BINARY),)


class DeferredRows:
    """A list of prepared rows that keeps them in a file in *folder*, made when the first comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spool: RowSpool | None = None
        self._failure: SpoolError | None = None

    def __len__(self) -> int:
        return len(self._spool) if self._spool else 0

    def __iter__(self) -> Iterator[PreparedRow]:
        for (row,) in self._spool.values([0]) if self._spool else ():
            # Written below, into a file that nobody else can read.
            yield PreparedRow(*pickle.loads(row or b""))  # noqa: S301

    def extend(self, rows: Sequence[PreparedRow]) -> None:
        """Append *rows*, which are on disk then. Not while iterating.

        Raises SpoolError, from then on always, and has none of these *rows*.
        """
        if not rows:
            return
        if self._failure:
            raise self._failure
        length = len(self)
        try:
            if self._spool is None:
                self._spool = RowSpool(_COLUMNS, self._folder)
            self._spool.extend([(pickle.dumps(tuple(row)),) for row in rows])
            self._spool.flush()
        except SpoolError as error:
            self._failure = error
            if self._spool is not None:
                self._spool.cut(length)
            raise

    def close(self) -> None:
        """Give the disk space back."""
        if self._spool is not None:
            self._spool.close()
