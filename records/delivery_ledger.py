"""What Iterable holds, in one SQLite file, so that a run can send only what is new.

Iterable tells users apart by their address and events by their id, within a project. So does the
ledger: for each address it remembers what profile was delivered last, for each event id what event,
as two hashes. The content hash is over the values in MySQL: while it stays the same, no body need
be made. The body hash is over what was sent: where it stays the same, nothing is sent again.

Entries belong to the project that the API key belongs to: to the one that ITERABLE_PROJECT names,
else to the key itself, because another key may be that of another project.

The open file is also the lock that lets one run at a time through: the kernel drops it with the
process, however that ends.
"""

import fcntl
import functools
import hashlib
import shutil
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from records.exit_statuses import ExitStatus, RunError
from records.file_owner import in_the_way
from records.outcomes import (
    EVENT,
    PROFILE,
    UNCHANGED,
    Call,
    CallOutcome,
    CallStatus,
    PreparedRow,
    RowOutcome,
)

# Written into the file's header: "ItSy". A file with another number is not ours.
APPLICATION_ID = 0x49745379
FORMAT_VERSION = 5
LEAST_SQLITE = (3, 26)
# What one row takes at most, in the file and in the log in front of it.
BYTES_PER_ROW = 300
SPARE_BYTES = 5_000_000
# What no run has needed for so long is dropped: Query 2 looks back seven days.
KEEP_DAYS = 30
# An entry that is still needed is marked so only now and then, because each mark is a write.
MARK_DAYS = 7
# SQLite's oldest limit of parameters in one statement is 999, and each row takes four.
LOOKUP_ROWS = 240
LOCK_WAIT_S = 0.2

MOVE_AWAY = (
    "Name another file or move it away; the next run then sends every row again, and journeys in "
    "Iterable may start again"
)

# The kind of an entry that is no call: it keeps a text about the job, in ``body``.
_NOTE = 0
# Whether the project is known to have all that was in a call. That of the run is settled later.
_NOT_SURE, _SURE, _OF_THIS_RUN = 0, 1, 2

# The name, a hash with the kind and the host in it, is what a look is for: SQLite finds a whole
# number in less than half of the time of any other key.
_SCHEMA = """
CREATE TABLE entry (
    name INTEGER PRIMARY KEY, kind INTEGER NOT NULL, key INTEGER NOT NULL,
    content INTEGER NOT NULL, body NOT NULL, day INTEGER NOT NULL, sure INTEGER NOT NULL
)
"""
# To find what a run has left unsettled, which is little, without reading all.
_INDEX = f"CREATE INDEX unsettled ON entry (sure) WHERE sure = {_OF_THIS_RUN}"

# A hash as a number; and of a row the halves of its names, each with its content behind it.
_HASH = struct.Struct(">q")
_NAMES = struct.Struct(">q8xqq8xq")


class LedgerError(RunError):
    """The ledger cannot be read or written. The message says what to do about it."""


class LedgerBusyError(RunError):
    """Another run is using the ledger."""

    status = ExitStatus.BUSY


class Held(NamedTuple):
    """What the ledger has of one call.

    ``same``: Iterable has this content; ``sure``: all of it, as far as can be known; ``stale``: it
    is time to mark the entry as still needed. ``known``: there is an entry. ``body`` is the hash of
    what was delivered last to this project; None if that is not known, or of no use.
    """

    same: bool = False
    sure: bool = False
    stale: bool = False
    known: bool = False
    body: bytes | None = None


_NOTHING = Held()
# Of what Iterable holds as a whole, and of which nothing is to be noted.
HELD = Held(same=True, sure=True, known=True)


class DeliveryLedger:
    """The ledger in *path*, made if there is none; locked until ``close()``.

    *base_url* and *api_key* say where things are delivered and with which right, *project* is a
    name for the project of that key. Only hashes of them, of addresses and of bodies are kept.
    *job* is the file of its query: two jobs need two ledgers.

    Every method raises LedgerError when the file is damaged or the disk is full; a file that is
    not a ledger is left as it is.

    Raises:
        LedgerBusyError: another run is using it.

    """

    def __init__(
        self, path: Path, base_url: str, api_key: str, job: str = "", project: str = ""
    ) -> None:
        if sqlite3.sqlite_version_info < LEAST_SQLITE:
            text = "STATE_FILE needs SQLite 3.26 or newer, and this Python has"
            raise LedgerError(f"{text} {sqlite3.sqlite_version}")
        self._path = path
        self._today = int(time.time() // 86_400)
        # What tells the names of one kind and host from all others.
        self._apart = {kind: _number(f"{base_url}\nkind {kind}") for kind in (PROFILE, EVENT)}
        self._key = _number(f"{base_url}\n{api_key}")
        self._project = _number(f"{base_url}\nproject {project}") if project else self._key
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Each statement commits by itself, unless it stands between BEGIN and COMMIT.
            self._sqlite = sqlite3.connect(path, isolation_level=None, timeout=LOCK_WAIT_S)
        try:
            with self._explained():
                self._take()
                self._belong_to(job)
                self._use_project()
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

    # --- What Iterable holds

    def held(self, rows: Sequence[PreparedRow]) -> Iterator[tuple[Held, Held]]:
        """Return what is known of the profile and of the event of each of *rows*."""
        held = [HELD] * (2 * len(rows))
        with self._explained():
            for start in range(0, len(rows), LOOKUP_ROWS):
                some = rows[start : start + LOOKUP_ROWS]
                parameters = (*self._parameters(some), self._key, self._today - MARK_DAYS)
                for place, *entry in self._sqlite.execute(_lookup(len(some)), parameters):
                    held[2 * start + place] = self._judge(*entry)
        pairs = iter(held)
        return zip(pairs, pairs, strict=True)

    def _parameters(self, rows: Sequence[PreparedRow]) -> list[int]:
        """Return the names and contents of the calls of *rows*, as the table has them."""
        user, event = self._apart[PROFILE], self._apart[EVENT]
        parameters: list[int] = []
        for row in rows:
            profile, track = row.profile, row.event
            hashes = (profile.name, profile.content, track.name, track.content)
            name, content, event_name, event_content = _NAMES.unpack(b"".join(hashes))
            parameters += (name ^ user, content, event_name ^ event, event_content)
        return parameters

    def _judge(self, key: int | None, same: int, body: int, sure: int, day: int) -> Held:
        """Return what an entry says of a call; *key* is None where there is no entry."""
        if key is None:
            return _NOTHING
        if key != self._key:
            return Held(known=True)
        stale = day < self._today - MARK_DAYS
        return Held(bool(same), sure == _SURE, stale, known=True, body=_HASH.pack(body))

    def count(self, kind: int | None = None) -> int:
        """Return the number of entries of this project, of one *kind* or of both."""
        kinds = (PROFILE, EVENT) if kind is None else (kind, kind)
        sql = "SELECT count(*) FROM entry WHERE kind IN (?, ?) AND key = ?"
        return self._number_in(sql, *kinds, self._key)

    def count_all(self) -> int:
        """Return the number of entries of all projects."""
        return self._number_in("SELECT count(*) FROM entry WHERE kind <> ?", _NOTE)

    @property
    def is_empty(self) -> bool:
        """Whether there is no entry of this project."""
        return not self._has_entries(self._key)

    def _has_entries(self, key: int) -> bool:
        sql = "SELECT EXISTS (SELECT 1 FROM entry WHERE kind <> ? AND key = ?)"
        return bool(self._number_in(sql, _NOTE, key))

    def _name(self, call: Call) -> int:
        """Return what the table calls the profile or the event of *call*."""
        return _hash(call.name) ^ self._apart[call.kind]

    def forget(self, calls: Sequence[Call]) -> None:
        """Forget the entries of *calls*, even after a power failure.

        From when a request leaves until its answer is here, nobody knows what Iterable has, and the
        older content must not come back as if it were still there.
        """
        if calls:
            with self._transaction(durable=True):
                self._delete(calls)

    def renew(self, calls: Sequence[Call]) -> None:
        """Note that the entries of *calls* are still needed, and what their contents are now."""
        if calls:
            rows = [(_hash(call.content), self._today, self._name(call)) for call in calls]
            with self._transaction():
                sql = "UPDATE entry SET content = ?, day = ? WHERE name = ?"
                self._sqlite.executemany(sql, rows)

    def record(self, outcomes: Iterable[RowOutcome], *, sure: bool) -> None:
        """Remember the calls that Iterable has taken; forget those that it has refused.

        *sure*: the project is known to have all fields of this run. If not, ``settle()`` says
        later. On disk when this returns.
        """
        taken, refused = [], []
        certain = _SURE if sure else _OF_THIS_RUN
        for call, outcome in _calls_of(outcomes):
            if outcome.status is CallStatus.DELIVERED:
                place = (self._name(call), call.kind, self._project)
                hashes = (_hash(call.content), _hash(call.digest))
                taken.append((*place, *hashes, self._today, certain))
            elif outcome.attempts and outcome.status in {CallStatus.REFUSED, CallStatus.FORGOTTEN}:
                refused.append(call)
        if taken or refused:
            with self._transaction():
                self._delete(refused)
                # Not ON CONFLICT DO UPDATE, which older versions of SQLite cannot do.
                sql = "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)"
                self._sqlite.executemany(sql, taken)

    # --- Runs

    def begin_run(self, notes: Mapping[str, str]) -> None:
        """Note what the run is like, and drop what no run has needed for ``KEEP_DAYS`` days."""
        with self._transaction():
            sql = "DELETE FROM entry WHERE kind <> ? AND day < ?"
            self._sqlite.execute(sql, (_NOTE, self._today - KEEP_DAYS))
            # Of a run that was killed.
            self._settle(_NOT_SURE)
            if self._key != self._project:
                # What the key has delivered before the project had a name.
                sql = "UPDATE entry SET key = ? WHERE kind <> ? AND key = ?"
                self._sqlite.execute(sql, (self._project, _NOTE, self._key))
                self._key = self._project
            for name, text in notes.items():
                self._note(name, text)

    def settle(self, *, sure: bool) -> None:
        """Say whether the project has all fields of what this run has delivered up to now."""
        with self._transaction():
            self._settle(_SURE if sure else _NOT_SURE)

    def _settle(self, certain: int) -> None:
        # The number stands in the statement, or SQLite would not take the index.
        sql = f"UPDATE entry SET sure = ? WHERE sure = {_OF_THIS_RUN}"  # noqa: S608 - a constant
        self._sqlite.execute(sql, (certain,))

    def noted(self, name: str) -> str:
        """Return what is noted under *name*, empty for nothing."""
        with self._explained():
            sql = "SELECT body FROM entry WHERE name = ?"
            found = self._sqlite.execute(sql, (_number(f"note {name}"),)).fetchone()
        return str(found[0]) if found else ""

    def note(self, name: str, text: str) -> None:
        """Keep *text* under *name* for later runs."""
        with self._transaction():
            self._note(name, text)

    def _note(self, name: str, text: str) -> None:
        sql = "INSERT OR REPLACE INTO entry VALUES (?, ?, 0, 0, ?, ?, ?)"
        row = (_number(f"note {name}"), _NOTE, text, self._today, _SURE)
        self._sqlite.execute(sql, row)

    def check_room(self, rows: int) -> None:
        """Raise LedgerError when the disk has no room for *rows* more rows."""
        check_room(self._path, rows)

    def _delete(self, calls: Sequence[Call]) -> None:
        sql = "DELETE FROM entry WHERE name = ?"
        self._sqlite.executemany(sql, [(self._name(call),) for call in calls])

    def _number_in(self, sql: str, *values: int) -> int:
        with self._explained():
            return int(self._sqlite.execute(sql, values).fetchone()[0])

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
            execute(_SCHEMA)
            execute(_INDEX)
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        elif application != APPLICATION_ID:
            raise LedgerError(f"STATE_FILE {self._path} belongs to another program; name another")
        elif version != FORMAT_VERSION:
            raise LedgerError(
                f"STATE_FILE {self._path} has format {version} and this program reads "
                f"{FORMAT_VERSION}. {MOVE_AWAY}"
            )
        execute("COMMIT")
        if (found := execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise LedgerError(f"STATE_FILE {self._path} is damaged ({found:.80}). {MOVE_AWAY}")
        # A commit is then an append, and survives the process at once. After a power failure the
        # last seconds may be missing; what they held is sent once more.
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        # In KiB. A name is a hash, so each one is looked up in another page.
        execute("PRAGMA cache_size = -16000")

    def _belong_to(self, job: str) -> None:
        """Raise LedgerError if the ledger is another job's than *job*, unless that has no name."""
        if not job:
            return
        owner = self.noted("job")
        if not owner:
            self.note("job", job)
        elif owner != job:
            raise LedgerError(
                f"STATE_FILE {self._path} belongs to the job of {owner}, and this is the job of "
                f"{job}: give each a STATE_FILE of its own. If the query's file was only renamed, "
                "move STATE_FILE away; the next run then sends every row again"
            )

    def _use_project(self) -> None:
        """Go by the project's name, unless it is new: then the key counts until a run begins."""
        if self._has_entries(self._project):
            self._key = self._project

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
                # SQLite says the same where the file system has no locks at all.
                check_locks(self._path, self._path.parent)
                raise LedgerBusyError(
                    f"Another run is under way: it has locked STATE_FILE {self._path}. This one "
                    "did nothing; let the other end. Another job needs a STATE_FILE of its own"
                ) from None
            text = getattr(error, "strerror", None) or error
            advice = in_the_way("STATE_FILE", self._path) or _advice(kind)
            raise LedgerError(
                f"STATE_FILE {self._path} cannot be used ({text}). {advice}"
            ) from None


def check_room(path: Path, rows: int) -> None:
    """Raise LedgerError when the disk of the ledger in *path* has no room for *rows* more rows."""
    needed = rows * BYTES_PER_ROW + SPARE_BYTES
    if (free := shutil.disk_usage(path.parent).free) < needed:
        raise LedgerError(
            f"STATE_FILE {path} needs {needed / 1e6:.0f} MB of free disk and has "
            f"{free / 1e6:.0f} MB; make room, or name a file on another disk"
        )


def check_locks(path: Path, folder: Path) -> None:
    """Raise LedgerError if nothing can be locked in *folder*, where *path* is or will be."""
    try:
        # Not STATE_FILE itself: closing it again would drop locks of SQLite's.
        with tempfile.TemporaryFile(dir=folder) as scratch:
            fcntl.lockf(scratch, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        text = f"STATE_FILE {path} cannot be locked: {error.strerror}. Put it on a local disk"
        raise LedgerError(text) from None


def _advice(kind: int) -> str:
    """Return what to do about one of SQLite's kinds of errors."""
    if kind in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return MOVE_AWAY
    if kind == sqlite3.SQLITE_ERROR:
        return f"Its tables are not this program's, to SQLite {sqlite3.sqlite_version}. {MOVE_AWAY}"
    return "Look at its rights, those of its folder, and the free disk"


def _calls_of(outcomes: Iterable[RowOutcome]) -> Iterator[tuple[Call, CallOutcome]]:
    """Yield the calls of rows that may say something new, each with its outcome."""
    for outcome in outcomes:
        row, update, track = outcome.prepared, outcome.users_update, outcome.events_track
        if row is not None and not update is track is UNCHANGED:
            yield row.profile, update
            yield row.event, track


@functools.cache
def _lookup(rows: int) -> str:
    """Return the SELECT of the entries of a number of *rows*, each with the place of its call.

    Calls that Iterable holds as a whole are left out: most of most nights. A join with a list of
    values: for IN, SQLite would first make an index of them.
    """
    values = ",".join(f"({n},?,?)" for n in range(2 * rows))
    return (
        f"SELECT column1, key, content = column3, body, sure, day FROM (VALUES {values})"  # noqa: S608 - only numbers
        " LEFT JOIN entry ON name = column2 WHERE key IS NULL"
        f" OR key <> ? OR content <> column3 OR sure <> {_SURE} OR day < ?"
    )


def _hash(digest: bytes) -> int:
    """Return the first eight bytes of a hash as a number that SQLite can hold."""
    return int(_HASH.unpack_from(digest)[0])


def _number(text: str) -> int:
    """Return a hash of *text* as a number that SQLite can hold."""
    return _hash(hashlib.blake2b(text.encode(), digest_size=8).digest())
