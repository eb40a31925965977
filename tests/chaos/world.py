"""The world in which the job is let run, and what must hold in it whatever happens."""

import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, NamedTuple, Self

from db_connection import JOB_QUERY, load_query
from iterable_api.endpoints import LIMITS_PER_S, TRACK_EVENTS, UPDATE_USERS
from iterable_api.payloads import Payloads, RowError
from records.outcomes import COUNTERS, GOOD_OUTCOMES
from sandbox.database import PrivateDatabase
from sandbox.iterable import IterableSandbox
from sandbox.stand_in import Received
from tests import schema
from tests.conftest import ROOT, Database, fetch_server
from tests.rows import bodies_of
from tests.test_main import BARE, copy_program, scaled

# A run that takes longer hangs. It is far beyond what the slowest needs.
END_LIMIT_S = 120.0
# Of a call whose own content Iterable has. What a superseded one asks for is another row's.
ARRIVED = {"delivered", "unchanged"}
CALLS = ("users_update", "events_track")
COLUMNS = "customer_id email first_name plan_type page_view_id page event_time browser location"
# What becomes of some users' data.
CHANGES = {
    "names": "UPDATE customers SET first_name = REVERSE(first_name) WHERE id IN ({ids})",
    "addresses": "UPDATE customers SET email = CASE id {case} END WHERE id IN ({ids})",
    "views": "INSERT INTO page_views (user_id, page, event_time, browser) "
    "SELECT id, 'settings', NOW(), 'Safari' FROM customers WHERE id IN ({ids})",
    # Never twice the same, so that it cannot have been delivered before.
    "browsers": "UPDATE page_views SET browser = 'Browser {new}' WHERE user_id IN ({ids})",
}
# What takes a minute in real life, in a copy of the program for those scenarios that meet it often.
SCALED = (
    ("delivery/pipeline.py", "VISIBLE_AFTER_S", 0.4),
    ("delivery/project_fields.py", "PATIENCE_S", 0.0),
    ("iterable_api/limiter.py", "PROBE_S", 0.02),
    ("iterable_api/limiter.py", "OUTAGE_S", 2.0),
    ("iterable_api/limiter.py", "POLL_S", 0.01),
    ("iterable_api/limiter.py", "MAX_BACKOFF_DOUBLINGS", -4),
    (
        "iterable_api/endpoints.py",
        "LIMITS_PER_S",
        LIMITS_PER_S | {UPDATE_USERS: 100, TRACK_EVENTS: 200},
    ),
)
Bodies = tuple[dict[str, Any], dict[str, Any]]  # of a user and of an event


def hurried_copy(folder: Path) -> Path:
    """Copy the program to *folder*, less its waits."""
    program: Path = copy_program(folder)
    for file, constant, value in SCALED:
        scaled(program, file, constant, value)
    return program


# --- The job as a process -------------------------------------------------------------------------


class Run(NamedTuple):
    """A run that is over. ``report`` is its results file, None if it left none."""

    flags: tuple[str, ...]
    status: int
    errors: str  # what it wrote on standard error
    report: dict[str, Any] | None
    requests: list[Received]  # what the sandbox saw of it, less those that only read


class Process:
    """A run under way."""

    def __init__(self, world: "World", flags: tuple[str, ...], environ: dict[str, str]) -> None:
        self.world, self.flags = world, flags
        self._results = Path(environ["RESULTS_DIR"])
        self._before = set(self._results.glob("integration_results_*.json"))
        # Not on the disk of the job, which may be full.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.popen = subprocess.Popen(
            [sys.executable, world.program, *flags],
            env=BARE | environ,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def wait_for(self, requests: int, seconds: float = 0.0) -> None:
        """Wait for that many requests, then so long, or for the end of the run."""
        limit_s = time.monotonic() + END_LIMIT_S
        while self.popen.poll() is None and self.world.requests_since() < requests:
            assert time.monotonic() < limit_s, f"{self.flags} hangs before request {requests}"
            time.sleep(0.001)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)

    def finish(self) -> Run:
        """Wait for its end and gather what it left."""
        status = self.popen.wait(END_LIMIT_S)
        new = set(self._results.glob("integration_results_*.json")) - self._before
        assert len(new) <= 1, "one run left two results files"
        # Half a file is no JSON; what is no results file is not as the schema says.
        report = json.loads(new.pop().read_text()) if new else None
        if report:
            schema.validate(report)
        with self._errors as file:
            file.seek(0)
            return Run(self.flags, status, file.read(), report, self.world.take_requests())


def rows_of(request: Received) -> list[dict[str, Any]]:
    """Return the rows that a request carries."""
    document = json.loads(request.body)
    rows: list[dict[str, Any]] = document.get("users") or document.get("events") or [document]
    return rows


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
    forgotten: set[str] = field(default_factory=set)  # emails of those who asked to be forgotten
    settings: dict[str, str] = field(default_factory=dict)  # more of the job's variables
    program: Path = ROOT / "main.py"
    _seen: int = 0
    _started: list[Process] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.iterable.change(log_requests=10**9)
        self.payloads = Payloads(self.database.name, UTC)
        # So that rows can have one address.
        self.database.execute("ALTER TABLE customers DROP INDEX ux_customers_email")
        return self

    def __exit__(self, *_: object) -> None:
        """End what a broken promise has left running."""
        for process in self._started:
            process.popen.kill()

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
        self.bad, self.forgotten = set(), set()
        self._seen = 0

    def requests_since(self) -> int:
        """Return how many requests came since the last ``take_requests()``."""
        answered = self.iterable.stats["requests"].values()
        return sum(sum(counts.values()) for counts in answered) - self._seen

    def take_requests(self) -> list[Received]:
        """Return what the run that is over has written, once the last of it has been read."""
        count = -1
        while count != (count := self.requests_since()):
            time.sleep(0.005)
        taken = self.iterable.requests[self._seen :]
        self._seen += len(taken)
        return [request for request in taken if request.method == "POST"]

    # --- The database

    def fill(self, rows: int, extra: Sequence[str] = (), repeats: int = 0) -> None:
        """Put in *rows* pro users, each with one view.

        *extra* emails take the place of some; *repeats* others have the address of another row.
        """
        names = ["'Ann'", "'Zoë'", "'李'", "NULL", "'O''Hara'"]
        emails = {n: f"user{n}@example.com" for n in range(1, rows + 1)}
        chosen = self.rng.sample(sorted(emails), len(extra) + 2 * repeats)
        emails |= dict(zip(chosen, extra, strict=False))
        for one, other in zip(chosen[len(extra) :: 2], chosen[len(extra) + 1 :: 2], strict=False):
            emails[one] = self.rng.choice([str.lower, str.upper])(emails[other])
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

    def churn(self, most: int) -> set[str]:
        """Change some data of at most *most* users.

        Return the emails of those who now may have content that they have had before.
        """
        good = "SELECT id, email FROM customers WHERE email LIKE 'user%@example.com'"
        users = dict(self.database.execute(good))
        chosen = self.rng.sample(sorted(users), min(len(users), self.rng.randint(2, most + 2)))
        what = self.rng.choice([*CHANGES])
        chosen = chosen[:2] if what == "addresses" else chosen
        one, other = chosen[:2]
        ids = ", ".join(map(str, chosen))
        case = f"WHEN {one} THEN '{users[other]}' WHEN {other} THEN '{users[one]}'"
        self.database.execute(CHANGES[what].format(ids=ids, case=case, new=self.rng.random()))
        return {users[n] for n in chosen} if what in {"names", "addresses"} else set()

    def wanted(self) -> dict[int, Bodies | None]:
        """Return, by customer, the two bodies to be delivered; None where there cannot be any."""
        bodies: dict[int, Bodies | None] = {}
        for values in self.database.execute(load_query(JOB_QUERY)):
            row = dict(zip(COLUMNS.split(), values, strict=True))
            try:
                bodies[row["customer_id"]] = bodies_of(self.payloads, row)
            except RowError:
                bodies[row["customer_id"]] = None
        return bodies

    # --- What must hold

    def has_user(self, body: dict[str, Any] | None) -> bool:
        """Return whether Iterable holds all that *body* says of a user."""
        user = self.iterable.users.get(body["email"].lower()) if body else None
        return bool(body and user and _holds(user.data_fields, body["dataFields"]))

    def has_event(self, body: dict[str, Any]) -> bool:
        """Return whether Iterable holds the event, with nothing left of what it was before."""
        event, fields = self.iterable.events.get(body["id"]), body["dataFields"]
        return (
            event is not None
            and (event.email, event.created_at) == (body["email"].lower(), body["createdAt"])
            and _holds(event.data_fields, fields)
            and event.data_fields.keys() <= fields.keys()
        )

    def missing(self) -> list[str]:
        """Return the emails of deliverable rows that Iterable does not hold as they are now."""
        lost = []
        profiles: dict[str, dict[str, Any]] = {}
        for user, event in filter(None, self.wanted().values()):
            email = user["email"].lower()
            if email in self.bad | self.forgotten:
                continue
            # Of several rows with one address, the first one's.
            profile = profiles.setdefault(email, user)
            if not (self.has_user(profile) and self.has_event(event)):
                lost.append(email)
        return lost

    def check(self, run: Run, *statuses: int) -> dict[str, Any]:
        """Fail unless *run* ended as it may, and its results file is true; return that."""
        told = f"{' '.join(run.flags)}: exit status {run.status}\n{run.errors[-2000:]}"
        assert run.status in statuses, told
        assert "Traceback" not in run.errors, told
        self._check_events()
        assert run.report is not None, f"{told}: no results file"
        report = run.report
        assert report["run"]["exit_status"] == run.status, "the results file has another status"
        self._check_counts(report)
        self._check_rows(report["results"])
        whole = sum(report["summary"][COUNTERS[outcome]] for outcome in GOOD_OUTCOMES)
        if run.status in {0, 1}:
            assert (whole == len(report["results"])) is (run.status == 0), f"{told}: {whole} whole"
        return report

    def check_settled(self, *flags: str, folder: Path | None = None) -> None:
        """Fail unless Iterable holds everything, and a run more has nothing to send."""
        lost = self.missing()
        assert not lost, f"{len(lost)} rows are lost, {lost[:3]} among them"
        idle = self.run(*flags, folder=folder)
        self.check(idle, 0)
        # Who was forgotten may come back, so they are asked for each time.
        sent = {row["email"].lower() for request in idle.requests for row in rows_of(request)}
        assert sent <= self.forgotten, f"nothing had changed, and sent were {sent}"

    def _check_events(self) -> None:
        """Fail if a page view is two events, or an event came before its user."""
        views = self.database.execute("SELECT id, user_id, event_time FROM page_views")
        names = ("page_view_id", "customer_id", "event_time")
        others = dict.fromkeys(COLUMNS.split(), "x")
        rows = [others | dict(zip(names, view, strict=True)) for view in views]
        ids = {bodies_of(self.payloads, row)[1]["id"] for row in rows}
        assert len(ids) == len(views), "two page views have one event id"
        events = self.iterable.events
        assert events.keys() <= ids, f"{len(events.keys() - ids)} events are nobody's page view"
        early = [event.id for event in events.values() if not event.user_existed]
        assert not early, f"{len(early)} events came before their user"

    def _check_counts(self, report: dict[str, Any]) -> None:
        rows, summary = report["results"], report["summary"]
        told = {outcome: summary[name] for outcome, name in COUNTERS.items()}
        outcomes = Counter(row["outcome"] for row in rows)
        assert len(rows) == summary["total"], f"{len(rows)} rows, but {summary}"
        assert told == {name: outcomes[name] for name in COUNTERS}, f"{summary} for {outcomes}"
        for call in CALLS:
            statuses = Counter(row[call]["status"] for row in rows)
            assert statuses == Counter(summary[call]), f"{call}: {summary[call]} for {statuses}"

    def _check_rows(self, rows: list[dict[str, Any]]) -> None:
        wanted = self.wanted()
        assert Counter(row["customer_id"] for row in rows) in (Counter(wanted.keys()), Counter()), (
            "the results file has other rows than the database"
        )
        # Of each address, the profile that a superseded row relies on.
        profiles = {
            _address(row): (wanted[row["customer_id"]] or [None])[0]
            for row in rows
            if row["users_update"]["status"] in ARRIVED
        }
        for row in rows:
            bodies, address = wanted[row["customer_id"]], _address(row)
            update, track = (row[call]["status"] for call in CALLS)
            if update in ARRIVED | {"superseded"}:
                assert self.has_user(profiles.get(address)), f"not held: {row}"
            if track in ARRIVED:
                assert bodies, f"no such event: {row}"
                assert self.has_event(bodies[1]), f"not held: {row}"
                assert row["events_track"]["event_id"] == bodies[1]["id"], f"another event: {row}"
            if "refused" in {update, track}:
                assert not bodies or address in self.bad, f"a good row is refused: {row}"
            if "forgotten" in {update, track}:
                assert address in self.forgotten, f"nobody asked for it: {row}"


def _address(row: dict[str, Any]) -> str:
    return (row["email"] or "").strip().lower()


def _holds(fields: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(fields.get(name) == value for name, value in wanted.items())


@contextlib.contextmanager
def new_world(folder: Path, rng: random.Random) -> Iterator[World]:
    """Start a server and a local Iterable of their own."""
    fetch_server()
    with PrivateDatabase() as private, IterableSandbox() as iterable:
        fresh = Database("chaos", private)
        fresh.run_file("database_setup.sql")
        with World(fresh, iterable, folder, rng) as world:
            yield world
