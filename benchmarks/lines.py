"""The lines of the table: each measures one thing, and says what it covers and must reach."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import HERE, JobRun
from sandbox.database import PrivateDatabase

LIMIT_PER_S = 500  # users/update; events/track has four times as many
BULK_PER_S = 5000  # five requests of a thousand rows
MOST_MB = 150
MOST_429 = 0.01  # share of the requests, when nobody else uses the project
# The whole log is kept: the steady state is read from it.
LOGGED = {"log_requests": 1_000_000}
FORGETFUL = {"log_requests": 10, "keep_fields": False}
UNLIMITED = FORGETFUL | {"limits": False}
# A name that is a date for all users but one of a hundred: Iterable refuses every batch.
ONE_BAD = "IF(id MOD 100 = 50, 'Ann', '2026-01-01')"
LONG_NAME = 30_000  # characters; Iterable takes some 32,000
NODE_CLIENT = "@iterable/api@0.13.0"
NODE_FOLDER = HERE / ".cache" / "node"

# What a figure covers; RESULTS.md says what each leaves out.
WHOLE_RUN, SENDING, REQUESTS, STEADY = "whole run", "sending", "requests", "steady state"
RATES: dict[str, Callable[[JobRun], float]] = {
    WHOLE_RUN: lambda run: run.rows / run.wall_s,
    SENDING: lambda run: run.rows / run.sending_s,
    REQUESTS: lambda run: run.rows / run.requests_s,
    STEADY: lambda run: run.steady_per_s,
}


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    name: str
    measured: str
    covers: str
    must: str = "shown"  # in words; *good* says whether it is so
    good: bool = True
    per_s: float | None = None  # users a second, one by one, where the limit is LIMIT_PER_S
    peak_mb: float = 0.0  # the job's memory at its largest
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether the line is good, and the job small enough."""
        return self.good and self.peak_mb <= MOST_MB


class Bench:
    """The database of all lines, how large they are, and the runs that several of them share."""

    def __init__(self, database: PrivateDatabase, scale: float) -> None:
        self.database = database
        self.scale = scale
        self.runs: dict[str, JobRun] = {}
        self._filled: object = None

    def fill(self, users: int, first_name: str = harness.USUAL_NAME) -> int:
        """Fill the database, unless it is so already; return the number of rows, scaled."""
        rows = max(3, int(users * self.scale))
        if self._filled != (rows, first_name):
            harness.fill(self.database, rows, first_name)
            self._filled = rows, first_name
        return rows

    def bulk(self) -> JobRun:
        """Deliver all rows as fast as they go, without Iterable's limits."""
        with harness.site(self.database, UNLIMITED) as site:
            return site.run("--bulk")

    def twice(self, users: int, rounds: int = 1) -> tuple[JobRun, JobRun, float]:
        """Deliver rows in bulk; then run with nothing changed, and only read: the fastest count."""
        rows = self.fill(users)
        with harness.site(self.database, UNLIMITED) as site:
            first, taken = site.run("--bulk"), [(site.run(), site.read()) for _ in range(rounds)]
        again = min((run for run, _ in taken), key=lambda run: run.wall_s)
        if again.summary["unchanged"] != rows or again.summary["requests"]:
            raise RuntimeError(f"not all was held already: {again.summary}")
        return first, again, min(read_s for _, read_s in taken)


@dataclass(frozen=True)
class Rate:
    """A line that holds users a second against Iterable's limit, or what others leave of it."""

    users: int
    what: str
    covers: str
    must: float | None = None
    flags: tuple[str, ...] = ()
    share: str = "1.0"
    first_name: str = harness.USUAL_NAME
    limit: int = LIMIT_PER_S
    iterable: Mapping[str, object] = field(default_factory=dict)
    others: Callable[[str], object] | None = None  # what disturbs the stand-in at this URL

    def __call__(self, bench: Bench) -> Line:
        """Measure it."""
        run = self.run(bench)
        rate = RATES[self.covers](run)
        most_429 = 1 if self.others else MOST_429
        fast = rate >= (self.must or 0) * self.limit
        return Line(
            f"{run.rows:,} users, {self.what}",
            f"{rate:,.0f} users/s of {self.limit:,}",
            self.covers,
            f"at least {self.must:.0%}" if self.must else "shown",
            fast and run.share_of_too_many <= most_429,
            None if self.flags or self.limit != LIMIT_PER_S else rate,
            run.peak_mb,
            f"{run.too_many} answers 429 ({run.share_of_too_many:.1%} of requests); "
            f"{run.sending_s:.1f} s of sending; whole process {run.wall_s:.1f} s",
        )

    def run(self, bench: Bench) -> JobRun:
        """Return the run; it is the same for lines that differ only in what they cover."""
        name = repr(replace(self, what="", covers="", must=None))
        if name not in bench.runs:
            bench.runs[name] = self._run(bench)
        return bench.runs[name]

    def _run(self, bench: Bench) -> JobRun:
        rows = bench.fill(self.users, self.first_name)
        bad = (rows + 50) // 100 if self.first_name == ONE_BAD else 0
        log = LOGGED if self.covers in (STEADY, REQUESTS) else FORGETFUL
        with harness.site(bench.database, {**log, **self.iterable}) as site:
            if self.others:
                self.others(site.url)
            return site.run(*self.flags, bad=bad, ITERABLE_RATE_SHARE=self.share)


DEFAULT = "default settings, 300 ms an answer"
AT_300: dict[str, object] = {"latency_ms": 300}
UNDISTURBED = Rate(6000, "full share, 300 ms an answer", STEADY, 0.95, iterable=AT_300)


def take(url: str, share: float) -> None:
    """Have another program take a share of the limits, unless the stand-in has ended."""
    taken = {"users/update": LIMIT_PER_S * share, "events/track": 4 * LIMIT_PER_S * share}
    with suppress(OSError):
        harness.ask(url, "settings", {"other_clients": taken})


half = partial(take, share=0.5)


def burst(url: str) -> None:
    """Have it take nine tenths for two seconds, some seconds after the start."""
    threading.Timer(4.0, take, (url, 0.9)).start()
    threading.Timer(6.0, take, (url, 0)).start()


def noise(url: str) -> None:
    """Have 2 % of the requests answered 429 at random."""
    harness.ask(url, "faults", [{"kind": "rate_limited", "probability": 0.02}])


def unchanged(bench: Bench) -> Line:
    """Hold the time against that in which the connector's plain cursor reads and drops the rows."""
    _, run, read_s = bench.twice(200_000, rounds=3)
    times = run.wall_s / read_s
    name = f"{run.rows:,} unchanged users, against a plain read of Query 2"
    measured = f"{times:.2f} times: {run.wall_s:.2f} s over {read_s:.2f} s"
    return Line(name, measured, WHOLE_RUN, "at most 1.8", times <= 1.8, peak_mb=run.peak_mb)


def memory(bench: Bench) -> Line:
    """Hold a million rows against the limit, and against 100,000, which fill all fixed caches."""
    few = bench.fill(100_000)
    few_mb = bench.bulk().peak_mb
    run, again, _ = bench.twice(1_000_000)
    times = run.peak_mb / few_mb
    name = f"memory for {run.rows:,} users, --bulk; for {few:,}; for {run.rows:,} unchanged ones"
    measured = f"{run.peak_mb:.0f} MB; {few_mb:.0f} MB; {again.peak_mb:.0f} MB"
    must = f"at most {MOST_MB} MB, and 1.20 times that for {few:,} users"
    note = f"{times:.2f} times; whole process {run.wall_s:.1f} s, then {again.wall_s:.1f} s"
    most_mb = max(run.peak_mb, again.peak_mb)
    return Line(name, measured, WHOLE_RUN, must, times <= 1.2, peak_mb=most_mb, note=note)


def memory_values(bench: Bench) -> Line:
    """Hold values as large as Iterable takes against the limit: 180 kB each in JSON."""
    rows = bench.fill(3000, f"REPEAT('€', {LONG_NAME})")
    run = bench.bulk()
    name = f"memory for {rows:,} users with names of {LONG_NAME:,} characters, --bulk"
    must, note = f"at most {MOST_MB} MB", f"whole process {run.wall_s:.1f} s"
    measured = f"{run.peak_mb:.0f} MB"
    return Line(name, measured, WHOLE_RUN, must, peak_mb=run.peak_mb, note=note)


def node(bench: Bench, pool: int) -> Line:
    """Show what Iterable's own client does with *pool* rows in flight; it repeats nothing."""
    name = f"the official Node client, {pool} rows in flight, 300 ms an answer"
    if shutil.which("npm") is None:
        return Line(name, "skipped", SENDING, note="npm is not on the PATH")
    _output(["npm", "install", "-s", "--ignore-scripts", "--prefix", NODE_FOLDER, NODE_CLIENT])
    # The narrow pool takes long, and its rate does not depend on the number of rows.
    rows = int((600 if pool < 100 else 6000) * bench.scale)
    with harness.stand_in(AT_300) as url:
        told = json.loads(
            _output(["node", "benchmarks/rival.mjs", NODE_FOLDER, url, str(rows), str(pool)])
        )
        stats = harness.ask(url, "stats")
    if told["delivered"] != stats["events"]:
        raise RuntimeError(f"the client and the stand-in disagree: {told}, {stats}")
    rate = told["delivered"] / told["seconds"]
    lost = f"{rows - told['delivered']:,} of {rows:,} users lost"
    measured = f"{rate:,.0f} users/s of {LIMIT_PER_S}; {lost}"
    return Line(name, measured, SENDING, per_s=rate, note=f"lost to 429; {NODE_CLIENT}")


def loop(bench: Bench) -> Line:
    """Hold the job against the loop that one would write first: two answers for each user."""
    rate = 1 / (2 * 0.3)
    times = RATES[SENDING](UNDISTURBED.run(bench)) / rate
    name = "a loop, one request after the other, at best, 300 ms an answer"
    measured = f"{rate:.2f} users/s of {LIMIT_PER_S}; the job: {times:.0f} times"
    return Line(name, measured, SENDING, "at least 250 times", times >= 250, rate)


def short(bench: Bench, users: int) -> Line:
    """Hold the job's time against that of such a loop, for so few users that starting counts."""
    rows = bench.fill(users)
    loop_s = rows * 2 * 0.1
    with harness.site(bench.database, {"latency_ms": 100}) as site:
        run = site.run()
    measured = f"{run.sending_s:.2f} s; a loop takes {loop_s:.2f} s at best"
    name, note = f"{rows:,} users, 100 ms an answer", f"whole process {run.wall_s:.1f} s"
    good = run.sending_s <= loop_s
    return Line(name, measured, SENDING, "at most the loop's", good, None, run.peak_mb, note)


def _output(command: Sequence[str | Path]) -> str:
    """Return what a rival prints; it runs beside the stand-in, as the job does."""
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        harness.keep_off_stand_in(process)
        text, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return text


def _at_full_share(what: str, **other: Any) -> Rate:  # noqa: ANN401 - fields of Rate
    return replace(UNDISTURBED, what=f"full share, {what}", **other)


# In results.csv, and most of them in the picture, but not in the table.
VARIATIONS: dict[str, Callable[[Bench], Line]] = {
    **{f"short_{users}": partial(short, users=users) for users in (3, 50, 1000)},
    "requests": _at_full_share("300 ms an answer", covers=REQUESTS, must=0.93),
    **{
        f"steady_{ms}": _at_full_share(f"{ms} ms an answer", iterable={"latency_ms": ms})
        for ms in (20, 100, 600, 1200)
    },
    "tls": _at_full_share("300 ms an answer over TLS", iterable={**AT_300, "tls": True}),
    # 6,000 users take 12.8 s; this may cost 6 s.
    "burst": _at_full_share("others take 90 % for 2 s", covers=SENDING, must=0.64, others=burst),
    "random_429": _at_full_share("2 % of answers are 429", must=0.9, others=noise),
    "shared": _at_full_share(
        "others take half", users=10_000, must=0.9, limit=LIMIT_PER_S // 2, others=half
    ),
}
# In the order in which they are run and shown.
LINES: dict[str, Callable[[Bench], Line]] = {
    **{
        f"whole_{users}": Rate(users, DEFAULT, WHOLE_RUN, share="", iterable=AT_300)
        for users in (1000, 10_000, 100_000)
    },
    "steady_300": UNDISTURBED,
    "bulk": Rate(60_000, "--bulk", SENDING, 0.92, ("--bulk",), limit=BULK_PER_S),
    "bulk_bad_rows": Rate(
        20_000,
        "1 % of them refused, --bulk, 300 ms an answer",
        SENDING,
        0.9,
        ("--bulk",),
        first_name=ONE_BAD,
        iterable=AT_300,
    ),
    "unchanged": unchanged,
    "memory": memory,
    "memory_values": memory_values,
    **{f"node_{pool}": partial(node, pool=pool) for pool in (30, 300, 600)},
    "loop": loop,
    **VARIATIONS,
}
