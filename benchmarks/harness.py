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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mysql.connector
import trustme

from sandbox.database import PrivateDatabase, run_script
from sandbox.demo import SETUP

HERE = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0))
# As on a server: Python keeps what it has compiled.
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
# The part of the rows that counts as steady state.
STEADY_FROM, STEADY_TO = 0.15, 0.9
PAGE = 1000  # lines of the stand-in's log to ask for at once
USUAL_NAME = "CONCAT('User', id)"


@dataclass(frozen=True)
class JobRun:
    """One run of main.py."""

    rows: int
    wall_s: float  # the whole process
    sending_s: float  # from the first request to the last answer
    requests_s: float  # from the first accepted request to the last, by the stand-in's clock
    steady_per_s: float  # users accepted a second in the steady state, by the stand-in's clock
    peak_mb: float
    summary: dict[str, Any]
    too_many: int  # answers 429

    @property
    def share_of_too_many(self) -> float:
        """Share of all requests that were answered 429."""
        return self.too_many / max(1, int(self.summary["requests"]))


def fill(database: PrivateDatabase, users: int, first_name: str = USUAL_NAME) -> None:
    """Replace the example data by pro users, each with one view; *first_name* is SQL for theirs."""
    database.load(SETUP)
    with mysql.connector.connect(**database.connection_options(database.settings["DB_NAME"])) as c:
        run = partial(run_script, c)
        run("DELETE FROM page_views; DELETE FROM customers")
        run("INSERT INTO customers (id, email, plan_type) VALUES (1, 'user1@a.org', 'pro')")
        done = 1
        while done < users:
            run(
                "INSERT INTO customers (id, email, plan_type)"
                f" SELECT id + {done}, CONCAT('user', id + {done}, '@a.org'), 'pro'"
                f" FROM customers WHERE id + {done} <= {users}"
            )
            done *= 2
        if first_name != USUAL_NAME:
            run("ALTER TABLE customers MODIFY first_name MEDIUMTEXT")
        run(f"UPDATE customers SET first_name = {first_name}")
        run(
            "INSERT INTO page_views (user_id, page, event_time, browser, location)"
            " SELECT id, 'pricing', NOW() - INTERVAL (id MOD 500000) SECOND, 'Chrome', 'Madrid, ES'"
            " FROM customers; COMMIT"
        )


# The file with the authority of a stand-in that serves https, by its URL.
authorities: dict[str, Path] = {}


@contextmanager
def stand_in(settings: Mapping[str, object], folder: Path = HERE) -> Iterator[str]:
    """Run the local Iterable on a core of its own; yield its URL.

    With the setting ``tls`` it serves https, under an authority of its own in *folder*.
    """
    changed, tls = {**settings}, []
    if changed.pop("tls", False):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        certificate.write_to_path(folder / "server.pem")
        tls = ["--tls", str(folder / "server.pem")]
    command = [sys.executable, "-m", "sandbox.iterable", "--port", "0", *tls]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        try:
            os.sched_setaffinity(process.pid, CORES[-1:])
            # It holds a connection for each request in flight. The job has to help itself.
            most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most_files, most_files))
            assert process.stdout  # noqa: S101 - a pipe was asked for
            url = process.stdout.readline().strip()
            if tls:
                authorities[url] = folder / "ca.pem"
            ask(url, "settings", changed)
            yield url
        finally:
            process.terminate()


def ask(url: str, name: str, order: object = None) -> Any:  # noqa: ANN401 - any JSON
    """Ask the stand-in, or give it an order."""
    data = None if order is None else json.dumps(order).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/sandbox/{name}", data, headers)  # noqa: S310 - ours
    context = ssl.create_default_context(cafile=authorities[url]) if url in authorities else None
    with urllib.request.urlopen(request, timeout=30, context=context) as response:  # noqa: S310
        return json.load(response)


class Site:
    """A stand-in, and a folder where runs leave what later runs find again."""

    def __init__(self, database: PrivateDatabase, url: str, folder: str) -> None:
        self.url = url
        self._folder = Path(folder)
        self._variables = {
            **ENVIRON,
            **database.settings,
            "ITERABLE_API_KEY": "benchmark",
            "ITERABLE_API_BASE_URL": url,
            "ITERABLE_RATE_SHARE": "1.0",
            "LOG_FILE": f"{folder}/job.log",
            "RESULTS_DIR": folder,
            "STATE_FILE": f"{folder}/state.sqlite3",
            "ITERABLE_CA_FILE": str(authorities.get(url, "")),
        }

    def run(self, *flags: str, bad: int = 0, **environ: str) -> JobRun:
        """Run main.py; all rows but *bad* ones must be delivered, now or by an earlier run.

        Raises:
            RuntimeError: the job, or the stand-in, says otherwise.

        """
        status, wall_s, peak_mb = self._process([str(HERE / "main.py"), *flags], environ)
        (path,) = self._folder.glob("*.json")
        document = _without_rows(path)
        path.unlink()
        summary, stats = document["summary"], ask(self.url, "stats")
        done = summary["successful"] + summary["unchanged"]
        there = {summary["total"] - bad, done, stats["users"], stats["events"]}
        if status != (1 if bad else 0) or len(there) != 1:
            raise RuntimeError(f"not all was delivered: status {status}, {summary}, {stats}")
        users = self._accepted_at("users/update")
        every = users + self._accepted_at("events/track")
        return JobRun(
            rows=summary["total"],
            wall_s=wall_s,
            sending_s=document["run"]["sending_seconds"],
            requests_s=max(every, default=0.0) - min(every, default=0.0),
            steady_per_s=_steady_rate(users),
            peak_mb=peak_mb,
            summary=summary,
            too_many=sum(counts.get("429", 0) for counts in stats["requests"].values()),
        )

    def read(self) -> float:
        """Return how long a process takes that reads the rows of Query 2 and drops them."""
        status, wall_s, _ = self._process(["-m", "benchmarks.plain_read"], {})
        if status:
            raise RuntimeError("the plain read failed")
        return wall_s

    def _process(self, command: list[str], environ: dict[str, str]) -> tuple[int, float, float]:
        """Run Python; return its exit status, how long it took, and its peak memory in MB."""
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *command],
            cwd=HERE,
            env=self._variables | environ,
            stdout=subprocess.DEVNULL,
        ) as process:
            try:
                keep_off_stand_in(process)
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, time.perf_counter() - began, usage.ru_maxrss / 1024

    def _accepted_at(self, endpoint: str) -> list[float]:
        """Return when the stand-in accepted the requests of its log, in seconds of its clock."""
        times: list[float] = []
        offset = 0
        while page := ask(self.url, f"requests?offset={offset}&limit={PAGE}"):
            accepted = (line for line in page if line["status"] == 200)
            times += [line["at"] for line in accepted if line["path"] == f"/api/{endpoint}"]
            offset += PAGE
        return times


@contextmanager
def site(database: PrivateDatabase, iterable: Mapping[str, object]) -> Iterator[Site]:
    """Yield a place for runs against one stand-in with the settings *iterable*."""
    with tempfile.TemporaryDirectory() as folder, stand_in(iterable, Path(folder)) as url:
        yield Site(database, url, folder)


def keep_off_stand_in(process: subprocess.Popen[Any]) -> None:
    """Keep a process that has just started off the core of the stand-in."""
    os.sched_setaffinity(process.pid, CORES[:-1] or CORES)


def _steady_rate(times: Sequence[float]) -> float:
    """Return how many came a second in the middle of *times*; 0 if these are too few to say."""
    first, last = int(STEADY_FROM * len(times)), int(STEADY_TO * len(times))
    seconds = times[last] - times[first] if last > first else 0.0
    return (last - first) / seconds if seconds else 0.0


def _without_rows(path: Path) -> dict[str, Any]:
    """Return summary and run of a results file, which has a line for each row."""
    with path.open(encoding="ascii") as file:
        tail = "".join(line for line in file if not line.startswith('{"customer_id"'))
    document: dict[str, Any] = json.loads(tail)
    return document


def busy() -> float:
    """Return the share of the processors that is busy, over a second."""
    before = _cpu_times()
    time.sleep(1.0)
    idle, total = (now - then for now, then in zip(_cpu_times(), before, strict=True))
    return 1 - idle / total


def _cpu_times() -> tuple[int, int]:
    times = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return times[3] + times[4], sum(times)
