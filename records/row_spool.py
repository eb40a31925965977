"""Keeps rows on disk between the database and Iterable, so that the query ends early."""

import itertools
import marshal
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from records.columns import Column, Row
from records.exit_statuses import RunError

# Number of rows, and bytes, that are written and read back at a time.
CHUNK_ROWS = 1000
CHUNK_BYTES = 1_000_000
# Number of bytes of the length in front of each chunk.
_LENGTH_BYTES = 8


class SpoolError(RunError):
    """The rows cannot be kept on disk. The message says where and why."""


class RowSpool:
    """A list of rows that keeps them in a file; ``columns`` describe their values.

    The file has no name, so nobody else can open it, and it disappears with the process. It is in
    *folder*, by default the system's for temporary files.

    ``chunks()`` yields the rows as they were added. Iterating yields dicts for people, from column
    names to numbers and texts.

    Raises SpoolError, also from ``extend()``: the folder cannot be written, or the disk is full.
    """

    def __init__(self, columns: Sequence[Column], folder: Path | None = None) -> None:
        self.columns = tuple(columns)
        self._folder = folder
        self._length = 0
        with self._explained():
            self._file = tempfile.TemporaryFile(dir=folder, buffering=1 << 20)  # noqa: SIM115 - closed by close()

    def extend(self, rows: Iterable[Row]) -> None:
        """Append *rows*, which are on disk then. Not while iterating."""
        for chunk in _chunks_of(rows):
            # marshal is fastest; only this process reads the file, and it has only bytes.
            data = marshal.dumps(chunk)
            with self._explained():
                self._file.write(len(data).to_bytes(_LENGTH_BYTES, "big"))
                self._file.write(data)
            self._length += len(chunk)
        with self._explained():
            self._file.flush()

    def cut(self, length: int) -> None:
        """Keep the first *length* rows only."""
        self._length = min(self._length, length)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn OSError into SpoolError."""
        try:
            yield
        except OSError as error:
            where = f"RESULTS_DIR {self._folder}" if self._folder else "a temporary file"
            text = f"{where} cannot hold the rows: {error.strerror}; check space and permissions"
            raise SpoolError(text) from None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in itertools.chain.from_iterable(self.chunks()):
            yield {c.name: c.shown(v) for c, v in zip(self.columns, row, strict=True)}

    def chunks(self) -> Iterator[list[Row]]:
        """Yield the rows as they are read into memory: ``CHUNK_ROWS``, or fewer large ones."""
        # After a full disk, the writer still holds what it could not write.
        with suppress(OSError):
            self._file.flush()
        remaining = self._length
        with open(self._file.fileno(), "rb", buffering=1 << 20, closefd=False) as file:
            file.seek(0)
            while remaining > 0:
                length = int.from_bytes(file.read(_LENGTH_BYTES), "big")
                # Written above, into a file that no other process can read.
                rows: list[Row] = marshal.loads(file.read(length))[:remaining]  # noqa: S302
                yield rows
                remaining -= len(rows)

    def close(self) -> None:
        """Close the file, which frees the disk space."""
        # Closing writes the rest, which fails on a full disk and is not needed.
        with suppress(OSError):
            self._file.close()


def _chunks_of(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += sum(map(len, filter(None, row)))
        if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
