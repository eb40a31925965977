"""Lets everything around the job fail, and asks the sandbox whether the job told the truth.

    python -m tests.chaos [--seed N] [--minutes M] [--only kills|faults|database|disk]

main.py runs as a process of its own, between a private database server and the local Iterable. It
is killed, its requests meet every fault of the sandbox, its database dies under its read, its disk
fills. Whatever happens, this holds:

- in the end every row is delivered that can be, and Iterable holds what the database holds;
- no page view is two events, and no event came before its user;
- what a results file says of a row is true, and its counts add up; half a file never shows;
- a row is sent again after a kill only if it was in flight, or not yet recorded.

All that is random comes from the seed. What the processes do in between is theirs: a replay meets
the same failures, but not at the same instruction.
"""

import argparse
import contextlib
import json
import math
import os
import random
import resource
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import bulk_delivery
import delivery
from sandbox.database import PrivateDatabase
from sandbox.faults import Fault
from sandbox.stand_in import Received
from tests.chaos_world import END_LIMIT_S, Broken, Process, Run, World, demand, new_world

# Seconds by which an unfinished results file is made older, so that no run waits for its age.
LONG_AGO_S = 3600

# --- kills ----------------------------------------------------------------------------------------


class SentAgain:
    """Which rows were sent again though Iterable had applied the same content in an earlier run."""

    def __init__(self) -> None:
        self._applied: dict[tuple[str, str], tuple[str, int]] = {}  # -> content, run
        self.after: defaultdict[int, set[str]] = defaultdict(set)  # run -> emails
        # Whose content went back to an older one: that is no repetition.
        self.ignored: set[str] = set()

    def note(self, run: int, requests: list[Received]) -> None:
        """Take in the requests of one run."""
        for request in requests:
            for row in rows_of(request):
                email, content = row["email"].lower(), json.dumps(row, sort_keys=True)
                call = ("event", row["id"]) if "id" in row else ("user", email)
                before, last = self._applied.get(call, ("", run))
                if before == content and last != run and email not in self.ignored:
                    self.after[last].add(email)
                self._applied[call] = content, run

    def described(self, bounds: dict[int, int]) -> str:
        """Return the sum, and the most after one kill, for each of the bounds that hold."""
        most: defaultdict[int, int] = defaultdict(int)
        for run, emails in self.after.items():
            most[bounds[run]] = max(most[bounds[run]], len(emails))
        worst = "".join(
            f", at most {n} after one kill of bound {b}" for b, n in sorted(most.items())
        )
        return f"{sum(map(len, self.after.values()))} rows{worst}"


def rows_of(request: Received) -> list[dict[str, Any]]:
    """Return the rows that a request carries."""
    document = json.loads(request.body)
    rows: list[dict[str, Any]] = document.get("users") or document.get("events") or [document]
    return rows


def unrecorded_bound(*, bulk: bool, workers: int, batch: int) -> int:
    """Return of how many rows a kill may leave no record: in flight, or done a moment ago."""
    # delivery.py lets so many parcels be under way; their outcomes are recorded as they come.
    if bulk:
        return (bulk_delivery.WORKERS + delivery.READY) * batch
    return workers + delivery.READY


def kills(world: World, count: int = 200, rows: int = 5000) -> str:
    """Kill the job with signal 9 at random instants, and go on with --changed-only."""
    workers, batch = 8, 5
    world.settings = {"ITERABLE_WORKERS": str(workers), "BULK_BATCH_SIZE": str(batch)}
    world.iterable.change(latency_ms=(2, 20))
    world.fill(rows)
    again, killed, finished = SentAgain(), 0, 0
    bounds: dict[int, int] = {}
    per_kill = max(1, 2 * rows // count)  # requests
    while killed < count and world.in_time:
        number = killed + finished
        bulk = world.rng.random() < 0.5
        process = world.start("--changed-only", *(["--bulk"] if bulk else []))
        if let_live(process, world.rng, per_kill // batch if bulk else per_kill):
            process.kill()
        run = process.finish()
        again.note(number, run.requests)
        bounds[number] = 0
        if run.status == -9:
            killed += 1
            bounds[number] = unrecorded_bound(bulk=bulk, workers=workers, batch=batch)
        else:
            finished += 1
            world.check(run, 0)
        check_leftovers(world)
        if run.status != -9 or world.rng.random() < 0.1:
            again.ignored |= world.change_some(per_kill)
    last = world.run("--changed-only")
    again.note(killed + finished, last.requests)
    world.check(last, 0)
    demand(not world.missing(), f"{len(world.missing())} rows are lost")
    idle = world.run("--changed-only")
    demand(not idle.requests, f"{len(idle.requests)} requests though nothing had changed")
    world.check(idle, 0)
    for number, emails in again.after.items():
        bound = bounds.get(number, 0)
        demand(len(emails) <= bound, f"run {number}: {len(emails)} rows sent again, bound {bound}")
    return (
        f"{killed} of {count} kills over {rows} rows, {finished + 2} runs to their end; none lost, "
        f"none doubled; sent again: {again.described(bounds)}"
    )


def let_live(process: Process, rng: random.Random, requests: int) -> bool:
    """Give the process a while to live; return whether it has lived through it."""
    if rng.random() < 0.25:
        return process.wait_for(seconds=rng.uniform(0, 0.8))
    return process.wait_for(rng.randint(1, 2 * requests + 1), rng.uniform(0, 0.02))


def check_leftovers(world: World) -> None:
    """Raise Broken if the unfinished results files of killed runs pile up."""
    left = list(world.folder.rglob("*.partial"))
    # One run leaves one; the next that comes so far removes it.
    demand(len(left) <= 1, f"{len(left)} unfinished results files pile up")
    for path in left:
        os.utime(path, (time.time() - LONG_AGO_S,) * 2)


# --- faults ---------------------------------------------------------------------------------------

# Each at 1 to 5 % of all requests. Those that look like a verdict on the row are left out.
KINDS: tuple[dict[str, Any], ...] = (
    {"kind": "rate_limited"},
    {"kind": "server_error"},
    {"kind": "server_error", "applied": True},
    {"kind": "gateway"},
    {"kind": "gateway", "status": 503, "body": ""},
    {"kind": "reset_before"},
    {"kind": "reset_after"},
    {"kind": "hang"},
    {"kind": "hang", "applied": True},
    {"kind": "truncated"},
    {"kind": "garbage"},
    {"kind": "garbage", "applied": True},
    {"kind": "not_success"},
)
MALFORMED = ("no-at-sign", "two@@example.com", "space in@example.com", "dot.@example.com", " ")
RUNS_AT_MOST = 15


def faults(world: World, rows: int = 1500) -> str:
    """Let every fault of the sandbox loose at once, and go on until every row is delivered."""
    return "; ".join(faults_of(world, mode, rows) for mode in ("per-user", "bulk"))


def faults_of(world: World, mode: str, rows: int, attempts: int = 2, timeout_s: float = 0.6) -> str:
    """Deliver *rows* rows, some of them bad, in one mode."""
    flags = ["--changed-only", *(["--bulk"] if mode == "bulk" else [])]
    world.settings = {
        "ITERABLE_TIMEOUT_SECONDS": str(timeout_s),
        "ITERABLE_MAX_ATTEMPTS": str(attempts),
        "ITERABLE_WORKERS": "60",
        "BULK_BATCH_SIZE": str(max(5, rows // 40)),
    }
    world.forget()
    forgotten, poison = "forgotten@example.com", "poison@example.com"
    world.fill(rows, (*MALFORMED, forgotten, poison))
    world.iterable.forget(forgotten)
    world.bad = {*MALFORMED, forgotten, poison}
    # A row whose 500 never ends must not take its batch with it.
    always = Fault("server_error", email=poison)
    world.iterable.set_faults(always, *some_of_each(world.rng))
    folder = world.folder / mode
    runs, left = 0, rows
    while left and world.in_time:
        runs += 1
        demand(runs <= RUNS_AT_MOST, f"{left} rows not delivered after {RUNS_AT_MOST} runs")
        world.check(world.run(*flags, folder=folder), 0, 1, 4)
        left = len(world.missing())
    met = world.iterable.stats["faults"]
    world.iterable.set_faults(always)
    report = world.check(world.run(*flags, folder=folder), 1)
    check_bad_rows(report, world.bad, poison)
    through = f"{sum(met.values())} faults of {len(met)} kinds"
    return f"{mode}: {rows - left} rows delivered in {runs} runs, through {through}"


def some_of_each(rng: random.Random) -> list[Fault]:
    """Return all kinds, in some order, each at 1 to 5 % of the requests."""
    return [
        Fault(**kind, probability=rng.uniform(0.01, 0.05), seed=rng.randrange(2**32))
        for kind in rng.sample(KINDS, len(KINDS))
    ]


def check_bad_rows(report: dict[str, Any], bad: set[str], poison: str) -> None:
    """Raise Broken unless the bad rows, and no others, are told as failed."""
    # What was held without the ledger's knowing of it was sent once more.
    well = {"unchanged", "successful"}
    failed = {row["email"]: row for row in report["results"] if row["outcome"] not in well}
    demand(
        failed.keys() == bad, f"failed and not bad, or bad and not failed: {failed.keys() ^ bad}"
    )
    for email, row in failed.items():
        verdicts = {"unavailable", "unknown"} if email == poison else {"refused"}
        demand(row["users_update"]["status"] in verdicts, f"{email}: {row['users_update']}")


# --- database -------------------------------------------------------------------------------------

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all


class Proxy:
    """Passes on what a server says, and does *harm* after *after* bytes of it.

    *harm* gets the client's socket, and says whether the rest is to be passed on.
    """

    def __init__(
        self, host: str, port: int, after: float, harm: Callable[[socket.socket], bool]
    ) -> None:
        self._address, self._after, self._harm = (host, port), after, harm
        self.passed = 0

    def __enter__(self) -> "Proxy":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would not wake who waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.socket() as server, contextlib.suppress(OSError):
            server.connect(self._address)
            while True:
                # One thread for both ways: a socket that another thread reads cannot be reset.
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    if not (data := client.recv(1 << 16)):
                        return
                    server.sendall(data)
                if server in ready and not (
                    (data := server.recv(1 << 14)) and self._pass_on(data, client)
                ):
                    return

    def _pass_on(self, data: bytes, client: socket.socket) -> bool:
        """Return whether the connection goes on."""
        left = int(min(len(data), self._after - self.passed))
        client.sendall(data[:left])
        self.passed += left
        if left < len(data):
            self._after = math.inf
            if not self._harm(client):
                return False
            client.sendall(data[left:])
            self.passed += len(data) - left
        return True


def _reset(client: socket.socket) -> bool:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    return False


def _close(_: socket.socket) -> bool:
    return False


def _stall(client: socket.socket) -> bool:
    """Say nothing more until the client gives up."""
    select.select([client], [], [], END_LIMIT_S)
    return False


def read_through(
    world: World,
    after: float,
    harm: Callable[[socket.socket], bool],
    name: str = "read",
    **environ: str,
) -> tuple[Run, int]:
    """Run the job with *harm* after so many bytes of its read; return the bytes that passed too."""
    at = world.database.settings
    with Proxy(at["DB_HOST"], int(at["DB_PORT"]), after, harm) as proxy:
        environ |= {"DB_HOST": "127.0.0.1", "DB_PORT": str(proxy.port)}
        run = world.run("--bulk", folder=world.folder / name, **environ)
        return run, proxy.passed


def check_nothing_sent(world: World, run: Run) -> None:
    """Raise Broken unless the run ended for the database, and its results file says so."""
    report = world.check(run, 3)
    demand(not run.requests, f"{len(run.requests)} requests after a broken read")
    demand(report["results"] == [] and report["run"]["error"], "the results file tells no error")
    demand(not report["run"]["complete"], "the results file says complete")


def database(
    world: World, private: PrivateDatabase | None = None, cuts: int = 40, rows: int = 10_000
) -> str:
    """Cut the connection at any byte of the read; kill, restart and stall the server."""
    world.fill(rows)
    whole, size = read_through(world, math.inf, _close)
    world.check(whole, 0)
    done = 0
    while done < cuts and world.in_time:
        # The login is short; without a share of its own it would hardly ever be hit.
        after = world.rng.randrange(600 if world.rng.random() < 0.2 else size)
        run, _ = read_through(world, after, world.rng.choice([_reset, _close]))
        check_nothing_sent(world, run)
        done += 1
    told = f"read of {size} bytes cut {done} times"
    if private is not None:
        told += server_deaths(world, private, size, cuts // 8)
        told += stalls(world, private, size)
    world.forget()
    world.check(world.run("--bulk"), 0)
    demand(not world.missing(), f"{len(world.missing())} rows are lost")
    return f"{told}: nothing sent, exit status 3; afterwards {rows} rows delivered"


def server_deaths(world: World, private: PrivateDatabase, size: int, count: int) -> str:
    """Kill the server during the read, with or without starting it again before the job ends."""

    def kill(_: socket.socket) -> bool:
        private.kill()
        return False  # what it had said is lost with its machine

    def restart(_: socket.socket) -> bool:
        private.restart()
        return False

    done = 0
    for done in range(1, count + 1):  # noqa: B007 - the last is told
        run, _ = read_through(world, world.rng.randrange(size), world.rng.choice([kill, restart]))
        private.restart()
        check_nothing_sent(world, run)
        if not world.in_time:
            break
    private.kill()
    down = world.run("--bulk")
    private.restart()
    check_nothing_sent(world, down)
    return f", server killed {done} times"


def stalls(world: World, private: PrivateDatabase, size: int, count: int = 3) -> str:
    """Let connections and then the server go silent: the job's own limit must end each run."""
    limit = {"DB_QUERY_TIMEOUT_SECONDS": "1"}
    runs: list[Run] = []
    paused = threading.Event()

    def read(number: int) -> None:
        runs.append(
            read_through(world, places[number], harms[number], f"stall{number}", **limit)[0]
        )

    def pause(client: socket.socket) -> bool:
        private.pause()
        paused.set()
        return _stall(client)

    places = [world.rng.randrange(size) for _ in range(count)]
    harms = [*[_stall] * (count - 1), pause]
    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    # All at once, as each takes as long as the limit; the server's own stop comes last.
    for thread in threads:
        thread.start()
        time.sleep(1)
    for thread in threads:
        thread.join()
    private.resume()
    demand(len(runs) == count and paused.is_set(), "a stalled read did not end")
    for run in runs:
        check_nothing_sent(world, run)
    return f", stalled {count} times"


# --- disk -----------------------------------------------------------------------------------------

WRITTEN = ("RESULTS_DIR", "STATE_FILE", "LOG_FILE")
DISK_BYTES = 16 << 20
# From the first lines of the log to what a run of this size writes in all.
FREE_BYTES = (8_000, 60_000, 400_000)


class SmallDisk:
    """A disk that can be filled: a tmpfs of its own. Mounting takes root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def __enter__(self) -> "SmallDisk":
        self.folder.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", str(self.folder)]
        subprocess.run(mount, check=True, capture_output=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def fill(self, leave: int) -> None:
        """Write until only *leave* bytes are free."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while (free := shutil.disk_usage(self.folder).free) > leave:
                file.write(bytes(min(1 << 20, free - leave)))

    def clear(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def empty(self) -> None:
        """Remove everything."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def disk(world: World, cases: int = 36, rows: int = 300) -> str:
    """Let the space for each file, and for all, end before, while and after rows are sent."""
    world.settings = {"ITERABLE_WORKERS": "8", "BULK_BATCH_SIZE": "20"}
    world.iterable.change(latency_ms=(1, 5))
    world.fill(rows)
    told = Counter[str]()
    for number in range(cases // 3):
        after = world.rng.randint(0, 2 * rows) if number % 2 else 0
        limit = world.rng.randrange(world.rng.choice(FREE_BYTES))
        if world.in_time:
            told[limited_files(world, number, after, limit)] += 1
    how = f"{told.total()} times by a limit on the size of files"
    try:
        with SmallDisk(world.folder / "disk") as small:
            for number in range(cases):
                if world.in_time:
                    told[full_disk(world, small, number, rows)] += 1
    except (subprocess.CalledProcessError, FileNotFoundError):
        how += " and NEVER by a full disk, as mounting one takes root"
    ends = ", ".join(f"{count} {status}" for status, count in sorted(told.items()))
    return f"space ended {told.total()} times, {how}; exit status {ends}; then all was delivered"


def full_disk(world: World, small: SmallDisk, number: int, rows: int) -> str:
    """Fill the disk that holds one of the job's files, or all, at one stage of the run."""
    names = (*[(name,) for name in WRITTEN], WRITTEN)[number % 4]
    stage = ("before", "sending", "end")[number // 4 % 3]
    folder = world.folder / f"disk{number}"
    small.empty()
    usual = world.environ(folder)
    environ = {name: usual[name].replace(str(folder), str(small.folder)) for name in names}
    if stage == "before":
        small.fill(world.rng.randrange(world.rng.choice([1, *FREE_BYTES])))
    process = world.start("--changed-only", folder=folder, **environ)
    if stage != "before":
        last = 2 * rows - 20
        process.wait_for(last if stage == "end" else world.rng.randint(1, last))
        small.fill(0)
    run = process.finish()
    small.clear()
    return f"{check_space(world, run, folder, environ)}"


def limited_files(world: World, number: int, after: int, limit: int) -> str:
    """Let no file of a run grow beyond *limit* bytes, once *after* requests have come."""
    folder = world.folder / f"limit{number}"
    process = world.start("--changed-only", folder=folder)
    process.wait_for(after)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (limit, limit))
    return check_space(world, process.finish(), folder, {})


def check_space(world: World, run: Run, folder: Path, environ: dict[str, str]) -> str:
    """Raise Broken unless *run* told the truth, and another with space does the rest."""
    told = f"exit status {run.status}\n{run.errors[-2000:]}"
    demand(run.status == 0 or run.errors.strip(), f"{told}: it failed without a word")
    if run.report or run.status == 0:
        world.check(run, 0, 1, 2, 3, 4, 70)
    demand("Traceback" not in run.errors, told)
    again = SentAgain()
    again.note(0, run.requests)
    after = world.run("--changed-only", folder=folder, **environ)
    world.check(after, 0)
    again.note(1, after.requests)
    demand(run.status or not again.after, f"{len(again.after[0])} rows unrecorded after success")
    demand(not world.missing(), f"{len(world.missing())} rows are lost")
    world.forget()
    return str(run.status)


# --- The command line -----------------------------------------------------------------------------


class Scenario(NamedTuple):
    """One of the things that go wrong, and its part of the time."""

    play: Callable[[World, PrivateDatabase], str]
    share: float


SCENARIOS = {
    "kills": Scenario(lambda world, _: kills(world), 0.5),
    "faults": Scenario(lambda world, _: faults(world), 0.15),
    "database": Scenario(database, 0.15),
    "disk": Scenario(lambda world, _: disk(world), 0.2),
}


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201 - this is a command line


def main(argv: list[str] | None = None) -> int:
    """Run the scenarios; return 1 if the job broke its word in one of them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seed", type=int, help="default: a new one, which is told")
    parser.add_argument("--minutes", type=float, default=10.0, help="all of them (10)")
    parser.add_argument("--only", choices=SCENARIOS)
    args = parser.parse_args(argv)
    seed = random.randrange(10**6) if args.seed is None else args.seed
    names = [args.only] if args.only else list(SCENARIOS)
    seconds = 60 * args.minutes / sum(SCENARIOS[name].share for name in names)
    say(f"chaos: seed {seed}")
    # A list: after one has failed the others are played too.
    lived = [survives(name, seed, seconds * SCENARIOS[name].share) for name in names]
    return int(not all(lived))


def survives(name: str, seed: int, seconds: float) -> bool:
    """Run one scenario and print what came of it; keep what the job wrote if it failed."""
    began_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{name}-"))
    try:
        with new_world(folder, random.Random(f"{seed} {name}")) as (world, private):
            # Before the end something is left for the runs that set things right.
            world.deadline_s = began_s + 0.9 * seconds
            told = SCENARIOS[name].play(world, private)
    except Broken as broken:
        say(f"{name}: BROKEN: {broken}\n  what the job wrote: {folder}")
        say(f"  again: python -m tests.chaos --seed {seed} --only {name}")
        return False
    shutil.rmtree(folder)
    say(f"{name}: {told} [{time.monotonic() - began_s:.0f} s]")
    return True


if __name__ == "__main__":
    sys.exit(main())
