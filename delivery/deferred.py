"""Rows whose turn comes later in the run, on disk, because there may be many of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from records.outcomes import PreparedRow
from records.row_spool import RowSpool


class DeferredRows:
    """A list of prepared rows that keeps them in a file in *folder*, made when the first comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spool: RowSpool | None = None

    def __len__(self) -> int:
        return len(self._spool) if self._spool else 0

    def __iter__(self) -> Iterator[PreparedRow]:
        for fields in self._spool or ():
            yield PreparedRow(**fields)

    def extend(self, rows: Sequence[PreparedRow]) -> None:
        """Append *rows*. Not while iterating. Raises SpoolError."""
        if rows and self._spool is None:
            self._spool = RowSpool(PreparedRow._fields, self._folder)
        if rows and self._spool is not None:
            self._spool.extend(map(tuple, rows))

    def close(self) -> None:
        """Give the disk space back."""
        if self._spool is not None:
            self._spool.close()
