"""Records what Iterable holds in one SQLite file, so that a run sends only what is new or changed.

Iterable identifies users by email or user id, and events by id, within a project. So does the
ledger: for each user and each event it has two hashes of what was delivered last. The content hash
is over the values in MySQL: while it stays the same, the row needs no body. The body hash is over
what was sent: while it stays the same, nothing is sent again.

An entry belongs to a project: to the one that ITERABLE_PROJECT names, else to the API key, because
another key may belong to another project.

The open file is also the lock that admits one run at a time: the kernel releases it when the
process ends, in whatever way.
"""

import functools
import hashlib
import itertools
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from records.exit_statuses import ExitStatus, RunError
from records.files import in_the_way
from records.outcomes import Call, CallStatus, Delivery

# In the file's header: "ItS" and the number of the format.
APPLICATION_ID = 0x49745307
# Most bytes that the two entries of a row take in the file and in its write-ahead log.
ENTRY_BYTES = 300
# An entry that no run has needed for this time is dropped: Query 2 looks back seven days.
KEEP_DAYS = 30
# An entry that is still needed is marked only after this time, because each mark is a write.
MARK_DAYS = 7
# Old versions of SQLite allow 999 parameters in a statement, and each row takes four.
LOOKUP_ROWS = 240

MOVE_AWAY = (
    "Name another file or move it away; the next run then sends every row again, and journeys in "
    "Iterable may start again"
)
IN_USE = (
    "Another run is in progress: it has locked STATE_FILE {}. This run did nothing. Wait for the "
    "other one to end; a different job needs its own STATE_FILE. If no other run is in progress, "
    "the file system has no locks: put the file on a local disk"
)
_LOOK = "Check its permissions, those of its folder, and the free disk space"
_KEEP = "Do not remove it: without it, the next run sends every row again"
# SQLite's errors for a file that is not a ledger, or is damaged.
_NO_LEDGER = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}

# Whether the project has all fields of a call. For calls of this run, settle() says so later.
_NOT_SURE, _SURE, _OF_THIS_RUN = 0, 1, 2

# An entry is looked up by its name, a hash of the user or of the event's id: SQLite finds a whole
# number in less than half the time of any other key. ``key`` is a hash of the host with the API key
# or with the project's name. It has 32 bits and ``content`` 48, so that more fits into memory.
_SCHEMA = (
    "CREATE TABLE entry (name INTEGER PRIMARY KEY, key INTEGER NOT NULL, content INTEGER NOT NULL,"
    " body INTEGER NOT NULL, day INTEGER NOT NULL, sure INTEGER NOT NULL)",
    # Few entries are of this run, so that settle() need not read them all.
    f"CREATE INDEX unsettled ON entry (sure) WHERE sure = {_OF_THIS_RUN}",
    "CREATE TABLE note (name TEXT PRIMARY KEY, text TEXT NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
)

_HASH = struct.Struct(">q")
# The names of a row's profile and event, each followed by its content.
_ROW = struct.Struct(">q8xqq8xq")


class LedgerError(RunError):
    """The ledger cannot be read or written. The message says what to do about it."""


class Held(NamedTuple):
    """What the ledger knows of one call.

    ``same``: Iterable has this content; ``sure``: the project has all its fields, as far as known;
    ``stale``: the entry must be marked as still needed. ``body`` is the hash of the body that was
    delivered last: empty if that was to another project, None if there is no entry.
    """

    same: bool = False
    sure: bool = False
    stale: bool = False
    body: bytes | None = None


# For content that Iterable holds completely, and whose entry needs no change.
HELD = Held(same=True, sure=True)


class DeliveryLedger(AbstractContextManager["DeliveryLedger"]):
    """The ledger in *path*, created if there is none; a context manager that keeps it locked.

    *base_url*, *api_key* and *project*, a name for the project of that key, say where the job
    delivers. The file has only hashes of them, of users and of bodies. *job* is the query file of
    the job: two jobs need two ledgers; "" fits any. ``notes`` are texts of earlier runs, by name.

    Every method raises LedgerError if the file is damaged or the disk is full; a file that is not
    a ledger is not changed. If another run is using it, the error's status is BUSY.
    """

    def __init__(
        self, path: Path, base_url: str, api_key: str, job: str = "", project: str = ""
    ) -> None:
        self.path = path
        self._today = int(time.time() // 86_400)
        self._stale_day = self._today - MARK_DAYS
        self._key = _number(f"{base_url}\n{api_key}")
        self._project = _number(f"{base_url}\nproject {project}") if project else self._key
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Each statement outside BEGIN and COMMIT commits by itself.
            self._sqlite = sqlite3.connect(path, isolation_level=None, timeout=0.2)
        try:
            with self._explained():
                self._lock_file()
                self.notes: dict[str, str] = dict(self._sqlite.execute("SELECT * FROM note"))
            self._check_job(job)
        except LedgerError:
            self._sqlite.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._sqlite.close()

    # --- What Iterable holds

    def held(self, rows: Sequence[Delivery]) -> Iterator[tuple[Held, Held]]:
        """Return what the ledger knows of the profile and of the event of each of *rows*."""
        held = [HELD] * (2 * len(rows))
        rest = (self._key, self._project, self._stale_day)
        with self._explained():
            for start in range(0, len(rows), LOOKUP_ROWS):
                some = rows[start : start + LOOKUP_ROWS]
                numbers = itertools.chain.from_iterable(map(_numbers_of, some))
                found = self._sqlite.execute(_lookup(len(some)), (*numbers, *rest))
                for place, *entry in found:
                    held[2 * start + place] = self._judge(*entry)
        return zip(held[::2], held[1::2], strict=True)

    def _judge(self, key: int | None, same: int, body: int, sure: int, day: int) -> Held:
        """Return what an entry says of a call; *key* is None where there is no entry."""
        if key not in {self._key, self._project}:
            return Held(body=None if key is None else b"")
        return Held(bool(same), sure == _SURE, day < self._stale_day, _HASH.pack(body))

    def counts(self) -> tuple[int, int]:
        """Return the number of entries of this project, and of all projects."""
        with self._explained():
            sql = "SELECT count(CASE WHEN key IN (?, ?) THEN 1 END), count(*) FROM entry"
            own, total = self._sqlite.execute(sql, (self._key, self._project)).fetchone()
        return own, total

    def forget(self, calls: Sequence[Call]) -> None:
        """Delete the entries of *calls*, and make sure that a power failure does not undo it.

        While a request is in flight, nobody knows what Iterable has. If the run dies then, an old
        entry would wrongly say that Iterable still has the older content.
        """
        if calls:
            with self._transaction(durable=True):
                self._delete(calls)

    def renew(self, calls: Sequence[Call]) -> None:
        """Note that the entries of *calls* are still needed, and what their contents are now."""
        if calls:
            rows = [(_hash(call.content), self._today, _hash(call.name)) for call in calls]
            with self._transaction():
                sql = "UPDATE entry SET content = ? >> 16, day = ? WHERE name = ?"
                self._sqlite.executemany(sql, rows)

    def record(self, rows: Iterable[Delivery], *, sure: bool) -> None:
        """Write entries for the calls of *rows* that Iterable accepted; delete those it refused.

        *sure*: the project is known to have all fields of this run. If not, ``settle()`` says so
        later. The entries are written when this returns.
        """
        taken, refused = [], []
        certain = _SURE if sure else _OF_THIS_RUN
        for call in itertools.chain.from_iterable((row.profile, row.event) for row in rows):
            status = call.outcome.status
            if status is CallStatus.DELIVERED:
                hashes = _hash(call.content), _hash(call.digest)
                taken.append((_hash(call.name), self._project, *hashes, self._today, certain))
            elif call.outcome.attempts and status in {CallStatus.REFUSED, CallStatus.FORGOTTEN}:
                refused.append(call)
        if taken or refused:
            with self._transaction():
                self._delete(refused)
                # Not ON CONFLICT DO UPDATE, which older versions of SQLite lack.
                sql = "INSERT OR REPLACE INTO entry VALUES (?, ?, ? >> 16, ?, ?, ?)"
                self._sqlite.executemany(sql, taken)

    def _delete(self, calls: Iterable[Call]) -> None:
        sql = "DELETE FROM entry WHERE name = ?"
        self._sqlite.executemany(sql, [(_hash(call.name),) for call in calls])

    # --- Runs

    def begin_run(self, notes: Mapping[str, str]) -> None:
        """Note what the run is like, and drop what no run has needed for ``KEEP_DAYS`` days."""
        # Of a run that was killed.
        self.settle(sure=False)
        with self._transaction():
            oldest = self._today - KEEP_DAYS
            self._sqlite.execute("DELETE FROM entry WHERE day < ?", (oldest,))
            if self._key != self._project:
                # Entries from before the project had a name.
                sql = "UPDATE entry SET key = ? WHERE key = ?"
                self._sqlite.execute(sql, (self._project, self._key))
        self.note({**self.notes, **notes})

    def settle(self, *, sure: bool) -> None:
        """Say whether the project has all fields of what this run has delivered up to now."""
        certain = _SURE if sure else _NOT_SURE
        with self._transaction():
            # The number stands in the statement, or SQLite would not take the index.
            sql = f"UPDATE entry SET sure = ? WHERE sure = {_OF_THIS_RUN}"  # noqa: S608 - a constant
            self._sqlite.execute(sql, (certain,))

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep texts under their names for later runs."""
        self.notes |= notes
        with self._transaction():
            self._sqlite.executemany("INSERT OR REPLACE INTO note VALUES (?, ?)", notes.items())

    # --- File

    def _lock_file(self) -> None:
        """Lock the file, and create the tables if it is new."""
        execute = self._sqlite.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        # The lock is taken here, and kept because of the line above.
        execute("BEGIN EXCLUSIVE")
        found = execute("PRAGMA application_id").fetchone()[0]
        if not found and not execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA:
                execute(statement)
        elif found != APPLICATION_ID:
            text = "belongs to another program, or to another version of this one"
            raise LedgerError(f"STATE_FILE {self.path} {text}. {MOVE_AWAY}")
        execute("COMMIT")
        if (damage := execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            damage = damage.splitlines()[-1]
            raise LedgerError(f"STATE_FILE {self.path} is damaged ({damage:.80}). {MOVE_AWAY}")
        execute("PRAGMA journal_mode = WAL")
        # In KiB. Names are hashes, so each look-up needs another page.
        execute("PRAGMA cache_size = -16000")

    def _check_job(self, job: str) -> None:
        """Raise LedgerError if the ledger belongs to another job than *job*."""
        owner = self.notes.get("job") or job
        if job not in {"", owner}:
            raise LedgerError(
                f"STATE_FILE {self.path} belongs to the job of {owner}, but this is the job of "
                f"{job}: give each job its own STATE_FILE. If you only renamed the query file, "
                "move STATE_FILE away; the next run then sends every row again"
            )
        self.notes["job"] = owner

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Commit at the end; if *durable*, it is on disk when this returns."""
        # Other commits survive the end of the process, too. A power failure may lose the last
        # seconds; the rows of these are then sent once more.
        with self._explained(), self._sqlite:
            self._sqlite.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._sqlite.execute("BEGIN")
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            # The lowest byte is the kind of error, the other bytes its details.
            kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
            if kind == sqlite3.SQLITE_BUSY:
                raise LedgerError(IN_USE.format(self.path), ExitStatus.BUSY) from None
            advice = MOVE_AWAY if kind in _NO_LEDGER else _LOOK
            if owner := in_the_way(self.path):
                advice = f"{owner}. {_KEEP}"
            text = getattr(error, "strerror", None) or error
            raise LedgerError(f"STATE_FILE {self.path} cannot be used ({text}). {advice}") from None


@functools.cache
def _lookup(rows: int) -> str:
    """Return the SELECT of the entries of a number of *rows*, each with the place of its call.

    It leaves out calls that Iterable holds completely, usually most of them. It joins a list of
    values, because for IN SQLite would first build an index of them.
    """
    values = ",".join(f"({n},?,?)" for n in range(2 * rows))
    return (
        f"SELECT column1, key, content = column3 >> 16, body, sure, day FROM (VALUES {values})"  # noqa: S608 - only numbers
        " LEFT JOIN entry ON name = column2 WHERE key IS NULL"
        f" OR (key <> ? AND key <> ?) OR content <> column3 >> 16 OR sure <> {_SURE} OR day < ?"
    )


def _numbers_of(row: Delivery) -> tuple[int, ...]:
    """Return the name and the content of each call of *row*, as numbers for the table."""
    profile, event = row.profile, row.event
    hashes = (profile.name, profile.content, event.name, event.content)
    return _ROW.unpack(b"".join(hashes))


def _hash(digest: bytes) -> int:
    """Return the first eight bytes of a hash as a number that SQLite can hold."""
    return int(_HASH.unpack_from(digest)[0])


def _number(text: str) -> int:
    """Return a hash of *text* as a short number."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), signed=True)
