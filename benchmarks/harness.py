"""The parts of a measurement: a full database, the stand-in on its own core, the job beside it."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mysql.connector

from sandbox.database import PrivateDatabase, run_script
from sandbox.demo import SETUP

HERE = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0))
BUSY_LIMIT = 0.1


@dataclass(frozen=True)
class JobRun:
    """One run of main.py. ``users_per_s`` counts from its first request to its last answer."""

    users_per_s: float
    wall_s: float
    peak_mb: float
    summary: dict[str, Any]
    stats: dict[str, Any]  # what the stand-in counted

    @property
    def too_many(self) -> int:
        """Answers 429."""
        return sum(counts.get("429", 0) for counts in self.stats["requests"].values())


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


@contextmanager
def stand_in(**settings: object) -> Iterator[str]:
    """Run the local Iterable on a core of its own; yield its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.iterable", "--port", "0"],
        cwd=HERE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        os.sched_setaffinity(process.pid, CORES[-1:])
        assert process.stdout  # noqa: S101 - a pipe was asked for
        url = process.stdout.readline().strip()
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
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        return json.load(response)


def run_job(
    database: PrivateDatabase, *flags: str, iterable: Mapping[str, object], **environ: str
) -> JobRun:
    """Run main.py against a stand-in with the settings *iterable*; every row must be delivered.

    Raises:
        RuntimeError: the job, or the stand-in, says otherwise.

    """
    with tempfile.TemporaryDirectory() as folder, stand_in(**iterable) as url:
        variables = {
            **database.settings,
            "ITERABLE_API_KEY": "benchmark",
            "ITERABLE_API_BASE_URL": url,
            "ITERABLE_RATE_SHARE": "1.0",
            "LOG_FILE": f"{folder}/job.log",
            "RESULTS_DIR": folder,
            "STATE_FILE": f"{folder}/state.sqlite3",
            **environ,
        }
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, HERE / "main.py", *flags],
            env={**os.environ, **variables},
            stdout=subprocess.DEVNULL,
        ) as process:
            try:
                os.sched_setaffinity(process.pid, CORES[:-1] or CORES)
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began
        (path,) = Path(folder).glob("*.json")
        document = read_results(path)
        stats = ask(url, "stats")
    summary = document["summary"]
    held = {summary["total"], summary["successful"], stats["users"], stats["events"]}
    if process.returncode or len(held) != 1:
        raise RuntimeError(
            f"not all was delivered: status {process.returncode}, {summary}, {stats}"
        )
    users_per_s = summary["successful"] / document["run"]["sending_seconds"]
    return JobRun(users_per_s, wall_s, usage.ru_maxrss / 1024, summary, stats)


def read_results(path: Path) -> dict[str, Any]:
    """Return summary and run of a results file, without its rows."""
    with path.open(encoding="ascii") as file:
        tail = "".join(line for line in file if not line.startswith('{"customer_id"'))
    document: dict[str, Any] = json.loads(tail)
    return document


def wait_for_quiet() -> float:
    """Wait up to 20 s until the processors are idle; return the share of them that is busy."""
    for _ in range(10):
        before = _cpu_times()
        time.sleep(2)
        idle, total = (now - then for now, then in zip(_cpu_times(), before, strict=True))
        busy = 1 - idle / total
        if busy < BUSY_LIMIT:
            break
    return busy


def _cpu_times() -> tuple[int, int]:
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    times = [int(field) for field in fields]
    return times[3] + times[4], sum(times)
