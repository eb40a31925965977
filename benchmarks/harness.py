"""The parts of a measurement: a full database, the stand-in on its own core, the job beside it."""

import json
import os
import resource
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mysql.connector
import trustme

from sandbox.database import PrivateDatabase, run_script
from sandbox.demo import SETUP

HERE = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0))
BUSY_LIMIT = 0.1
# As on a server: Python keeps what it has compiled.
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
# Which part of the rows counts as steady state.
STEADY_FROM, STEADY_TO = 0.15, 0.9
PAGE = 1000  # lines of the stand-in's log to ask for at once


@dataclass(frozen=True)
class JobRun:
    """One run of main.py. ``users_per_s`` counts from its first request to its last answer.

    ``steady_per_s`` is told by the stand-in: users accepted a second between the moments when it
    had ``STEADY_FROM`` and ``STEADY_TO`` of them; so neither start nor end are in it.
    ``requests_s`` is the time between its first and its last accepted request there.
    """

    rows: int
    sending_s: float
    steady_per_s: float
    requests_s: float
    wall_s: float
    peak_mb: float
    summary: dict[str, Any]
    stats: dict[str, Any]  # what the stand-in counted
    read_s: float = 0.0  # a plain read of the same rows beside it, if there was one

    @property
    def users_per_s(self) -> float:
        """Rows over the time of sending, the last answer's latency included."""
        return self.rows / self.sending_s

    @property
    def too_many(self) -> int:
        """Answers 429."""
        return sum(counts.get("429", 0) for counts in self.stats["requests"].values())

    @property
    def share_of_too_many(self) -> float:
        """What share of all requests that is."""
        requests: int = self.summary["requests"]
        return self.too_many / max(1, requests)


def fill(database: PrivateDatabase, users: int) -> None:
    """Replace the example data by *users* pro users, each with one view of the pricing page."""
    database.load(SETUP)
    with mysql.connector.connect(**database.connection_options(database.settings["DB_NAME"])) as c:
        run_script(
            c,
            "DELETE FROM page_views; DELETE FROM customers;"
            "INSERT INTO customers (id, email, first_name, plan_type) VALUES"
            " (1, 'user1@example.com', 'User1', 'pro')",
        )
        done = 1
        while done < users:
            run_script(
                c,
                "INSERT INTO customers (id, email, first_name, plan_type)"
                f" SELECT id + {done}, CONCAT('user', id + {done}, '@example.com'),"
                f" CONCAT('User', id + {done}), 'pro' FROM customers WHERE id + {done} <= {users}",
            )
            done *= 2
        run_script(
            c,
            "INSERT INTO page_views (user_id, page, event_time, browser, location)"
            " SELECT id, 'pricing', NOW() - INTERVAL (id MOD 500000) SECOND, 'Chrome', 'Madrid, ES'"
            " FROM customers",
        )


def enlarge_names(database: PrivateDatabase, characters: int) -> None:
    """Give every customer a first name of so many characters, three bytes each."""
    with mysql.connector.connect(**database.connection_options(database.settings["DB_NAME"])) as c:
        run_script(
            c,
            "ALTER TABLE customers MODIFY first_name MEDIUMTEXT;"
            f"UPDATE customers SET first_name = REPEAT('€', {characters})",
        )


# The file with the authority of a stand-in that serves https, by its URL.
authorities: dict[str, Path] = {}


@contextmanager
def stand_in(folder: Path = HERE, **settings: object) -> Iterator[str]:
    """Run the local Iterable on a core of its own; yield its URL.

    With the setting ``tls`` it serves https, under an authority of its own in *folder*.
    """
    options = []
    if settings.pop("tls", False):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        certificate.write_to_path(folder / "server.pem")
        options = ["--tls", str(folder / "server.pem")]
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.iterable", "--port", "0", *options],
        cwd=HERE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        os.sched_setaffinity(process.pid, CORES[-1:])
        # It holds a connection for each request in flight. The job has to help itself.
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most_files, most_files))
        assert process.stdout  # noqa: S101 - a pipe was asked for
        url = process.stdout.readline().strip()
        if options:
            authorities[url] = folder / "ca.pem"
        ask(url, "settings", settings)
        yield url
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ask(url: str, name: str, order: object = None) -> Any:  # noqa: ANN401 - any JSON
    """Ask the stand-in, or give it an order."""
    data = None if order is None else json.dumps(order).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/sandbox/{name}", data, headers)  # noqa: S310 - ours
    context = ssl.create_default_context(cafile=authorities[url]) if url in authorities else None
    with urllib.request.urlopen(request, timeout=30, context=context) as response:  # noqa: S310
        return json.load(response)


def spoil(database: PrivateDatabase, every: int) -> int:
    """Give each user a date for a name, and *every* one of so many a text; return how many."""
    with mysql.connector.connect(**database.connection_options(database.settings["DB_NAME"])) as c:
        run_script(
            c,
            "UPDATE customers SET first_name = '2026-01-01';"
            f"UPDATE customers SET first_name = 'Ann' WHERE id MOD {every} = {every // 2};"
            "COMMIT",
        )
        [*_, [(bad,)]] = run_script(c, "SELECT COUNT(*) FROM customers WHERE first_name = 'Ann'")
    return int(bad)


class Site:
    """A stand-in, and a folder where runs leave what later runs find again."""

    def __init__(self, database: PrivateDatabase, url: str, folder: str) -> None:
        self.url = url
        self.bad = 0  # rows that cannot be delivered
        self._folder = Path(folder)
        self._variables = {
            **database.settings,
            "ITERABLE_API_KEY": "benchmark",
            "ITERABLE_API_BASE_URL": url,
            "ITERABLE_RATE_SHARE": "1.0",
            "LOG_FILE": f"{folder}/job.log",
            "RESULTS_DIR": folder,
            "STATE_FILE": f"{folder}/state.sqlite3",
            "ITERABLE_CA_FILE": str(authorities.get(url, "")),
        }

    def run(self, *flags: str, **environ: str) -> JobRun:
        """Run main.py; every row that can be must be delivered, now or by an earlier run.

        Raises:
            RuntimeError: the job, or the stand-in, says otherwise.

        """
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, HERE / "main.py", *flags],
            env={**ENVIRON, **self._variables, **environ},
            stdout=subprocess.DEVNULL,
        ) as process:
            try:
                keep_off_stand_in(process)
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began
        (path,) = self._folder.glob("*.json")
        document = read_results(path)
        path.unlink()
        stats = ask(self.url, "stats")
        summary = document["summary"]
        done = summary["successful"] + summary["unchanged"]
        if (
            process.returncode != (1 if self.bad else 0)
            or len({summary["total"] - self.bad, done, stats["users"], stats["events"]}) != 1
        ):
            raise RuntimeError(
                f"not all was delivered: status {process.returncode}, {summary}, {stats}"
            )
        users = accepted_at(self.url, "users/update")
        events = accepted_at(self.url, "events/track")
        return JobRun(
            rows=summary["total"],
            sending_s=document["run"]["sending_seconds"],
            steady_per_s=steady_rate(users),
            requests_s=max(users + events, default=0.0) - min(users + events, default=0.0),
            wall_s=wall_s,
            peak_mb=usage.ru_maxrss / 1024,
            summary=summary,
            stats=stats,
        )

    def read(self) -> float:
        """Return how long a process takes that reads the rows of Query 2 and drops them."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.plain_read"]
        environ = {**ENVIRON, **self._variables}
        with subprocess.Popen(command, env=environ, cwd=HERE, stdout=subprocess.DEVNULL) as process:
            keep_off_stand_in(process)
        if process.returncode:
            raise RuntimeError("the plain read failed")
        return time.perf_counter() - began


@contextmanager
def site(database: PrivateDatabase, **iterable: object) -> Iterator[Site]:
    """Yield a place for runs against one stand-in with the settings *iterable*."""
    with tempfile.TemporaryDirectory() as folder, stand_in(Path(folder), **iterable) as url:
        yield Site(database, url, folder)


def keep_off_stand_in(process: subprocess.Popen[Any]) -> None:
    """Keep a process that has just started off the core of the stand-in."""
    os.sched_setaffinity(process.pid, CORES[:-1] or CORES)


def accepted_at(url: str, endpoint: str) -> list[float]:
    """Return when the stand-in accepted the requests of its log, in seconds of its own clock."""
    times: list[float] = []
    offset = 0
    while page := ask(url, f"requests?offset={offset}&limit={PAGE}"):
        times += [
            line["at"]
            for line in page
            if line["status"] == 200 and line["path"] == f"/api/{endpoint}"
        ]
        offset += PAGE
    return times


def steady_rate(times: Sequence[float]) -> float:
    """Return how many came a second in the middle of *times*; 0 if these are too few to say."""
    first, last = int(STEADY_FROM * len(times)), int(STEADY_TO * len(times))
    seconds = times[last] - times[first] if last > first else 0.0
    return (last - first) / seconds if seconds else 0.0


def read_results(path: Path) -> dict[str, Any]:
    """Return summary and run of a results file, without its rows."""
    with path.open(encoding="ascii") as file:
        tail = "".join(line for line in file if not line.startswith('{"customer_id"'))
    document: dict[str, Any] = json.loads(tail)
    return document


def wait_for_quiet(tries: int = 10, pause_s: float = 2.0) -> float:
    """Wait some times until the processors are idle; return the share of them that is busy."""
    for _ in range(tries):
        before = _cpu_times()
        time.sleep(pause_s)
        idle, total = (now - then for now, then in zip(_cpu_times(), before, strict=True))
        busy = 1 - idle / total
        if busy < BUSY_LIMIT:
            break
    return busy


def _cpu_times() -> tuple[int, int]:
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    times = [int(field) for field in fields]
    return times[3] + times[4], sum(times)
