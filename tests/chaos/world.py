"""The world in which run.py lets the job run, and what must hold in it whatever happens."""

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, NamedTuple, Self

from db_connection import JOB_QUERY, load_query
from iterable_api.payloads import Payloads, RowError
from sandbox.database import NoServerError, PrivateDatabase
from sandbox.iterable import IterableSandbox
from sandbox.stand_in import Received
from tests import schema
from tests.conftest import FETCHED_FOLDER, ROOT, Database, DatabaseServer, local_servers

MAIN = ROOT / "main.py"
BARE = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
# A run that takes longer hangs. It is far beyond what the slowest needs.
END_LIMIT_S = 120.0
MAX_MESSAGE = 3000
OUTCOMES = ("successful", "partial_failures", "total_failures", "unchanged", "not_attempted")
ARRIVED = {"delivered", "unchanged"}


class Broken(Exception):  # noqa: N818 - a promise was
    """The job did what it must never do."""


def demand(holds: object, otherwise: str) -> None:
    """Raise Broken unless *holds*."""
    if not holds:
        raise Broken(otherwise[:MAX_MESSAGE])


# --- The job as a process -------------------------------------------------------------------------


class Run(NamedTuple):
    """A run that is over. ``report`` is its results file, None if it left none."""

    flags: tuple[str, ...]
    status: int
    errors: str  # what it wrote on standard error
    report: dict[str, Any] | None
    requests: list[Received]  # what the sandbox saw of it


class Process:
    """A run under way."""

    def __init__(self, world: "World", flags: tuple[str, ...], environ: dict[str, str]) -> None:
        self.world, self.flags = world, flags
        self.results = Path(environ["RESULTS_DIR"])
        self._before = set(self.results.glob("integration_results_*.json"))
        self.popen = subprocess.Popen(
            [sys.executable, MAIN, *flags],
            env=BARE | environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        # Through a pipe, as a full disk must not keep it from us.
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr
        with self.popen.stderr as stream:
            self._errors += stream.readlines()

    @property
    def over(self) -> bool:
        return self.popen.poll() is not None

    def wait_for(self, requests: int = 0, seconds: float = 0.0) -> bool:
        """Wait for that many requests, then so long; return whether the run still goes on."""
        limit_s = time.monotonic() + END_LIMIT_S
        while not self.over and self.world.requests_since() < requests:
            demand(time.monotonic() < limit_s, f"{self.flags} hangs before request {requests}")
            time.sleep(0.001)
        deadline_s = time.monotonic() + seconds
        while not self.over and (left := deadline_s - time.monotonic()) > 0:
            time.sleep(min(left, 0.005))
        return not self.over

    def kill(self) -> None:
        self.popen.kill()

    def end(self) -> int:
        """Wait for its end and return the exit status."""
        try:
            return self.popen.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Broken(f"{self.flags} did not end within {END_LIMIT_S:.0f} s") from None

    def finish(self) -> Run:
        """Wait for its end and gather what it left."""
        status = self.end()
        self._reader.join(5)
        reports = [
            _parsed(path)
            for path in self.results.glob("integration_results_*.json")
            if path not in self._before
        ]
        demand(len(reports) <= 1, "one run left two results files")
        report = reports[0] if reports else None
        return Run(self.flags, status, "".join(self._errors), report, self.world.take_requests())


def _parsed(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        schema.validate(document)
    except ValueError:
        raise Broken(f"{path} is not a whole results file") from None
    except AssertionError as error:
        raise Broken(f"{path} is not as the schema says: {error}") from None
    return document


# --- The world around it --------------------------------------------------------------------------


@dataclass
class World:
    """A database, an Iterable, a folder for what the job writes; and what must come of it."""

    database: Database
    iterable: IterableSandbox
    folder: Path
    rng: random.Random
    deadline_s: float = float("inf")  # of time.monotonic()
    bad: set[str] = field(default_factory=set)  # emails that Iterable does not take
    settings: dict[str, str] = field(default_factory=dict)  # more of the job's variables
    _seen: int = 0
    _started: list[Process] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what a broken promise has left running."""
        for process in self._started:
            process.kill()

    def __post_init__(self) -> None:
        self.iterable.change(log_requests=10**9, log_bytes=10**12)
        self.payloads = Payloads(self.database.name, UTC)

    @property
    def in_time(self) -> bool:
        return time.monotonic() < self.deadline_s

    def environ(self, folder: Path) -> dict[str, str]:
        return {
            **self.database.settings,
            "ITERABLE_API_KEY": "chaos",
            "ITERABLE_API_BASE_URL": self.iterable.url,
            "ITERABLE_RATE_SHARE": "1",
            "LOG_LEVEL": "WARNING",
            "LOG_FILE": str(folder / "job.log"),
            "RESULTS_DIR": str(folder / "results"),
            "STATE_FILE": str(folder / "state.sqlite3"),
            **self.settings,
        }

    def start(self, *flags: str, folder: Path | None = None, **environ: str) -> Process:
        process = Process(self, flags, self.environ(folder or self.folder) | environ)
        self._started.append(process)
        return process

    def run(self, *flags: str, folder: Path | None = None, **environ: str) -> Run:
        return self.start(*flags, folder=folder, **environ).finish()

    def forget(self) -> None:
        """Empty the project at Iterable."""
        self.iterable.reset()
        self._seen = 0

    def requests_since(self) -> int:
        """Return how many requests came since the last ``take_requests()``."""
        answered = self.iterable.stats["requests"].values()
        return sum(sum(counts.values()) for counts in answered) - self._seen

    def requests_in_all(self) -> int:
        """Return the same of a run that sends no more, when the last of them has been read."""
        count = -1
        while count != (count := self.requests_since()):
            time.sleep(0.005)
        return count

    def take_requests(self) -> list[Received]:
        """Return the requests of the run that is over."""
        self.requests_in_all()
        taken = self.iterable.requests[self._seen :]
        self._seen += len(taken)
        return taken

    # --- The database

    def fill(self, rows: int, extra: Sequence[str] = ()) -> None:
        """Put in *rows* pro users, each with one view; *extra* emails take the place of some."""
        names = ["'Ann'", "'Zoë'", "'李'", "NULL", "'O''Hara'"]
        emails = {n: f"user{n}@example.com" for n in range(1, rows + 1)}
        emails |= dict(zip(self.rng.sample(sorted(emails), len(extra)), extra, strict=True))
        users = [f"({n}, '{e}', {self.rng.choice(names)}, 'pro')" for n, e in emails.items()]
        for statement in ("DELETE FROM page_views", "DELETE FROM customers"):
            self.database.execute(statement)
        self.database.execute(
            f"INSERT INTO customers (id, email, first_name, plan_type) VALUES {', '.join(users)}"
        )
        self.database.execute(
            "INSERT INTO page_views (user_id, page, event_time, browser, location) "
            "SELECT id, 'pricing', NOW() - INTERVAL 1 DAY - INTERVAL id SECOND, 'Chrome', 'Madrid' "
            "FROM customers"
        )

    def change_some(self, most: int) -> list[int]:
        """Change the views of at most *most* users, or return the ids of users to rename."""
        highest = self.database.execute("SELECT MAX(id) FROM customers")[0][0]
        users = [self.rng.randint(1, highest) for _ in range(self.rng.randint(1, most))]
        listed = ", ".join(map(str, users))
        what = self.rng.choice(["names", "views", "browsers"])
        if what == "names":
            # The first that a run comes to, which are those that have been delivered before.
            return sorted({user * 5 // 100 + 1 for user in users})
        if what == "browsers":
            # Never twice the same, so that it cannot have been delivered before.
            sql = f"UPDATE page_views SET browser = %s WHERE user_id IN ({listed})"
            self.database.execute(sql, (f"Browser {self.rng.random()}",))
        else:
            self.database.execute(
                "INSERT INTO page_views (user_id, page, event_time, browser) "
                f"SELECT id, 'settings', NOW(), 'Safari' FROM customers WHERE id IN ({listed})"
            )
        return []

    def rename(self, users: list[int]) -> set[str]:
        """Turn the names of these users round, or back again; return their emails."""
        if not users:
            return set()
        listed = ", ".join(map(str, users))
        where = f"WHERE id IN ({listed})"
        self.database.execute(f"UPDATE customers SET first_name = REVERSE(first_name) {where}")
        return {e.lower() for (e,) in self.database.execute(f"SELECT email FROM customers {where}")}

    def wanted(self) -> dict[int, tuple[dict[str, Any], dict[str, Any]] | None]:
        """Return, by customer, the two bodies to be delivered; None where there cannot be any."""
        columns = (
            "customer_id email first_name plan_type page_view_id page event_time browser location"
        )
        bodies: dict[int, tuple[dict[str, Any], dict[str, Any]] | None] = {}
        for values in self.database.execute(load_query(JOB_QUERY)):
            row = dict(zip(columns.split(), values, strict=True))
            try:
                bodies[row["customer_id"]] = self.payloads.user(row), self.payloads.event(row)
            except RowError:
                bodies[row["customer_id"]] = None
        return bodies

    # --- What must hold

    def missing(self) -> list[str]:
        """Return the emails of deliverable rows that Iterable does not hold as they are now."""
        held = Holdings(self)
        pairs = [
            pair for pair in self.wanted().values() if pair and pair[0]["email"] not in self.bad
        ]
        return [u["email"] for u, e in pairs if not (held.has_user(u) and held.has_event(e))]

    def check_iterable(self) -> None:
        """Raise Broken if a page view is two events, or an event came before its user."""
        views = self.database.execute("SELECT id FROM page_views")
        ids = {self.payloads.event_id({"page_view_id": view}) for (view,) in views}
        demand(len(ids) == len(views), "two page views have one event id")
        events = self.iterable.events
        demand(events.keys() <= ids, f"{len(events.keys() - ids)} events are nobody's page view")
        early = [event.id for event in events.values() if not event.user_existed]
        demand(not early, f"{len(early)} events came before their user")

    def check(self, run: Run, *statuses: int) -> dict[str, Any]:
        """Raise Broken unless *run* ended as it may, and its results file is true; return that."""
        told = f"{' '.join(run.flags)}: exit status {run.status}\n{run.errors[-2000:]}"
        demand(run.status in statuses, told)
        demand("Traceback" not in run.errors, told)
        self.check_iterable()
        demand(run.report is not None, f"{told}: no results file")
        report = run.report or {}
        demand(
            report["run"]["exit_status"] == run.status, "the results file has another exit status"
        )
        self._check_counts(report)
        self._check_rows(report["results"])
        whole = report["summary"]["successful"] + report["summary"]["unchanged"]
        if run.status in {0, 1}:
            demand((whole == len(report["results"])) is (run.status == 0), f"{told}: {whole} whole")
        return report

    def _check_counts(self, report: dict[str, Any]) -> None:
        rows, summary = report["results"], report["summary"]
        total = sum(summary[name] for name in OUTCOMES)
        demand(len(rows) == summary["total"] == total, f"{len(rows)} rows, but {summary}")
        outcomes = Counter(row["outcome"] for row in rows)
        for name in OUTCOMES:
            demand(summary[name] == outcomes[name.removesuffix("s")], f"{summary} for {outcomes}")
        for call in ("users_update", "events_track"):
            told = Counter(row[call]["status"] for row in rows)
            demand(told == Counter(summary[call]), f"{call}: {summary[call]} for {told}")

    def _check_rows(self, rows: list[dict[str, Any]]) -> None:
        wanted, held = self.wanted(), Holdings(self)
        demand(
            Counter(row["customer_id"] for row in rows) in (Counter(wanted.keys()), Counter()),
            "the results file has other rows than the database",
        )
        for row in rows:
            bodies = wanted[row["customer_id"]]
            calls = row["users_update"]["status"], row["events_track"]["status"]
            if calls[0] in ARRIVED:
                demand(bodies and held.has_user(bodies[0]), f"not held: {row}")
            if calls[1] in ARRIVED:
                demand(bodies and held.has_event(bodies[1]), f"not held: {row}")
                event_id = row["events_track"]["event_id"]
                demand(bodies and event_id == bodies[1]["id"], f"not its event: {row}")
            if "refused" in calls:
                demand(bodies is None or row["email"] in self.bad, f"a good row is refused: {row}")


class Holdings:
    """What Iterable holds at one moment."""

    def __init__(self, world: World) -> None:
        self.users, self.events = world.iterable.users, world.iterable.events

    def has_user(self, body: dict[str, Any]) -> bool:
        user = self.users.get(body["email"].lower())
        return user is not None and body["dataFields"].items() <= user.data_fields.items()

    def has_event(self, body: dict[str, Any]) -> bool:
        event = self.events.get(body["id"])
        sent = body["email"].lower(), body["createdAt"], body["dataFields"]
        return event is not None and (event.email, event.created_at, event.data_fields) == sent


@contextlib.contextmanager
def new_world(folder: Path, rng: random.Random) -> Iterator[tuple[World, PrivateDatabase]]:
    """Start a server and a local Iterable of their own."""
    first = next(local_servers(), None)
    if first is None or first.name == "seekdb":
        # As the tests do: there is no better one on this machine.
        fetch = [str(ROOT / "tests" / "fetch_server.sh"), "mariadb", str(FETCHED_FOLDER)]
        subprocess.run(fetch, check=False)
    for path in local_servers():
        with contextlib.ExitStack() as stack:
            try:
                private = stack.enter_context(PrivateDatabase(path))
            except NoServerError:
                continue
            fresh = Database("chaos", DatabaseServer(private))
            fresh.run_file("database_setup.sql")
            iterable = stack.enter_context(IterableSandbox())
            yield stack.enter_context(World(fresh, iterable, folder, rng)), private
            return
    raise NoServerError("no database server: tests/fetch_server.sh mariadb .cache/mariadb")
