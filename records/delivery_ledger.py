"""What Iterable has taken, in one SQLite file, so that a run can send only what is new.

Iterable tells users apart by their address and events by their id, within a project. So does the
ledger: for each address it remembers a hash of the profile that was delivered last, for each event
id a hash of the event, and with which API key. Another key may belong to the same project, so what
was delivered with one key proves nothing under another, and is forgotten before that key sends.

The open file is also the lock that lets one run at a time through: the kernel drops it with the
process, however that ends.
"""

import fcntl
import functools
import hashlib
import itertools
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from operator import attrgetter
from pathlib import Path
from typing import Self

from records.exit_statuses import ExitStatus, RunError
from records.least_versions import old_sqlite
from records.outcomes import UNCHANGED, CallOutcome, CallStatus, PreparedRow, RowOutcome

# Written into the file's header: "ItSy". A file with another number is not ours.
APPLICATION_ID = 0x49745379
FORMAT_VERSION = 3
# What one row takes at most, in the file and in the log in front of it.
BYTES_PER_ROW = 400
SPARE_BYTES = 5_000_000
# What no run has needed for so long is dropped: Query 2 looks back seven days.
KEEP_DAYS = 30
# An entry that is still needed is marked so only now and then, because each mark is a write.
MARK_DAYS = 7
# SQLite's oldest limit of parameters in one statement is 999, and each row takes two.
LOOKUP_ROWS = 400
# Who only looks whether the lock is free, as ``is_in_use()`` does, has it for less than that.
LOCK_WAIT_S = 0.2

MOVE_AWAY = (
    "Name another file or move it away; the next run then sends every row again, and journeys in "
    "Iterable may start again"
)

_SCHEMA = """
CREATE TABLE origin (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE);
-- What a run has delivered counts only if it is proven: if nothing was left out of it unnoticed.
CREATE TABLE run (id INTEGER PRIMARY KEY, day INTEGER NOT NULL, proven INTEGER NOT NULL);
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
# Formats 1 and 2, in the order in which tables can be dropped.
_OLD_TABLES = ("delivered", "destination", "event", "profile", "run", "origin")
_UNPROVEN = "SELECT id FROM run WHERE NOT proven"
# What the tables are asked of a row: the name and the hash of the body.
_PROFILE = attrgetter("user_name", "user_hash")
_EVENT = attrgetter("event_name", "event_hash")


class LedgerError(RunError):
    """The ledger cannot be read or written. The message says what to do about it."""


class LedgerBusyError(RunError):
    """Another run is using the ledger."""

    status = ExitStatus.BUSY


class Held(IntEnum):
    """What is known of one call of a row."""

    NOTHING = 0
    OTHER = 1  # Iterable has other content under this name, or may have
    SAME = 2  # Iterable has exactly this content
    SAME_LONG_SINCE = 3  # the same, and it is time to mark that it is still needed


_HELD = tuple(Held)


@dataclass(frozen=True, slots=True)
class Change:
    """Entries that sending some rows makes untrue, and entries that are still needed."""

    profiles_to_forget: list[PreparedRow] = field(default_factory=list)
    events_to_forget: list[PreparedRow] = field(default_factory=list)
    profiles_to_mark: list[PreparedRow] = field(default_factory=list)
    events_to_mark: list[PreparedRow] = field(default_factory=list)


class DeliveryLedger:
    """The ledger in *path*, made if there is none; locked until ``close()``.

    *base_url* and *api_key* say where things are delivered and with which right. Only hashes of
    them, of addresses and of bodies are kept. *job* is the file of its query: two jobs in one
    ledger would take each other's word for what Iterable has.

    Every method raises LedgerError when the file is damaged or the disk is full; a file that is
    not a ledger is left as it is. ``is_renewed``: it was of an older version, and is empty now.

    Raises:
        LedgerBusyError: another run is using it.

    """

    def __init__(self, path: Path, base_url: str, api_key: str, job: str = "") -> None:
        self._path = path
        self.is_renewed = False
        if text := old_sqlite(sqlite3.sqlite_version_info):
            raise LedgerError(text)
        self._today = int(time.time() // 86_400)
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Each statement commits by itself, unless it stands between BEGIN and COMMIT.
            self._sqlite = sqlite3.connect(path, isolation_level=None, timeout=LOCK_WAIT_S)
        try:
            with self._explained():
                self._take()
                self._belong_to(job)
                self._host = self._number_of(base_url)
                self._api_key = self._number_of(f"{base_url}\n{api_key}")
                self._number_runs()
                self._exercise()
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

    def held(self, rows: Sequence[PreparedRow]) -> Iterable[tuple[Held, Held]]:
        """Return what is known of the profile and of the event of each of *rows*."""
        with self._explained():
            profiles = self._held("profile", list(map(_PROFILE, rows)))
            events = self._held("event", list(map(_EVENT, rows)))
        return zip(profiles, events, strict=True)

    def apply(self, change: Change) -> None:
        """Forget and mark what *change* says.

        What is forgotten stays so even after a power failure: from when a request leaves until its
        answer is here, nobody knows what Iterable has, and the older content must not come back as
        if it were still there.
        """
        profiles = [row.user_name for row in change.profiles_to_forget]
        events = [row.event_name for row in change.events_to_forget]
        if profiles or events:
            with self._transaction(durable=True):
                self._delete("profile", profiles)
                self._delete("event", events)
        profiles = [row.user_name for row in change.profiles_to_mark]
        events = [row.event_name for row in change.events_to_mark]
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
                profiles.append(self._row(row.user_name, row.user_hash))
            elif _disproves(update):
                refused_profiles.append(row.user_name)
            if _is_whole(track):
                events.append(self._row(row.event_name, row.event_hash))
            elif _disproves(track):
                refused_events.append(row.event_name)
        if profiles or events or refused_profiles or refused_events:
            with self._transaction():
                self._delete("profile", refused_profiles)
                self._delete("event", refused_events)
                self._insert("profile", profiles)
                self._insert("event", events)

    def begin_run(self, *, proven: bool) -> None:
        """Note that a run begins, and drop what no run has needed for ``KEEP_DAYS`` days.

        Unless the run is *proven* from the start, what it delivers counts only from ``prove()`` on.
        What it finds delivered by others counts as before.
        """
        execute = self._sqlite.execute
        with self._transaction():
            if not proven:
                self._marking = self._run - 1
                execute("INSERT INTO run VALUES (?, ?, ?)", (self._marking, self._today, True))
            execute("INSERT INTO run VALUES (?, ?, ?)", (self._run, self._today, proven))
            (first_kept,) = execute(
                "SELECT min(id) FROM run WHERE day >= ?", (self._today - KEEP_DAYS,)
            ).fetchone()
            for table, column in (("profile", "run"), ("event", "run"), ("run", "id")):
                execute(f"DELETE FROM {table} WHERE {column} < ?", (first_kept,))  # noqa: S608

    @property
    def is_empty(self) -> bool:
        """Whether there is not one delivery in the ledger."""
        with self._explained():
            sql = "SELECT EXISTS (SELECT 1 FROM profile) OR EXISTS (SELECT 1 FROM event)"
            return not self._sqlite.execute(sql).fetchone()[0]

    def noted(self, name: str) -> str:
        """Return what ``note()`` has kept under *name*, empty for nothing."""
        with self._explained():
            found = self._sqlite.execute("SELECT text FROM note WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""

    def note(self, name: str, text: str) -> None:
        """Keep *text* under *name* for later runs."""
        with self._transaction():
            self._sqlite.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, text))

    def has_unproven_runs(self) -> bool:
        """Whether what some earlier run has delivered does not count yet."""
        with self._explained():
            sql = "SELECT 1 FROM run WHERE NOT proven AND id < ? LIMIT 1"
            return self._sqlite.execute(sql, (self._run,)).fetchone() is not None

    def prove(self) -> None:
        """Let everything count that this run has delivered."""
        with self._transaction():
            self._sqlite.execute("UPDATE run SET proven = 1 WHERE id = ?", (self._run,))

    def prove_earlier_runs(self) -> None:
        """Let everything count that earlier runs have delivered."""
        with self._transaction():
            self._sqlite.execute("UPDATE run SET proven = 1 WHERE id < ?", (self._run,))

    def forget_unproven(self) -> None:
        """Forget everything that does not count yet: it is sent again."""
        with self._transaction():
            for table in ("profile", "event"):
                self._sqlite.execute(f"DELETE FROM {table} WHERE run IN ({_UNPROVEN})")  # noqa: S608
            self._sqlite.execute("UPDATE run SET proven = 1 WHERE id < ?", (self._run,))

    def check_room(self, rows: int) -> None:
        """Raise LedgerError when the disk has no room for *rows* more rows."""
        check_room(self._path, rows)

    # --- Tables

    def _held(self, table: str, wanted: Sequence[tuple[bytes, bytes]]) -> list[Held]:
        """Return what is known of *wanted*, each a name and the hash of a body."""
        held = [Held.NOTHING] * len(wanted)
        for start in range(0, len(wanted), LOOKUP_ROWS):
            some = wanted[start : start + LOOKUP_ROWS]
            # For bytes, Python would first look whether something is to convert them.
            names_and_bodies = map(bytearray, itertools.chain.from_iterable(some))
            values = (self._api_key, self._first_fresh_run, *names_and_bodies, self._host)
            for place, found in self._sqlite.execute(_lookup(table, len(some)), values):
                held[start + place] = _HELD[found]
        return held

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
        self._sqlite.executemany(sql, [(self._marking, self._host, name) for name in names])

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
            self.is_renewed = True
        elif version > FORMAT_VERSION:
            raise LedgerError(
                f"STATE_FILE {self._path} has format {version} and this program reads "
                f"{FORMAT_VERSION}; use the version that wrote it, or name another file"
            )
        execute("CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, text TEXT NOT NULL)")
        execute("COMMIT")
        if (found := execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise LedgerError(f"STATE_FILE {self._path} is damaged ({found:.80}). {MOVE_AWAY}")
        # A commit is then an append, and survives the process at once. After a power failure the
        # last seconds may be missing; what they held is sent once more.
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        # In KiB. A name is a hash, so each one is looked up in another page.
        execute("PRAGMA cache_size = -8000")

    def _belong_to(self, job: str) -> None:
        """Raise LedgerError if the ledger is another job's than *job*, unless that has no name."""
        if not job:
            return
        execute = self._sqlite.execute
        execute("CREATE TABLE IF NOT EXISTS job (name TEXT NOT NULL)")
        execute("INSERT INTO job SELECT ? WHERE NOT EXISTS (SELECT 1 FROM job)", (job,))
        (owner,) = execute("SELECT name FROM job").fetchone()
        if owner != job:
            raise LedgerError(
                f"STATE_FILE {self._path} is that of the job of {owner}, and this is the job of "
                f"{job}: give each a STATE_FILE of its own. If the query's file was only renamed, "
                "move STATE_FILE away; the next run then sends every row again"
            )

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
        # The number before is for what a run that is not proven only marks.
        self._run = int(last) + 2
        self._marking = self._run
        (fresh,) = execute(
            "SELECT min(id) FROM run WHERE day > ?", (self._today - MARK_DAYS,)
        ).fetchone()
        self._first_fresh_run = int(fresh or self._run)

    def _exercise(self) -> None:
        """Run each statement on an entry that is taken back.

        What this SQLite or this file cannot do is to show now, not when rows are on their way.
        """
        name, execute = _hash(""), self._sqlite.execute
        execute("BEGIN")
        try:
            for table in ("profile", "event"):
                self._insert(table, [self._row(name, name)])
                self._mark(table, [name])
                self._held(table, [(name, name)] * LOOKUP_ROWS)
                self._delete(table, [name])
        finally:
            execute("ROLLBACK")

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
                raise LedgerBusyError(
                    f"Another run is under way: it has locked STATE_FILE {self._path}. This one "
                    "did nothing; let the other end. Another job needs a STATE_FILE of its own"
                ) from None
            text = getattr(error, "strerror", None) or error
            raise LedgerError(
                f"STATE_FILE {self._path} cannot be used ({text}). {_advice(kind)}"
            ) from None


def check_room(path: Path, rows: int) -> None:
    """Raise LedgerError when the disk of the ledger in *path* has no room for *rows* more rows."""
    needed = rows * BYTES_PER_ROW + SPARE_BYTES
    if (free := shutil.disk_usage(path.parent).free) < needed:
        raise LedgerError(
            f"STATE_FILE {path} needs {needed / 1e6:.0f} MB of free disk and has "
            f"{free / 1e6:.0f} MB; make room, or name a file on another disk"
        )


def is_in_use(path: Path) -> bool:
    """Whether another process has locked the ledger in *path*. Nothing is changed by looking.

    Source: "The Lock-Byte Page", https://www.sqlite.org/fileformat2.html
    """
    first_byte, readers = 0x4000_0002, 510
    with path.open("rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, readers, first_byte)
        except (BlockingIOError, PermissionError):
            return True
    return False


def _advice(kind: int) -> str:
    """Return what to do about one of SQLite's kinds of errors."""
    if kind in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return MOVE_AWAY
    if kind == sqlite3.SQLITE_ERROR:
        return f"Its tables are not this program's, to SQLite {sqlite3.sqlite_version}. {MOVE_AWAY}"
    return "Look at its folder's rights and the free disk"


def _calls_of(
    outcomes: Iterable[RowOutcome],
) -> Iterator[tuple[PreparedRow, CallOutcome, CallOutcome]]:
    for outcome in outcomes:
        row, update, track = outcome.prepared, outcome.users_update, outcome.events_track
        # Rows that needed no call, which may be most, say nothing new.
        if row is not None and not update is track is UNCHANGED:
            yield row, update, track


def _is_whole(call: CallOutcome) -> bool:
    """Whether Iterable has taken all of the call."""
    return call.status is CallStatus.DELIVERED and not call.fields


def _disproves(call: CallOutcome) -> bool:
    """Whether the outcome shows that Iterable does not have what was remembered."""
    return call.status in {CallStatus.REFUSED, CallStatus.FORGOTTEN} or (
        call.status is CallStatus.DELIVERED and bool(call.fields)
    )


@functools.cache
def _lookup(table: str, count: int) -> str:
    """Return the SELECT of the ``Held`` of *count* names and bodies, each with its place.

    A join with a list of values: for IN, SQLite would first make an index of them.
    """
    values = ",".join(f"({place},?,?)" for place in range(count))
    return (
        f"SELECT column1, CASE WHEN body = column3 AND api_key = ? AND run NOT IN ({_UNPROVEN})"  # noqa: S608
        f" THEN {Held.SAME:d} + (run < ?) ELSE {Held.OTHER:d} END"
        f" FROM (VALUES {values}) JOIN {table} ON host = ? AND name = column2"
    )


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
