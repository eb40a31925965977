"""What befalls the job: kills, faults of Iterable, a database that dies, a disk that fills."""

import contextlib
import json
import math
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from delivery import worker_pool
from sandbox.endpoints import EVENTS_TRACK_BULK, USERS_BULK_UPDATE
from sandbox.faults import Fault
from sandbox.settings import Settings
from tests.chaos.world import Run, World, hurried_copy, rows_of
from tests.tunnels import accepting

WORKERS, BATCH = 8, 5
MODES = {"per-user": [], "bulk": ["--bulk"]}

# --- Kills ----------------------------------------------------------------------------------------


class SentAgain:
    """Which rows were sent again though Iterable had applied the same content in an earlier run.

    ``bounds``: of how many rows each run may have left no record, by its number.
    """

    def __init__(self) -> None:
        self.bounds: list[int] = []
        self._applied: dict[tuple[str, str], tuple[str, int]] = {}  # call -> content, run
        self._after: defaultdict[int, set[str]] = defaultdict(set)  # run -> emails
        # Whose content may have gone back to an older one: that is no repetition.
        self.ignored: set[str] = set()

    def note(self, run: Run, bound: int) -> None:
        """Take in the requests of the next run. Fail if too many rows are sent again."""
        number = len(self.bounds)
        self.bounds.append(bound)
        for request in run.requests:
            for row in rows_of(request):
                email, content = row["email"].lower(), json.dumps(row, sort_keys=True)
                call = ("event", row["id"]) if "id" in row else ("user", email)
                before, last = self._applied.get(call, ("", number))
                if before == content and last != number and email not in self.ignored:
                    self._after[last].add(email)
                    assert len(self._after[last]) <= self.bounds[last], f"after {last}: {row}"
                self._applied[call] = content, number


def unrecorded_bound(run: Run) -> int:
    """Return of how many rows a run may leave no record: in flight, or done a moment ago."""
    if run.status != -signal.SIGKILL:
        return 0
    # The worker pool lets so many batches be under way; their outcomes are recorded as they come.
    return worker_pool.MOST_BATCHES * BATCH + WORKERS if "--bulk" in run.flags else WORKERS


def kills(world: World, count: int = 200, rows: int = 5000) -> str:
    """Kill the job with signal 9 at random instants, and go on with another run."""
    world.settings = {"ITERABLE_WORKERS": str(WORKERS), "BULK_BATCH_SIZE": str(BATCH)}
    world.iterable.change(latency_ms=5)
    world.fill(rows, repeats=rows // 100)
    # The fields are created: a run that is killed before its look at new ones sends again what is
    # not sure.
    world.run("--limit", "20")
    again, killed = SentAgain(), 0
    # More than needed to be done with the rows: what is changed then ends a run within the second.
    per_kill = max(1, 4 * rows // count)
    while killed < count and world.in_time:
        run = run_or_kill(world, world.rng.choice(list(MODES.values())), per_kill)
        again.note(run, unrecorded_bound(run))
        killed += run.status == -signal.SIGKILL
        if run.status != -signal.SIGKILL:
            world.check(run, 0)
        if run.status == 0 or world.rng.random() < 0.3:
            again.ignored |= world.churn(per_kill)
    world.iterable.change(latency_ms=0)
    last = world.run(ITERABLE_WORKERS="100")
    again.note(last, 0)
    world.check(last, 0)
    world.check_settled()
    return (
        f"{killed} of {count} kills over {rows} rows, {len(again.bounds) - killed} other runs; "
        f"none lost, none doubled, none sent again but what was in flight"
    )


def run_or_kill(
    world: World, flags: list[str], rows: int, chance: float = 1.0, folder: Path | None = None
) -> Run:
    """Run the job; with this chance kill it on its way through some *rows*."""
    process, rng = world.start(*flags, folder=folder), world.rng
    if rng.random() < chance:
        count = rows // BATCH if "--bulk" in flags else rows
        if rng.random() < 0.25:  # before its first request, most often
            process.wait_for(0, rng.uniform(0, 0.8))
        else:
            process.wait_for(rng.randint(1, 2 * count + 1), rng.uniform(0, 0.02))
        process.popen.kill()
    return process.finish()


# --- Faults of Iterable, and of what lies between -------------------------------------------------

SUCCESS = '{"msg":"","code":"Success","params":null}'
NOT_ACCOUNTED_FOR = ('{"successCount":0,"failCount":0,"failedUpdates":{}}', SUCCESS)
# Those that look like Iterable's own verdict on a row are left out.
FAULTS: dict[str, list[dict[str, Any]]] = {
    "limits": [
        {"kind": "rate_limited"},
        {"kind": "rate_limited", "headers": {"Retry-After": "1"}, "times": 1},
        {"kind": "gateway", "status": 503, "headers": {"Retry-After": "1"}, "times": 1},
    ],
    "errors": [
        {"kind": "server_error"},
        {"kind": "server_error", "applied": True},
        {"kind": "gateway", "status": 503, "body": ""},
        *({"kind": "gateway", "status": status} for status in (400, 403, 404, 407, 502)),
        {"kind": "answer", "status": 408, "headers": {"Connection": "close"}},
    ],
    "connections": [
        {"kind": "reset_before"},
        {"kind": "reset_after"},
        {"kind": "hang"},
        {"kind": "hang", "applied": True},
        {"kind": "truncated"},
    ],
    "shapes": [
        {"kind": "garbage"},
        {"kind": "garbage", "applied": True},
        {"kind": "not_success"},
        {"kind": "answer", "body": "[" * 5000},
        {"kind": "answer", "body": "null", "applied": True},
        # More than the job reads of any answer.
        {"kind": "answer", "body": SUCCESS, "size": 9_000_000, "applied": True},
        *(
            {"kind": "answer", "endpoint": endpoint, "body": body, "applied": applied}
            for endpoint in (USERS_BULK_UPDATE, EVENTS_TRACK_BULK)
            for body in NOT_ACCOUNTED_FOR
            for applied in (False, True)
        ),
    ],
    "key": [{"kind": "unauthorized"}],
    "forbidden": [{"kind": "answer", "status": 403, "body": '{"code":"Forbidden"}'}],
    "down": [{"kind": "gateway", "status": 503}],
}
EVERY_FAULT = [
    fault for kind in ("limits", "errors", "connections", "shapes") for fault in FAULTS[kind]
]
DIFFICULTIES: tuple[dict[str, Any], ...] = (
    {},
    {"lag_s": 0.3, "track_needs_user": True},
    {"most_rows_in_bulk": 2},
    {"project_type": "hybrid"},
)
MALFORMED = ("no-at-sign", "two@@example.com", "space in@example.com", "dot.@example.com", " ")
FORGOTTEN, POISON = "forgotten@example.com", "poison@example.com"


def faults(world: World, rows: int = 80) -> str:
    """Play one kind of fault after another, and all at once, until the time is over."""
    world.program = hurried_copy(world.folder / "program")
    games = [(kind, mode) for kind in [*FAULTS, "all"] for mode in MODES]
    rounds = 0
    while world.in_time:
        if rounds % len(games) == 0:
            world.rng.shuffle(games)
        play(world, *games[rounds % len(games)], rows, world.folder / str(rounds))
        rounds += 1
    return f"{rounds} rounds of {len(games)}; none lost, none doubled, nothing left to send"


def play(world: World, kind: str, mode: str, rows: int, folder: Path) -> None:
    """Let the job run under one kind of fault, now and then killed, and then without."""
    rng, flags = world.rng, MODES[mode]
    prepare(world, rows)
    # A row whose 500 never ends must not take its batch with it.
    always = Fault("server_error", email=POISON)
    had_before = rng.random() < 0.5
    if had_before:
        world.iterable.set_faults(always)
        world.check(world.run(*flags, folder=folder), 1)
    difficulty = rng.choice(DIFFICULTIES)
    world.iterable.change(**difficulty)
    kinds = FAULTS.get(kind, EVERY_FAULT)
    world.iterable.set_faults(always, *some_of_each(rng, kinds, rng.uniform(0.2, 0.8)))
    for number in range(rng.randint(1, 3)):
        if had_before or number:
            world.churn(5)
        send_all = ["--all"] if rng.random() < 0.2 else []
        run = run_or_kill(world, [*flags, *send_all], rows, 0.3, folder)
        if run.status != -signal.SIGKILL:
            world.check(run, 1, 4)
    # From here on all is well but for the rows, and one run does the rest.
    usual = {name: getattr(Settings(), name) for name in difficulty}
    world.iterable.change(**usual)
    world.iterable.set_faults(always)
    check_bad_rows(world.check(world.run(*flags, folder=folder), 1), world)
    for email in world.bad:
        world.database.execute("UPDATE customers SET plan_type = '' WHERE email = %s", (email,))
    world.check_settled(*flags, folder=folder)


def prepare(world: World, rows: int) -> None:
    """Put in the rows, bad ones among them, and empty the project."""
    world.forget()
    world.fill(rows, (*MALFORMED, FORGOTTEN, POISON), repeats=max(2, rows // 20))
    world.bad, world.forgotten = {*MALFORMED, POISON}, {FORGOTTEN}
    world.iterable.forget(FORGOTTEN)
    world.iterable.change(limit_scale=100)
    world.settings = {
        "ITERABLE_TIMEOUT_SECONDS": "0.4",
        "ITERABLE_MAX_ATTEMPTS": "2",
        "ITERABLE_WORKERS": str(WORKERS),
        "BULK_BATCH_SIZE": str(BATCH),
    }


def some_of_each(rng: random.Random, kinds: list[dict[str, Any]], share: float) -> list[Fault]:
    """Return *kinds* in some order, all together for about *share* of the requests."""
    # The first one that wants a request gets it.
    chances = [share / (len(kinds) - share * n) for n in range(len(kinds))]
    return [
        Fault(**kind, probability=chance, seed=rng.randrange(2**32))
        for kind, chance in zip(rng.sample(kinds, len(kinds)), chances, strict=True)
    ]


def check_bad_rows(report: dict[str, Any], world: World) -> None:
    """Fail unless the bad rows, and no others, are told as what they are."""
    well = {"unchanged", "successful"}
    failed = {row["email"]: row for row in report["results"] if row["outcome"] not in well}
    differ = failed.keys() ^ (world.bad | world.forgotten)
    assert not differ, f"failed and not bad, or bad and not failed: {differ}"
    for email, row in failed.items():
        verdicts = {"refused"}
        if email in world.forgotten:
            verdicts = {"forgotten"}
        elif email == POISON:
            verdicts = {"unavailable", "unknown"}
        assert row["users_update"]["status"] in verdicts, f"{email}: {row['users_update']}"


# --- A database that dies -------------------------------------------------------------------------

# Breaks a client's connection, or what is behind it.
Harm = Callable[[socket.socket], object]
RESET_ON_CLOSE = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
# What a server may say, with TLS, when all rows have come.
AFTER_THE_READ = 100


def read_through(world: World, after: float, harm: Harm) -> tuple[Run, int]:
    """Run the job with *harm* after so many bytes of its read; return the bytes that passed too."""
    at, passed = world.database.settings, 0

    def serve(client: socket.socket) -> None:
        nonlocal passed
        with socket.create_connection((at["DB_HOST"], int(at["DB_PORT"]))) as server:
            while True:
                # One thread for both ways: a socket that another thread reads cannot be reset.
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    if not (data := client.recv(1 << 16)):
                        return
                    server.sendall(data)
                if server in ready:
                    if not (data := server.recv(1 << 14)):
                        return
                    left = int(min(len(data), after - passed))
                    client.sendall(data[:left])
                    passed += left
                    if left < len(data):
                        harm(client)
                        return

    with accepting(serve) as port:
        folder = world.folder / "read"
        run = world.run("--bulk", folder=folder, DB_HOST="127.0.0.1", DB_PORT=str(port))
        return run, passed


def check_nothing_sent(world: World, run: Run) -> None:
    """Fail unless the run ended for the database, and its results file says so."""
    report = world.check(run, 3)
    assert not run.requests, f"{len(run.requests)} requests after a broken read"
    assert report["results"] == [], "the results file has rows"
    assert report["run"]["error"], "the results file tells no error"
    assert not report["run"]["complete"], "the results file says complete"


def database(world: World, cuts: int = 40, rows: int = 3000, *, may_kill: bool = True) -> str:
    """Cut the connection at any byte of the read, or kill the server there."""
    if world.database.settings["DB_HOST"].startswith("/"):
        return "NOT PLAYED: this server has no port to stand before"
    world.fill(rows)
    server, done = world.database.server, 0
    harms: dict[str, Harm] = {
        "end": lambda _: None,  # in order, though in the middle of an answer
        "reset": lambda client: client.setsockopt(*RESET_ON_CLOSE),
        "kill": lambda _: server.kill(),
    }
    whole, size = read_through(world, math.inf, harms["end"])
    world.check(whole, 0)
    size -= AFTER_THE_READ
    while done < cuts and world.in_time:
        harm = world.rng.choice([*harms][: 2 + may_kill])
        # The login is short; without a share of its own it would hardly ever be hit.
        after = world.rng.randrange(600 if world.rng.random() < 0.2 else size)
        runs = [read_through(world, after, harms[harm])[0]]
        if harm == "kill":
            runs.append(world.run("--bulk", folder=world.folder / "read"))
            server.restart()
        for run in runs:
            check_nothing_sent(world, run)
        done += 1
    world.forget()
    world.check(world.run("--bulk"), 0)
    assert not world.missing(), f"{len(world.missing())} rows are lost"
    return f"read cut {done} times: nothing sent; afterwards {rows} rows delivered"


# --- A disk that fills ----------------------------------------------------------------------------

DISK_BYTES = 16 << 20
WRITTEN = (
    ("RESULTS_DIR",), ("STATE_FILE",), ("LOG_FILE",), ("RESULTS_DIR", "STATE_FILE", "LOG_FILE")
)  # fmt: skip
STAGES = ("before", "sending", "end")
FULL_BATCH = 60
# From the first lines of the log to what a run of this size writes in all.
FREE_BYTES = (1, 8_000, 60_000, 400_000)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a tmpfs on *folder*, which takes root."""
    folder.mkdir(parents=True)
    size = f"size={DISK_BYTES}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "chaos", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(ballast: Path, leave: int) -> None:
    """Write to *ballast* until its disk has only *leave* bytes left."""
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while (free := shutil.disk_usage(ballast.parent).free) > leave:
            file.write(bytes(min(1 << 20, free - leave)))


def disk(world: World, cases: int = 48, rows: int = 300) -> str:
    """Let the disk of each file, and of all, be full before, while and after rows are sent."""
    world.settings = {"ITERABLE_WORKERS": "8", "BULK_BATCH_SIZE": str(FULL_BATCH)}
    world.iterable.change(latency_ms=3)
    world.fill(rows)
    played = 0
    try:
        with small_disk(world.folder / "disk") as small:
            while played < cases and world.in_time:
                full_disk(world, small, played, rows)
                played += 1
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "NOT PLAYED: mounting a small disk takes root"
    return f"disk full {played} times: all failures told; then all was delivered"


def full_disk(world: World, small: Path, number: int, rows: int) -> None:
    """Fill the disk that holds one of the job's files, or all, at one stage of the run."""
    names, stage = WRITTEN[number % 4], STAGES[number // 4 % 3]
    bulk_mode = number // 12 % 2
    flags, last = (["--bulk"], 2 * rows // FULL_BATCH - 1) if bulk_mode else ([], 2 * rows - 20)
    folder, ballast = world.folder / f"disk{number}", small / "ballast"
    for path in small.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    usual = world.environ(folder)
    environ = {name: usual[name].replace(str(folder), str(small)) for name in names}
    if stage == "before":
        fill_up(ballast, world.rng.randrange(world.rng.choice(FREE_BYTES)))
    process = world.start(*flags, folder=folder, **environ)
    if stage != "before":
        process.wait_for(last if stage == "end" else world.rng.randint(1, last))
        fill_up(ballast, 0)
    run = process.finish()
    ballast.unlink()
    check_space(world, run, folder, environ)


def check_space(world: World, run: Run, folder: Path, environ: dict[str, str]) -> None:
    """Fail unless *run* told the truth, and another with space does the rest."""
    told = f"exit status {run.status}\n{run.errors[-2000:]}"
    assert run.status == 0 or run.errors.strip(), f"{told}: it failed without a word"
    assert "Traceback" not in run.errors, told
    if run.report or run.status == 0:
        world.check(run, 0, 2, 4)
    again = SentAgain()
    # A run that says that it failed may leave any number without a record.
    again.note(run, len(world.wanted()) if run.status else 0)
    after = world.run(folder=folder, **environ)
    world.check(after, 0)
    again.note(after, 0)
    assert not world.missing(), f"{len(world.missing())} rows are lost"
    world.forget()
