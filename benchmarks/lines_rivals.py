"""The same work done by others: a sequential loop, and Iterable's own client for Node."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness
from benchmarks.lines import Bench, Line, rate_over
from benchmarks.lines_per_user import LIMIT_PER_S, undisturbed

FOLDER = Path(__file__).resolve().parent
NODE_CLIENT = "@iterable/api@0.13.0"
NODE_FOLDER = FOLDER.parent / ".cache" / "node"
# Requests in flight -> rows: the narrow pool takes long, and its rate does not depend on them.
NODE_POOLS = {30: 1500, 300: 6000, 600: 6000}


def sequential(bench: Bench) -> Line:
    """Hold the job's rate against that of the loop that one would write first."""
    run = undisturbed(bench, 300)
    rows = 10 if bench.quick else 60
    loop = rows / _loop_s(300, rows)
    note = f"the loop: {loop:.2f} users/s on {rows} rows; the job from start to end"
    return Line(
        "per-user, 300 ms, against a sequential loop",
        rate_over(run.users_per_s, loop),
        run.users_per_s / loop,
        250,
        note,
        peak_mb=run.peak_mb,
    )


def short(bench: Bench, rows: int) -> Line:
    """Hold the loop's time against the job's, for so few rows that starting counts."""
    measured_rows = min(rows, 10 if bench.quick else 50)
    loop_s = bench.once(("loop", measured_rows), lambda: _loop_s(100, measured_rows))
    loop_s *= rows / measured_rows
    bench.exactly(rows)
    run = bench.run(iterable={"latency_ms": 100})
    how = "" if rows == measured_rows else f", reckoned from {measured_rows} rows"
    return Line(
        f"a short run: {rows:,} rows at 100 ms, the loop's time over the job's",
        f"{loop_s:.2f} s over {run.sending_s:.2f} s",
        loop_s / run.sending_s,
        1.0,
        f"from the first request to the last answer{how}; whole process {run.wall_s:.1f} s",
        peak_mb=run.peak_mb,
    )


def _loop_s(latency_ms: int, rows: int) -> float:
    with harness.stand_in(latency_ms=latency_ms) as url:
        command = [sys.executable, "-m", "benchmarks.sequential_loop", url, str(rows)]
        return rows / float(_output(command))


def node(pool: int, scale: float) -> Line:
    """Show what Iterable's own client does with a pool around it."""
    name = f"the official Node client, a pool of {pool} rows, 300 ms"
    if missing := _fetch_node_client():
        return Line(name, "skipped", None, None, missing)
    rows = max(10, int(NODE_POOLS[pool] * scale))
    with harness.stand_in(latency_ms=300) as url:
        command = ("node", FOLDER / "rival.mjs", NODE_FOLDER, url, str(rows), str(pool))
        told = json.loads(_output(command))
        stats = harness.ask(url, "stats")
    if told["delivered"] != stats["events"]:
        raise RuntimeError(f"the client and the stand-in disagree: {told}, {stats}")
    rate = told["delivered"] / told["seconds"]
    lost = rows - told["delivered"]
    measured = f"{rate_over(rate, LIMIT_PER_S)}; {lost:,} of {rows:,} rows lost"
    note = f"lost to answers 429: it repeats nothing; {NODE_CLIENT}"
    return Line(name, measured, rate / LIMIT_PER_S, None, note)


def _fetch_node_client() -> str:
    """Install the client below .cache/; return why there is none, empty if there is."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "node or npm is not on the PATH"
    NODE_FOLDER.mkdir(parents=True, exist_ok=True)
    quietly = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts")
    command = (npm, "install", *quietly, "--prefix", NODE_FOLDER, NODE_CLIENT)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"npm could not fetch {NODE_CLIENT}" if done.returncode else ""


def _output(command: Sequence[str | Path]) -> str:
    """Return what a rival prints; it runs beside the stand-in, as the job does."""
    with subprocess.Popen(command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True) as process:
        harness.keep_off_stand_in(process)
        text, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return text
