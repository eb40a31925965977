"""What Iterable has taken, in one SQLite file, so that a run can send only what is new.

For each destination and customer it keeps a hash of the profile and of the event that Iterable took
last. The open file is also the lock that lets one run at a time through: the kernel drops it with
the process, however that ends.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from records.exit_statuses import ExitStatus, RunError
from records.outcomes import CallStatus, RowOutcome

# Written into the file's header: "ItSy". A file with another number is not ours.
APPLICATION_ID = 0x49745379
FORMAT_VERSION = 1
# What one customer takes at most, in the file and in the log in front of it.
BYTES_PER_ROW = 400
SPARE_BYTES = 5_000_000

MOVE_AWAY = (
    "Name another file or move it away; the next run then sends every row again, which makes "
    "no second event"
)

_SCHEMA = """
CREATE TABLE destination (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE);
-- profile and event are hashes of the bodies that Iterable took last, NULL if that is not known.
CREATE TABLE delivered (
    destination INTEGER NOT NULL REFERENCES destination (id),
    customer TEXT NOT NULL,
    profile BLOB,
    event_id TEXT,
    event BLOB,
    PRIMARY KEY (destination, customer)
) WITHOUT ROWID;
"""


class LedgerError(RunError):
    """The ledger cannot be read or written. The message says what to do about it."""


class LedgerBusyError(RunError):
    """Another run is using the ledger."""

    status = ExitStatus.BUSY


class Delivered(NamedTuple):
    """The hashes of the profile and of the event that one customer's row delivered last."""

    profile: bytes | None = None
    event: bytes | None = None


class Replaced(NamedTuple):
    """Which of one customer's hashes are about to be replaced."""

    customer: str
    profile: bool
    event: bool


class DeliveryLedger:
    """The ledger in *path*, made if there is none; locked until ``close()``.

    *base_url* and *api_key* name the destination: another key is another project. Only a hash of
    them is kept.

    Every method raises LedgerError when the file is damaged or the disk is full; a file that is
    not a ledger is left as it is.

    Raises:
        LedgerBusyError: another run is using it.

    """

    def __init__(self, path: Path, base_url: str, api_key: str) -> None:
        self._path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Each statement commits by itself, unless it stands between BEGIN and COMMIT.
            self._sqlite = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            with self._explained():
                self._take()
                self._destination = self._find_destination(f"{base_url}\n{api_key}")
        except BaseException:
            self._sqlite.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the next run have it."""
        self._sqlite.close()

    def delivered(self, customers: Iterable[str]) -> dict[str, Delivered]:
        """Return what is known of *customers*; those of whom nothing is known are left out."""
        sql = (
            "SELECT customer, profile, event FROM delivered "
            "WHERE destination = ? AND customer IN (SELECT value FROM json_each(?))"
        )
        with self._explained():
            found = self._sqlite.execute(sql, (self._destination, json.dumps(list(customers))))
            return {customer: Delivered(profile, event) for customer, profile, event in found}

    def forget(self, replaced: Iterable[Replaced]) -> None:
        """Forget the hashes that are about to be replaced; on disk when this returns.

        From when a request leaves until its answer is here, nobody knows what Iterable has. A run
        that ends in between must not leave the older content behind as if it were still there.
        """
        sql = (
            "UPDATE delivered SET profile = iif(?, NULL, profile), event = iif(?, NULL, event) "
            "WHERE destination = ? AND customer = ?"
        )
        rows = [(each.profile, each.event, self._destination, each.customer) for each in replaced]
        if rows:
            with self._transaction():
                self._sqlite.executemany(sql, rows)

    def record(self, outcomes: Iterable[RowOutcome]) -> None:
        """Remember the calls that Iterable has taken; on disk when this returns."""
        rows = list(self._rows_of(outcomes))
        sql = (
            "INSERT INTO delivered VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "profile = coalesce(excluded.profile, profile), "
            "event_id = coalesce(excluded.event_id, event_id), "
            "event = coalesce(excluded.event, event)"
        )
        if rows:
            with self._transaction():
                self._sqlite.executemany(sql, rows)

    def check_room(self, rows: int) -> None:
        """Raise LedgerError when the disk has no room for *rows* more customers."""
        needed = rows * BYTES_PER_ROW + SPARE_BYTES
        if (free := shutil.disk_usage(self._path.parent).free) < needed:
            raise LedgerError(
                f"STATE_FILE {self._path} needs {needed / 1e6:.0f} MB of free disk for {rows} "
                f"rows, and there are {free / 1e6:.0f} MB"
            )

    def _take(self) -> None:
        """Lock the file, and make it a ledger if it is new."""
        execute = self._sqlite.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        # The lock is taken here, and kept because of the line above.
        execute("BEGIN EXCLUSIVE")
        application, version = (
            execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        tables = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, tables) == (0, 0):
            for statement in _SCHEMA.split(";"):
                execute(statement)
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        elif application != APPLICATION_ID:
            raise LedgerError(f"STATE_FILE {self._path} belongs to another program; name another")
        elif version != FORMAT_VERSION:
            raise LedgerError(
                f"STATE_FILE {self._path} has format {version} and this program reads "
                f"{FORMAT_VERSION}; use the version that wrote it, or name another file"
            )
        execute("COMMIT")
        if (found := execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise LedgerError(f"STATE_FILE {self._path} is damaged ({found:.80}). {MOVE_AWAY}")
        # A commit is then an append, and survives the process at once. After a power failure the
        # last seconds may be missing; what they held is sent once more.
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")

    def _find_destination(self, name: str) -> int:
        execute = self._sqlite.execute
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        execute("INSERT OR IGNORE INTO destination (hash) VALUES (?)", (digest,))
        (number,) = execute("SELECT id FROM destination WHERE hash = ?", (digest,)).fetchone()
        return int(number)

    def _rows_of(self, outcomes: Iterable[RowOutcome]) -> Iterator[tuple[object, ...]]:
        for outcome in outcomes:
            prepared = outcome.prepared
            if prepared is None:
                continue
            user = outcome.users_update.status is CallStatus.DELIVERED
            event = outcome.events_track.status is CallStatus.DELIVERED
            if user or event:
                yield (
                    self._destination,
                    prepared.customer,
                    prepared.user_hash if user else None,
                    prepared.event_id if event else None,
                    prepared.event_hash if event else None,
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._sqlite.execute("BEGIN")
            try:
                yield
                self._sqlite.execute("COMMIT")
            except BaseException:
                if self._sqlite.in_transaction:
                    self._sqlite.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            # The lowest byte is the kind of error, the others its details.
            kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
            if kind == sqlite3.SQLITE_BUSY:
                raise LedgerBusyError(
                    f"Another run is under way: it holds {self._path}"
                ) from None
            damaged = kind in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
            text = getattr(error, "strerror", None) or error
            raise LedgerError(
                f"STATE_FILE {self._path} cannot be used ({text}). "
                + (MOVE_AWAY if damaged else "Look at its folder's rights and the free disk")
            ) from None
