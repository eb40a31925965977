"""What Iterable has taken, in one SQLite file, so that a run can send only what is new.

Iterable tells users apart by their address and events by their id, within a project. So does the
ledger: for each address it remembers a hash of the profile that was delivered last, for each event
id a hash of the event, and with which API key. Another key may belong to the same project, so what
was delivered with one key proves nothing under another, and is forgotten before that key sends.

The open file is also the lock that lets one run at a time through: the kernel drops it with the
process, however that ends.
"""

import hashlib
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from logger_config import get_logger
from records.exit_statuses import ExitStatus, RunError
from records.outcomes import CallOutcome, CallStatus, PreparedRow, RowOutcome, RowStatus

logger = get_logger(__name__)

# Written into the file's header: "ItSy". A file with another number is not ours.
APPLICATION_ID = 0x49745379
FORMAT_VERSION = 2
# What one row takes at most, in the file and in the log in front of it.
BYTES_PER_ROW = 400
SPARE_BYTES = 5_000_000
# What no run has needed for so long is dropped: Query 2 looks back seven days.
KEEP_DAYS = 30
# An entry that is still needed is marked so only now and then, because each mark is a write.
MARK_DAYS = 7
# SQLite's oldest limit of parameters in one statement is 999.
LOOKUP_ROWS = 500

MOVE_AWAY = (
    "Name another file or move it away; the next run then sends every row again, which makes "
    "no second event"
)

_SCHEMA = """
CREATE TABLE origin (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE);
CREATE TABLE run (id INTEGER PRIMARY KEY, day INTEGER NOT NULL);
-- name is a hash of the address, body one of the profile that was delivered last. api_key says with
-- which key, run which one has needed it lately.
CREATE TABLE profile (
    host INTEGER NOT NULL, name BLOB NOT NULL, api_key INTEGER NOT NULL, body BLOB NOT NULL,
    run INTEGER NOT NULL, PRIMARY KEY (host, name)
) WITHOUT ROWID;
-- The same for events, whose name is a hash of the event's id.
CREATE TABLE event (
    host INTEGER NOT NULL, name BLOB NOT NULL, api_key INTEGER NOT NULL, body BLOB NOT NULL,
    run INTEGER NOT NULL, PRIMARY KEY (host, name)
) WITHOUT ROWID;
"""
_OLD_TABLES = ("destination", "delivered")


class LedgerError(RunError):
    """The ledger cannot be read or written. The message says what to do about it."""


class LedgerBusyError(RunError):
    """Another run is using the ledger."""

    status = ExitStatus.BUSY


class Entry(NamedTuple):
    """What was delivered last under one name: the hash of its body, and whether with this key.

    ``is_old`` says that it is time to mark the entry as needed.
    """

    body: bytes
    same_key: bool
    is_old: bool

    def proves(self, body: bytes) -> bool:
        """Whether Iterable has exactly *body* under this name."""
        return self.same_key and self.body == body


class Known(NamedTuple):
    """What is known of one row: the entries of its profile and its event, None for nothing."""

    profile: Entry | None
    event: Entry | None


class Change(NamedTuple):
    """Entries that sending some rows makes untrue, and entries that are still needed."""

    profiles_to_forget: Sequence[PreparedRow] = ()
    events_to_forget: Sequence[PreparedRow] = ()
    profiles_to_mark: Sequence[PreparedRow] = ()
    events_to_mark: Sequence[PreparedRow] = ()


class DeliveryLedger:
    """The ledger in *path*, made if there is none; locked until ``close()``.

    *base_url* and *api_key* say where things are delivered and with which right. Only hashes of
    them, of addresses and of bodies are kept.

    Every method raises LedgerError when the file is damaged or the disk is full; a file that is
    not a ledger is left as it is.

    Raises:
        LedgerBusyError: another run is using it.

    """

    def __init__(self, path: Path, base_url: str, api_key: str) -> None:
        self._path = path
        self._today = int(time.time() // 86_400)
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Each statement commits by itself, unless it stands between BEGIN and COMMIT.
            self._sqlite = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            with self._explained():
                self._take()
                self._host = self._number_of(base_url)
                self._api_key = self._number_of(f"{base_url}\n{api_key}")
                self._number_runs()
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

    def known(self, rows: Sequence[PreparedRow]) -> list[Known]:
        """Return what is known of each of *rows*."""
        with self._explained():
            profiles = self._entries("profile", [_address_hash(row) for row in rows])
            events = self._entries("event", [_event_name(row) for row in rows])
        return [Known(*pair) for pair in zip(profiles, events, strict=True)]

    def apply(self, change: Change) -> None:
        """Forget and mark what *change* says.

        What is forgotten stays so even after a power failure: from when a request leaves until its
        answer is here, nobody knows what Iterable has, and the older content must not come back as
        if it were still there.
        """
        profiles = [_address_hash(row) for row in change.profiles_to_forget]
        events = [_event_name(row) for row in change.events_to_forget]
        if profiles or events:
            with self._transaction(durable=True):
                self._delete("profile", profiles)
                self._delete("event", events)
        profiles = [_address_hash(row) for row in change.profiles_to_mark]
        events = [_event_name(row) for row in change.events_to_mark]
        if profiles or events:
            with self._transaction():
                self._mark("profile", profiles)
                self._mark("event", events)

    def record(self, outcomes: Iterable[RowOutcome]) -> None:
        """Remember the calls that Iterable has taken; forget those that it has refused.

        A call of which a field was filtered out is not remembered: it is to be sent again when the
        project takes all of it. On disk when this returns.
        """
        profiles, events, refused_profiles, refused_events = [], [], [], []
        for row, update, track in _calls_of(outcomes):
            if _is_whole(update):
                profiles.append(self._row(_address_hash(row), row.user_hash))
            elif _disproves(update):
                refused_profiles.append(_address_hash(row))
            if _is_whole(track):
                events.append(self._row(_event_name(row), row.event_hash))
            elif _disproves(track):
                refused_events.append(_event_name(row))
        if profiles or events or refused_profiles or refused_events:
            with self._transaction():
                self._delete("profile", refused_profiles)
                self._delete("event", refused_events)
                self._insert("profile", profiles)
                self._insert("event", events)

    def forget_profiles_of_this_run(self) -> None:
        """Forget every profile that this run has delivered or needed."""
        with self._transaction():
            self._sqlite.execute(
                "DELETE FROM profile WHERE host = ? AND run = ?", (self._host, self._run)
            )

    def begin_run(self) -> None:
        """Note that a run begins, and drop what no run has needed for ``KEEP_DAYS`` days."""
        execute = self._sqlite.execute
        with self._transaction():
            execute("INSERT INTO run VALUES (?, ?)", (self._run, self._today))
            (first_kept,) = execute(
                "SELECT min(id) FROM run WHERE day >= ?", (self._today - KEEP_DAYS,)
            ).fetchone()
            for table, column in (("profile", "run"), ("event", "run"), ("run", "id")):
                execute(f"DELETE FROM {table} WHERE {column} < ?", (first_kept,))  # noqa: S608

    def check_room(self, rows: int) -> None:
        """Raise LedgerError when the disk has no room for *rows* more rows."""
        needed = rows * BYTES_PER_ROW + SPARE_BYTES
        if (free := shutil.disk_usage(self._path.parent).free) < needed:
            raise LedgerError(
                f"STATE_FILE {self._path} needs {needed / 1e6:.0f} MB of free disk for {rows} "
                f"rows, and there are {free / 1e6:.0f} MB"
            )

    # --- Tables

    def _entries(self, table: str, names: list[bytes]) -> list[Entry | None]:
        """Return the entries under *names*, in their order."""
        found: dict[bytes, Entry] = {}
        for start in range(0, len(names), LOOKUP_ROWS):
            some = names[start : start + LOOKUP_ROWS]
            marks = ",".join("?" * len(some))
            sql = f"SELECT name, api_key, body, run FROM {table} WHERE host=? AND name IN ({marks})"  # noqa: S608
            for name, api_key, body, run in self._sqlite.execute(sql, (self._host, *some)):
                found[name] = Entry(body, api_key == self._api_key, run < self._first_fresh_run)
        return [found.get(name) for name in names]

    def _row(self, name: bytes, body: bytes) -> tuple[object, ...]:
        return self._host, name, self._api_key, body, self._run

    def _insert(self, table: str, rows: list[tuple[object, ...]]) -> None:
        # Not ON CONFLICT DO UPDATE, which older versions of SQLite cannot do.
        self._sqlite.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)", rows)  # noqa: S608

    def _delete(self, table: str, names: list[bytes]) -> None:
        sql = f"DELETE FROM {table} WHERE host = ? AND name = ?"  # noqa: S608
        self._sqlite.executemany(sql, [(self._host, name) for name in names])

    def _mark(self, table: str, names: list[bytes]) -> None:
        sql = f"UPDATE {table} SET run = ? WHERE host = ? AND name = ?"  # noqa: S608
        self._sqlite.executemany(sql, [(self._run, self._host, name) for name in names])

    # --- File

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
            self._make_tables()
        elif application != APPLICATION_ID:
            raise LedgerError(f"STATE_FILE {self._path} belongs to another program; name another")
        elif version < FORMAT_VERSION:
            for table in _OLD_TABLES:
                execute(f"DROP TABLE IF EXISTS {table}")
            self._make_tables()
            text = "STATE_FILE %s was written by an older version: every row is sent once more"
            logger.warning(text, self._path)
        elif version > FORMAT_VERSION:
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

    def _make_tables(self) -> None:
        for statement in _SCHEMA.split(";"):
            self._sqlite.execute(statement)
        self._sqlite.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._sqlite.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def _number_of(self, name: str) -> int:
        """Return the number that stands for a host, or for a host with a key."""
        execute = self._sqlite.execute
        digest = _hash(name)
        execute("INSERT OR IGNORE INTO origin (hash) VALUES (?)", (digest,))
        (number,) = execute("SELECT id FROM origin WHERE hash = ?", (digest,)).fetchone()
        return int(number)

    def _number_runs(self) -> None:
        """Find this run's number, and the first one whose entries need no new mark."""
        execute = self._sqlite.execute
        (last,) = execute("SELECT coalesce(max(id), 0) FROM run").fetchone()
        self._run = int(last) + 1
        (fresh,) = execute(
            "SELECT min(id) FROM run WHERE day > ?", (self._today - MARK_DAYS,)
        ).fetchone()
        self._first_fresh_run = int(fresh or self._run)

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Commit at the end; when *durable*, the disk has it before this returns."""
        execute = self._sqlite.execute
        with self._explained():
            if durable:
                execute("PRAGMA synchronous = FULL")
            execute("BEGIN")
            try:
                yield
                execute("COMMIT")
            except BaseException:
                if self._sqlite.in_transaction:
                    execute("ROLLBACK")
                raise
            finally:
                if durable:
                    execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            # The lowest byte is the kind of error, the others its details.
            kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
            if kind == sqlite3.SQLITE_BUSY:
                raise LedgerBusyError(f"Another run is under way: it holds {self._path}") from None
            damaged = kind in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
            text = getattr(error, "strerror", None) or error
            raise LedgerError(
                f"STATE_FILE {self._path} cannot be used ({text}). "
                + (MOVE_AWAY if damaged else "Look at its folder's rights and the free disk")
            ) from None


def _calls_of(
    outcomes: Iterable[RowOutcome],
) -> Iterator[tuple[PreparedRow, CallOutcome, CallOutcome]]:
    for outcome in outcomes:
        # Rows that needed no call, which may be most, say nothing new.
        if outcome.prepared is not None and outcome.status is not RowStatus.UNCHANGED:
            yield outcome.prepared, outcome.users_update, outcome.events_track


def _is_whole(call: CallOutcome) -> bool:
    """Whether Iterable has taken all of the call."""
    return call.status is CallStatus.DELIVERED and not call.fields


def _disproves(call: CallOutcome) -> bool:
    """Whether the outcome shows that Iterable does not have what was remembered."""
    return call.status in {CallStatus.REFUSED, CallStatus.FORGOTTEN} or (
        call.status is CallStatus.DELIVERED and bool(call.fields)
    )


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _address_hash(row: PreparedRow) -> bytes:
    return _hash(row.key)


def _event_name(row: PreparedRow) -> bytes:
    return _hash(row.event_id)
