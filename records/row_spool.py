"""Rows on disk between the database and Iterable: written at full speed, then read at leisure."""

import itertools
import marshal
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from records.columns import Column, Row
from records.exit_statuses import RunError

# What is written, and read back into memory, at a time: a number of rows, fewer if they are large.
CHUNK_ROWS = 1000
CHUNK_BYTES = 1_000_000
# The length of a chunk, in front of it, is written in so many bytes.
_LENGTH_BYTES = 8


class SpoolError(RunError):
    """The rows cannot be kept on disk. The message says where and why."""


class RowSpool:
    """A list of rows that keeps them in a file; ``columns`` describe their values.

    The file has no name, so nobody else can open it and nothing is left of it, however the process
    ends. It is made in *folder*, by default the system's for temporary files.

    ``chunks()`` yields the rows as they were added. Iterating yields dicts for people: numbers,
    texts and dates by the name of their column.

    Raises SpoolError, also when rows are added: the folder cannot be written, or the disk is full.
    """

    def __init__(self, columns: Sequence[Column], folder: Path | None = None) -> None:
        self.columns = tuple(columns)
        self._folder = folder
        self._length = 0
        with self._explained():
            self._file = tempfile.TemporaryFile(dir=folder, buffering=1 << 20)  # noqa: SIM115 - closed by close()

    def extend(self, rows: Iterable[Row]) -> None:
        """Append *rows*. Not while iterating."""
        chunk: list[Row] = []
        size = 0
        for row in rows:
            chunk.append(row)
            size += sum(map(len, filter(None, row)))
            if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
                self._write(chunk)
                chunk, size = [], 0
        if chunk:
            self._write(chunk)

    def _write(self, rows: list[Row]) -> None:
        # For bytes alone, and for this process alone, it is the quickest form.
        data = marshal.dumps(rows)
        with self._explained():
            self._file.write(len(data).to_bytes(_LENGTH_BYTES, "big"))
            self._file.write(data)
        self._length += len(rows)

    def flush(self) -> None:
        """Write what is still in memory, so that a full disk is noticed now and not later."""
        with self._explained():
            self._file.flush()

    def cut(self, length: int) -> None:
        """Keep the first *length* rows only."""
        self._length = min(self._length, length)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the system's errors into ours."""
        try:
            yield
        except OSError as error:
            where = f"RESULTS_DIR {self._folder}" if self._folder else "a temporary file"
            text = (
                f"{where} cannot hold the rows: {error.strerror}; check its space and permissions"
            )
            raise SpoolError(text) from None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in itertools.chain.from_iterable(self.chunks()):
            yield {c.name: c.converted(v) for c, v in zip(self.columns, row, strict=True)}

    def chunks(self) -> Iterator[list[Row]]:
        """Yield the rows as they are read into memory: ``CHUNK_ROWS``, or fewer large ones."""
        # What a full disk did not take stays with the writer, which cannot let go of it.
        with suppress(OSError):
            self._file.flush()
        remaining = self._length
        with open(self._file.fileno(), "rb", buffering=1 << 20, closefd=False) as file:
            file.seek(0)
            while remaining > 0:
                length = int.from_bytes(file.read(_LENGTH_BYTES), "big")
                # Written above, and readable by nobody else.
                rows: list[Row] = marshal.loads(file.read(length))[:remaining]  # noqa: S302
                yield rows
                remaining -= len(rows)

    def close(self) -> None:
        """Give the disk space back."""
        # What a full disk did not take is not missed.
        with suppress(OSError):
            self._file.close()
