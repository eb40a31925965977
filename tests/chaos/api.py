"""What Iterable, and what lies between, may do to the job: each kind alone, and all at once.

Whoever answers, the rows are delivered once it is over, and a run more has nothing to send.
"""

import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import requests

from iterable_api.endpoints import UPDATE_USER
from iterable_api.mapping import OWN_FIELDS
from sandbox.endpoints import EVENTS_TRACK_BULK, USERS_BULK_UPDATE
from sandbox.faults import Fault
from sandbox.settings import Settings
from tests.chaos.world import (
    Broken,
    Run,
    World,
    demand,
    hurried_copy,
    let_live,
)
from tests.rows import EVENT_FIELDS, PROFILE_FIELDS

MODES = {"per-user": [], "bulk": ["--bulk"]}
SUCCESS = '{"msg":"","code":"Success","params":null}'
# More than the job reads of any answer. What follows such a success is not looked at.
HUGE = {"kind": "answer", "body": SUCCESS, "size": 9_000_000}
CLOSING = {"kind": "answer", "status": 408, "headers": {"Connection": "close"}}
NO_ROWS = '{"successCount":0,"failCount":0,"failedUpdates":{}}'


def in_bulk(*bodies: str) -> tuple[dict[str, Any], ...]:
    """Return faults of the bulk endpoints that answer so, whether applied or not."""
    return tuple(
        {"kind": "answer", "endpoint": endpoint, "body": body, "applied": applied}
        for endpoint in (USERS_BULK_UPDATE, EVENTS_TRACK_BULK)
        for body in bodies
        for applied in (False, True)
    )


# Those that look like Iterable's own verdict on a row are left out.
FAULTS: dict[str, tuple[dict[str, Any], ...]] = {
    "429": ({"kind": "rate_limited"},),
    "errors": (
        {"kind": "server_error"},
        {"kind": "server_error", "applied": True},
        {"kind": "gateway"},
        {"kind": "gateway", "status": 503, "body": ""},
    ),
    "connections": (
        {"kind": "reset_before"},
        {"kind": "reset_after"},
        {"kind": "hang"},
        {"kind": "hang", "applied": True},
        {"kind": "truncated"},
    ),
    "shapes": (
        {"kind": "garbage"},
        {"kind": "garbage", "applied": True},
        {"kind": "not_success"},
        {"kind": "answer", "body": "[" * 5000},
        {"kind": "answer", "body": "null", "applied": True},
        {"kind": "answer", "body": SUCCESS, "headers": {"Content-Encoding": "gzip"}},
    ),
    "huge": (HUGE, HUGE | {"applied": True}, HUGE | {"status": 500}),
    "foreign": tuple({"kind": "gateway", "status": status} for status in (400, 403, 404, 407)),
    "408": (CLOSING, CLOSING | {"applied": True}),
    "not accounted for": in_bulk(NO_ROWS, SUCCESS, '{"successCount":-1}'),
    "Retry-After": (
        {"kind": "gateway", "status": 503, "headers": {"Retry-After": "1"}, "times": 1},
        {"kind": "rate_limited", "headers": {"Retry-After": "1"}, "times": 1},
    ),
}
MALFORMED = ("no-at-sign", "two@@example.com", "space in@example.com", "dot.@example.com", " ")
FORGOTTEN, POISON = "forgotten@example.com", "poison@example.com"
TOO_LARGE: tuple[dict[str, object], ...] = (
    {"too_large_status": 413},
    {"too_large_status": 413, "too_large_as_json": False},
    {"too_large_status": 400},
)
LATE = {"lag_s": 0.3, "track_needs_user": True}
SMALL_BATCH = 7
# Of the requests, when all faults are let loose at once.
SHARE = 0.4
RUNS_AT_MOST = 15
KILLED = 0.3  # of the runs
KEY_VARIANTS = ("bad_key", "code_success", "no_permission", "bad_jwt")


class Condition(NamedTuple):
    """One thing that is not as it should be. Those of *rows* are among the data."""

    faults: tuple[dict[str, Any], ...] = ()
    share: tuple[float, float] = (0.2, 0.8)  # of the requests, from the one to the other
    settings: Mapping[str, object] = {}  # of the sandbox
    repeats: int = 0
    forgotten: tuple[str, ...] = ()
    keys: tuple[str, ...] = ("chaos",)
    from_nothing: bool = False  # it does not show where Iterable had the rows before


CONDITIONS = {
    **{name: Condition(faults) for name, faults in FAULTS.items()},
    "key": Condition(tuple({"kind": "unauthorized", "variant": v} for v in KEY_VARIANTS)),
    "forbidden": Condition(({"kind": "answer", "status": 403, "body": '{"code":"Forbidden"}'},)),
    "down": Condition(({"kind": "gateway", "status": 503},), share=(1.0, 1.0)),
    **{
        f"too large, {number}": Condition(settings={"most_rows_in_bulk": 2, **told})
        for number, told in enumerate(TOO_LARGE, 1)
    },
    "late": Condition(settings=LATE),
    "no new fields": Condition(settings={"create_new_fields": False}, from_nothing=True),
    "one address": Condition(FAULTS["errors"], (0.0, 0.3), repeats=6),
    "forgotten": Condition(forgotten=tuple(f"{n}-{FORGOTTEN}" for n in range(3))),
    "two keys": Condition(FAULTS["connections"][:2], (0.0, 0.3), keys=("chaos", "order")),
}

# --- Each kind alone ------------------------------------------------------------------------------


def alone(world: World, rows: int = 60, rounds: int | None = None) -> str:
    """Play one condition after another, in both modes and with kills, until the time is over."""
    world.program = hurried_copy(world.folder / "program")
    games = [(name, mode) for name in CONDITIONS for mode in MODES]
    played = 0
    while world.in_time and played != rounds:
        if played % len(games) == 0:
            world.rng.shuffle(games)
        name, mode = games[played % len(games)]
        try:
            play(world, name, mode, rows, world.folder / f"{played}")
        except Broken as broken:
            raise Broken(f"{name}, {mode}: {broken}") from broken
        played += 1
    every = f"each of {len(games)}" if played >= len(games) else f"{played} of {len(games)}"
    return f"{every} conditions played, {played} rounds; none lost, none doubled, nothing left"


def play(world: World, name: str, mode: str, rows: int, folder: Path) -> None:
    """Let the job run under one condition, now and then killed, and then without."""
    condition, rng, flags = CONDITIONS[name], world.rng, MODES[mode]
    prepare(world, condition, rows)
    had_before = not condition.from_nothing and rng.random() < 0.5
    if had_before:
        world.check(world.run(*flags, folder=folder), 0)
    world.iterable.change(**condition.settings)
    world.blind_to_event_fields = "create_new_fields" in condition.settings and not flags
    if "create_new_fields" in condition.settings:
        world.lacking = {
            "users_update": list(PROFILE_FIELDS),
            "events_track": list(EVENT_FIELDS),
        }
    world.iterable.set_faults(*some_of_each(rng, condition.faults, rng.uniform(*condition.share)))
    for number in range(rng.randint(1, 3)):
        if had_before or number:
            churn(world)
        send_all = ["--all"] if rng.random() < 0.2 else []
        key = rng.choice(condition.keys)
        run = run_or_kill(world, [*flags, *send_all], folder, rows, ITERABLE_API_KEY=key)
        if run.status != -signal.SIGKILL:
            world.check(run, 0, 1, 4)
    # From here on all is well, and one run does the rest.
    usual = {name: getattr(Settings(), name) for name in condition.settings}
    world.iterable.change(**usual)
    world.iterable.set_faults()
    if "create_new_fields" in condition.settings:
        create_fields(world)
    world.blind_to_event_fields, world.lacking = False, {}
    world.check(world.run(*flags, folder=folder), 0)
    world.check_settled(*flags, folder=folder)


def create_fields(world: World) -> None:
    """Create the profile fields of the job in the project, as its operator does."""
    fields = {own.name: own.value or "a" for own in OWN_FIELDS if own.call == UPDATE_USER}
    requests.post(
        f"{world.iterable.url}/api/users/update",
        json={"email": "operator@example.com", "dataFields": fields},
        headers={"Api-Key": "chaos"},
        timeout=5,
    ).raise_for_status()


def prepare(world: World, condition: Condition, rows: int) -> None:
    """Put in the rows, and empty the project."""
    world.forget()
    world.fill(rows, condition.forgotten, condition.repeats)
    world.forgotten = set(condition.forgotten)
    world.iterable.forget(*condition.forgotten)
    world.iterable.change(limit_scale=100)
    world.settings = {
        "ITERABLE_TIMEOUT_SECONDS": "0.4",
        "ITERABLE_MAX_ATTEMPTS": "2",
        "ITERABLE_WORKERS": "8",
        "BULK_BATCH_SIZE": str(SMALL_BATCH),
    }


def churn(world: World) -> None:
    """Change some of the data, or turn it back to what it was."""
    what = world.rng.choice(["nothing", "names", "views", "addresses"])
    if what == "names":
        world.rename(world.rng.sample(range(1, 20), 5))
    elif what == "views":
        world.rename(world.change_some(5))
    elif what == "addresses":
        world.swap(2)


def run_or_kill(world: World, flags: list[str], folder: Path, rows: int, **environ: str) -> Run:
    """Run the job; now and then kill it on the way."""
    process = world.start(*flags, folder=folder, **environ)
    requests = rows // SMALL_BATCH if "--bulk" in flags else rows
    if world.rng.random() < KILLED and let_live(process, world.rng, requests):
        process.kill()
    run = process.finish()
    world.check_leftovers()
    return run


# --- All at once ----------------------------------------------------------------------------------


def faults(world: World, rows: int = 500) -> str:
    """Let every fault of the sandbox loose at once, and go on until every row is delivered."""
    world.program = hurried_copy(world.folder / "program")
    told = [faults_of(world, mode, rows, world.folder / mode) for mode in MODES]
    while world.in_time:
        mode = world.rng.choice(list(MODES))
        told.append(faults_of(world, mode, rows, world.folder / f"{len(told)}"))
    return "; ".join(told)


def faults_of(world: World, mode: str, rows: int, folder: Path, turns: int | None = None) -> str:
    """Deliver *rows* rows, some of them bad, in one mode; each fault has so many *turns*."""
    rng, flags, batch = world.rng, MODES[mode], max(SMALL_BATCH, rows // 40)
    everything = tuple(fault for group in FAULTS.values() for fault in group)
    prepare_all(world, rows, batch)
    # A row whose 500 never ends must not take its batch with it.
    always = Fault("server_error", email=POISON)
    share = SHARE if turns is None else 1.0
    world.iterable.set_faults(always, *some_of_each(rng, everything, share, turns))
    runs = killed = 0
    left = rows
    while left and (world.in_time or not runs):
        runs += 1
        demand(runs <= RUNS_AT_MOST, f"{left} rows not delivered after {RUNS_AT_MOST} runs")
        run = run_or_kill(world, [*flags], folder, 2 * rows // runs)
        if run.status == -signal.SIGKILL:
            killed += 1
        else:
            world.check(run, 0, 1, 4)
        left = len(world.missing())
    met = world.iterable.stats["faults"]
    world.iterable.set_faults(always)
    world.iterable.change(lag_s=0.0)
    # What was held without the ledger's knowing of it is sent once more.
    last = world.run(*flags, folder=folder)
    check_bad_rows(world.check(last, 1), world)
    world.retire(world.bad)
    world.check_settled(*flags, folder=folder)
    through = f"{sum(met.values())} faults of {len(met)} kinds"
    good = len(world.wanted()) - len(world.forgotten)
    return (
        f"{mode}: {good - left} of {good} rows delivered in {runs} runs, {killed} of them killed, "
        f"through {through}"
    )


def prepare_all(world: World, rows: int, batch: int) -> None:
    """Put in rows of all kinds, and let the project be as difficult as it can."""
    prepare(world, Condition(), rows)
    world.fill(rows, (*MALFORMED, FORGOTTEN, POISON), repeats=max(2, rows // 100))
    world.bad, world.forgotten = {*MALFORMED, POISON}, {FORGOTTEN}
    world.iterable.forget(FORGOTTEN)
    told = world.rng.choice(TOO_LARGE)
    world.iterable.change(most_rows_in_bulk=batch * 2 // 3, **LATE, **told)
    world.settings |= {
        "ITERABLE_WORKERS": "60",
        "BULK_BATCH_SIZE": str(batch),
    }


def some_of_each(
    rng: random.Random, kinds: tuple[dict[str, Any], ...], share: float, turns: int | None = None
) -> list[Fault]:
    """Return *kinds* in some order, all together for about *share* of the requests."""
    # The first one that wants a request gets it.
    chances = [share / (len(kinds) - share * n) for n in range(len(kinds))]
    return [
        Fault(
            **{"times": turns, **kind},
            probability=1.0 if turns else chance,
            seed=rng.randrange(2**32),
        )
        for kind, chance in zip(rng.sample(kinds, len(kinds)), chances, strict=True)
    ]


def check_bad_rows(report: dict[str, Any], world: World) -> None:
    """Raise Broken unless the bad rows, and no others, are told as what they are."""
    well = {"unchanged", "successful"}
    failed = {row["email"]: row for row in report["results"] if row["outcome"] not in well}
    bad = world.bad | world.forgotten
    demand(
        failed.keys() == bad, f"failed and not bad, or bad and not failed: {failed.keys() ^ bad}"
    )
    for email, row in failed.items():
        verdicts = {"refused"}
        if email in world.forgotten:
            verdicts = {"forgotten"}
        elif email == POISON:
            verdicts = {"unavailable", "unknown"}
        demand(row["users_update"]["status"] in verdicts, f"{email}: {row['users_update']}")
