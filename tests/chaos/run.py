"""Lets everything around the job fail, and asks the sandbox whether the job told the truth.

    python -m tests.chaos.run [--seed N] [--minutes M] [--only kills|faults|alone|database|disk]

main.py runs as a process of its own, between a private database server and the local Iterable. It
is killed, its requests meet every fault of the sandbox, all at once and each kind alone, its
database dies under its read, its disk fills. Whatever happens, this holds:

- in the end every row is delivered that can be, and Iterable holds what the database holds;
- then another run has nothing to send;
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
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from delivery import worker_pool
from sandbox.database import PrivateDatabase
from tests.chaos.api import alone, create_fields, faults
from tests.chaos.harm import Harm, Proxy, SmallDisk, close, reset, stall
from tests.chaos.world import (
    Broken,
    Process,
    Run,
    World,
    demand,
    let_live,
    new_world,
    rows_of,
)

# --- kills ----------------------------------------------------------------------------------------


WORKERS, BATCH = 8, 5


class SentAgain:
    """Which rows were sent again though Iterable had applied the same content in an earlier run.

    ``bounds``: of how many rows each run may have left no record, by its number.
    """

    def __init__(self) -> None:
        self.bounds: list[int] = []
        self._applied: dict[tuple[str, str], tuple[str, int]] = {}  # call -> content, run
        self._after: defaultdict[int, set[str]] = defaultdict(set)  # run -> emails
        # Whose content went back to an older one: that is no repetition.
        self.ignored: set[str] = set()

    def note(self, run: Run, bound: int) -> None:
        """Take in the requests of the next run."""
        number = len(self.bounds)
        self.bounds.append(bound)
        for request in run.requests:
            for row in rows_of(request):
                email, content = row["email"].lower(), json.dumps(row, sort_keys=True)
                call = ("event", row["id"]) if "id" in row else ("user", email)
                before, last = self._applied.get(call, ("", number))
                if before == content and last != number and email not in self.ignored:
                    self._after[last].add(email)
                self._applied[call] = content, number

    def check(self) -> str:
        """Raise Broken if a run left more rows without a record than it may; return a summary."""
        most: defaultdict[int, int] = defaultdict(int)
        for run, emails in self._after.items():
            bound = self.bounds[run]
            demand(len(emails) <= bound, f"run {run}: {len(emails)} rows sent again, not {bound}")
            most[bound] = max(most[bound], len(emails))
        told = f"{sum(map(len, self._after.values()))} rows"
        return told + "".join(f", {n} of {b} allowed at most" for b, n in most.items())


def unrecorded_bound(run: Run) -> int:
    """Return of how many rows a run may leave no record: in flight, or done a moment ago."""
    if run.status != -signal.SIGKILL:
        return 0
    # The worker pool lets so many batches be under way; their outcomes are recorded as they come.
    if "--bulk" in run.flags:
        return worker_pool.MOST_BATCHES * BATCH + WORKERS
    return WORKERS


def kills(world: World, count: int = 200, rows: int = 5000) -> str:
    """Kill the job with signal 9 at random instants, and go on with another run."""
    world.settings = {"ITERABLE_WORKERS": str(WORKERS), "BULK_BATCH_SIZE": str(BATCH)}
    world.iterable.change(latency_ms=5)
    world.fill(rows, repeats=rows // 100)
    # A run that is killed before its look at new fields sends once more what is not sure.
    create_fields(world)
    world.take_requests()
    again = SentAgain()
    # More than needed to be done with the rows: what is changed then ends a run within the second.
    killed = kill_often(world, again, count, max(1, 4 * rows // count))
    world.iterable.change(latency_ms=0)
    last = world.run(ITERABLE_WORKERS="100")
    again.note(last, 0)
    world.check(last, 0)
    world.check_settled()
    return (
        f"{killed} of {count} kills over {rows} rows, {len(again.bounds) - killed + 1} other runs; "
        f"none lost, none doubled; sent again: {again.check()}"
    )


def kill_often(world: World, again: SentAgain, count: int, per_kill: int) -> int:
    """Kill up to *count* runs, after some *per_kill* requests each; return how many it were."""
    killed = 0
    renamed: list[int] = []
    while killed < count and world.in_time:
        bulk = world.rng.random() < 0.5
        process = world.start(*(["--bulk"] if bulk else []))
        # Renamed users come first and are few.
        requests = len(renamed) // 2 or per_kill
        if let_live(process, world.rng, requests // BATCH if bulk else requests):
            if world.rng.random() < 0.1:
                check_lock(world, process)
            process.kill()
        run = process.finish()
        again.note(run, unrecorded_bound(run))
        world.check_leftovers()
        if run.status == -signal.SIGKILL:
            killed += 1
        else:
            world.check(run, 0)
        if renamed and world.rng.random() < 0.5:
            # Back to what was delivered before: what the killed run sent must not be forgotten.
            again.ignored |= world.rename(renamed)
        renamed = []
        if run.status == 0 or world.rng.random() < 0.2:
            renamed = world.change_some(per_kill)
            again.ignored |= world.rename(renamed)
    return killed


def check_lock(world: World, process: Process) -> None:
    """Raise Broken if another run can begin beside *process*, which sends already."""
    if not world.requests_since():
        return
    # Stopped, so that it holds what it holds until the other is over.
    process.popen.send_signal(signal.SIGSTOP)
    how = os.WSTOPPED | os.WEXITED | os.WNOWAIT
    state = os.waitid(os.P_PID, process.popen.pid, how)
    if state and state.si_code == os.CLD_STOPPED:
        before = world.requests_in_all()
        status = world.start().end()
        demand(status == 75, f"a second run ended with exit status {status}, not 75")
        demand(world.requests_since() == before, "a second run has sent something")


# --- database -------------------------------------------------------------------------------------


# What a server may say, with TLS, when all rows have come.
AFTER_THE_READ = 100


def read_through(
    world: World,
    after: float,
    harm: Harm,
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
    if world.database.settings["DB_HOST"].startswith("/"):
        return "NOT PLAYED: this server has no port to stand before"
    world.fill(rows)
    whole, size = read_through(world, math.inf, close)
    world.check(whole, 0)
    size -= AFTER_THE_READ
    done = 0
    while done < cuts and world.in_time:
        # The login is short; without a share of its own it would hardly ever be hit.
        after = world.rng.randrange(600 if world.rng.random() < 0.2 else size)
        run, _ = read_through(world, after, world.rng.choice([reset, close]))
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
        return stall(client)

    places = [world.rng.randrange(size) for _ in range(count)]
    harms = [*[stall] * (count - 1), pause]
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
FULL_BATCH = 60
# From the first lines of the log to what a run of this size writes in all.
FREE_BYTES = (8_000, 60_000, 400_000)


def disk(world: World, cases: int = 36, rows: int = 300) -> str:
    """Let the space for each file, and for all, end before, while and after rows are sent."""
    world.settings = {"ITERABLE_WORKERS": "8", "BULK_BATCH_SIZE": str(FULL_BATCH)}
    world.iterable.change(latency_ms=3)
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
    flags, last = [], 2 * rows - 20
    if number // 12 % 2:
        flags, last = ["--bulk"], 2 * rows // FULL_BATCH - 1
    folder = world.folder / f"disk{number}"
    small.empty()
    usual = world.environ(folder)
    environ = {name: usual[name].replace(str(folder), str(small.folder)) for name in names}
    if stage == "before":
        small.fill(world.rng.randrange(world.rng.choice([1, *FREE_BYTES])))
    process = world.start(*flags, folder=folder, **environ)
    if stage != "before":
        process.wait_for(last if stage == "end" else world.rng.randint(1, last))
        small.fill(0)
    run = process.finish()
    small.clear()
    return f"{check_space(world, run, folder, environ)}"


def limited_files(world: World, number: int, after: int, limit: int) -> str:
    """Let no file of a run grow beyond *limit* bytes, once *after* requests have come."""
    folder = world.folder / f"limit{number}"
    # Python would not notice that it had written half of a compiled module, and later choke on it.
    process = world.start(folder=folder, PYTHONDONTWRITEBYTECODE="1")
    process.wait_for(after)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (limit, limit))
    return check_space(world, process.finish(), folder, {})


def check_space(world: World, run: Run, folder: Path, environ: dict[str, str]) -> str:
    """Raise Broken unless *run* told the truth, and another with space does the rest."""
    told = f"exit status {run.status}\n{run.errors[-2000:]}"
    demand(run.status == 0 or run.errors.strip(), f"{told}: it failed without a word")
    if run.report or run.status == 0:
        world.check(run, 0, 2, 4)
    demand("Traceback" not in run.errors, told)
    again = SentAgain()
    # A run that says that it failed may leave any number without a record.
    again.note(run, len(world.wanted()) if run.status else 0)
    after = world.run(folder=folder, **environ)
    world.check(after, 0)
    again.note(after, 0)
    again.check()
    demand(not world.missing(), f"{len(world.missing())} rows are lost")
    world.forget()
    return str(run.status)


# --- The command line -----------------------------------------------------------------------------


class Scenario(NamedTuple):
    """One of the things that go wrong, and its part of the time."""

    play: Callable[[World, PrivateDatabase], str]
    share: float


# The longest comes last: it also gets the time that the others leave.
SCENARIOS = {
    "faults": Scenario(lambda world, _: faults(world), 0.12),
    "alone": Scenario(lambda world, _: alone(world), 0.25),
    "database": Scenario(database, 0.12),
    "disk": Scenario(lambda world, _: disk(world), 0.18),
    "kills": Scenario(lambda world, _: kills(world), 0.33),
}


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201 - this is a command line


def main(argv: list[str] | None = None) -> int:
    """Run the scenarios; return 1 if the job broke its word in one of them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.run", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seed", type=int, help="default: a new one, which is told")
    parser.add_argument("--minutes", type=float, default=10.0, help="all of them (10)")
    parser.add_argument("--only", choices=SCENARIOS)
    args = parser.parse_args(argv)
    seed = random.randrange(10**6) if args.seed is None else args.seed
    names = [args.only] if args.only else list(SCENARIOS)
    seconds = 60 * args.minutes / sum(SCENARIOS[name].share for name in names)
    until_s = time.monotonic() + 60 * args.minutes
    say(f"chaos: seed {seed}")
    lived = []
    for name in names:
        left_s = until_s - time.monotonic()
        own_s = left_s if name == names[-1] else seconds * SCENARIOS[name].share
        # After one has failed the others are played too.
        lived.append(survives(name, seed, own_s))
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
        say(f"  again: python -m tests.chaos.run --seed {seed} --only {name}")
        return False
    shutil.rmtree(folder)
    say(f"{name}: {told} [{time.monotonic() - began_s:.0f} s]")
    return True


if __name__ == "__main__":
    sys.exit(main())
