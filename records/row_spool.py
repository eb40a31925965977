"""Rows on disk between the database and Iterable: written at full speed, then read at leisure."""

import pickle
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from records.outcomes import Row


class RowSpool:
    """A list of rows that keeps them in a file; iterating yields dicts, in the order added.

    The file has no name, so nobody else can open it and nothing is left of it, however the process
    ends. It is made in *folder*, by default the system's for temporary files.

    Raises (also when rows are added):
        OSError: the folder cannot be written, or the disk is full.

    """

    def __init__(self, columns: Sequence[str], folder: Path | None = None) -> None:
        self._columns = tuple(columns)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=1 << 20)  # noqa: SIM115 - closed by close()
        self._length = 0

    def extend(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append *rows*, each the values of the columns. Not while iterating."""
        # Pickle keeps every type that the connector can return; the file is ours alone.
        pickle.dump(rows, self._file, pickle.HIGHEST_PROTOCOL)
        self._length += len(rows)

    def flush(self) -> None:
        """Write what is still in memory, so that a full disk is noticed now and not later."""
        self._file.flush()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Row]:
        self._file.seek(0)
        left = self._length
        while left:
            rows = pickle.load(self._file)  # noqa: S301 - written above, readable by nobody else
            left -= len(rows)
            for row in rows:
                yield dict(zip(self._columns, row, strict=True))

    def close(self) -> None:
        """Give the disk space back."""
        # What a full disk did not take is not missed.
        with suppress(OSError):
            self._file.close()
