"""The figures of the README, each a ratio to a limit or a rival of the same run: ``make bench``.

    python3 -m benchmarks.run [--only NAME] [--scale X] [--views N] [--mysql PATH]

Prints a table and, when every line was run at full scale, writes RESULTS.md and results.svg beside
this file. Exit status 1 when a line misses what it must reach. Linux.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import harness, query_index
from benchmarks.harness import JobRun, fill, run_job
from sandbox.database import PrivateDatabase

FOLDER = Path(__file__).resolve().parent
SLOW = {"latency_ms": 300}
UNLIMITED = {"limits": False, "keep_fields": False, "log_requests": 10}
OTHERS = {"users/update": 250, "events/track": 1000}


@dataclass(frozen=True)
class Line:
    """One line of the table. ``ratio`` is what is held against ``must``; None is only shown."""

    name: str
    measured: str
    ratio: float | None
    must: float | None
    note: str
    right: bool = True
    less_is_better: bool = False

    @property
    def reached(self) -> bool:
        """Whether the line is right and its ratio good enough."""
        if self.ratio is None or self.must is None:
            return self.right
        enough = self.ratio <= self.must if self.less_is_better else self.ratio >= self.must
        return enough and self.right


class Bench:
    """Runs the lines on one database."""

    def __init__(self, database: PrivateDatabase, scale: float, views: int) -> None:
        self.database = database
        self.scale = scale
        self.views = views
        self._filled = 0
        self._per_user: JobRun | None = None

    def rows(self, count: int) -> int:
        """Fill the database with *count* users, scaled, unless it is so already."""
        count = max(10, int(count * self.scale))
        if count != self._filled:
            fill(self.database, count)
            self._filled = count
        return count

    def per_user(self) -> JobRun:
        """Return the run that the first two lines share."""
        if self._per_user is None:
            self.rows(10_000)
            self._per_user = run_job(self.database, iterable=SLOW)
        return self._per_user

    def per_user_rate(self) -> Line:
        """Against Iterable's limit of 500 users/update a second."""
        run = self.per_user()
        note = f"{run.too_many} answers 429; whole process {run.wall_s:.1f} s"
        return _rate(
            "per-user, 300 ms latency, 10,000 rows", run, 500, 0.95, note, run.too_many == 0
        )

    def per_user_rival(self) -> Line:
        """Against a sequential loop."""
        run = self.per_user()
        with harness.stand_in(**SLOW) as url:
            command = [sys.executable, "-m", "benchmarks.sequential_loop", url, "60"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        loop = float(done.stdout)
        note = f"the loop: {loop:.2f} users/s on 60 rows"
        return _rate("the same, against a sequential loop", run, loop, 250, note)

    def shared(self) -> Line:
        """Against what another client leaves of the limit."""
        self.rows(10_000)
        run = run_job(self.database, iterable={**SLOW, "other_clients": OTHERS})
        share = run.too_many / run.summary["requests"]
        note = f"{share:.1%} of requests answered 429 (at most 2 %)"
        return _rate("per-user, half of the limit taken", run, 250, 0.85, note, share <= 0.02)

    def bulk_rate(self) -> Line:
        """Against 5 users/bulkUpdate a second of 1000 rows."""
        self.rows(100_000)
        run = run_job(self.database, "--bulk", iterable={"keep_fields": False, "log_requests": 10})
        note = f"{run.too_many} answers 429; whole process {run.wall_s:.1f} s"
        return _rate("bulk, 1000 a batch, 100,000 rows", run, 5000, 0.95, note, run.too_many == 0)

    def bulk_speed(self) -> Line:
        """Against 20,000 users a second, in batches of 5000."""
        self.rows(200_000)
        run = run_job(self.database, "--bulk", iterable=UNLIMITED, BULK_BATCH_SIZE="5000")
        note = f"5000 a batch; whole process {run.wall_s:.1f} s, reading MySQL included"
        return _rate("bulk, limits off, 200,000 rows", run, 20_000, 1.0, note)

    def memory(self) -> Line:
        """Against 150 MB, and against the peak at 10,000 rows."""
        self.rows(10_000)
        small = run_job(self.database, "--bulk", iterable=UNLIMITED)
        self.rows(1_000_000)
        large = run_job(self.database, "--bulk", iterable=UNLIMITED)
        growth = large.peak_mb / small.peak_mb
        note = f"{small.peak_mb:.0f} MB at 10,000 rows: {growth:.2f} times (at most 1.20)"
        measured = f"{large.peak_mb:.0f} MB"
        ratio = large.peak_mb / 150
        return Line(
            "bulk, 1,000,000 rows: peak memory over 150 MB",
            measured,
            ratio,
            1.0,
            note,
            growth <= 1.2,
            less_is_better=True,
        )

    def index(self) -> Line:
        """Query 2 with and without its index."""
        views = int(self.views * self.scale)
        return _index_line(query_index.compare(self.database, views))


def _index_line(found: query_index.Comparison) -> Line:
    without, covered = found.without.seconds, found.covered.seconds
    measured = f"{covered:.2f} s, without the index {without:.2f} s"
    name = f"Query 2 on {found.server.split('-')[0]}"
    return Line(name, measured, without / covered, None, found.how)


def _rate(  # noqa: PLR0913, PLR0917 - the columns of the table
    name: str,
    run: JobRun,
    reference: float,
    must: float,
    note: str,
    right: bool = True,
) -> Line:
    measured = f"{run.users_per_s:,.0f} users/s over {reference:,.2f}".replace(".00", "")
    return Line(name, measured, run.users_per_s / reference, must, note, right)


def run_lines(bench: Bench, only: str | None, mysql: str | None) -> list[Line]:
    """Run the lines one after another, each on a quiet machine; print each as it is done."""
    parts: dict[str, Callable[[], Line]] = {
        "per_user_rate": bench.per_user_rate,
        "per_user_rival": bench.per_user_rival,
        "shared": bench.shared,
        "bulk_rate": bench.bulk_rate,
        "bulk_speed": bench.bulk_speed,
        "memory": bench.memory,
        "index": bench.index,
    }
    if mysql:
        parts["index_mysql"] = lambda: _index_on(mysql, int(bench.views * bench.scale))
    lines = []
    for name, part in parts.items():
        if only in {None, name}:
            busy = harness.wait_for_quiet()
            try:
                line = part()
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                line = Line(name, "failed", None, None, str(error), right=False)
            if busy >= harness.BUSY_LIMIT:
                line = Line(**{**vars(line), "note": f"{line.note}; NOT QUIET: {busy:.0%} busy"})
            lines.append(line)
            sys.stdout.write(_row(line) + "\n")
            sys.stdout.flush()
    return lines


def _index_on(server: str, views: int) -> Line:
    with PrivateDatabase(server) as database:
        return _index_line(query_index.compare(database, views))


def _row(line: Line) -> str:
    ratio = "" if line.ratio is None else f"{line.ratio:.3g}"
    must = (
        "shown" if line.must is None else f"{'<=' if line.less_is_better else '>='} {line.must:g}"
    )
    verdict = "yes" if line.reached else "**no**"
    return f"| {line.name} | {line.measured} | {ratio} | {must} | {verdict} | {line.note} |"


HEAD = "| line | measured | ratio | must reach | reached | besides |\n" + 6 * "| --- " + "|"


def report(lines: list[Line], database: PrivateDatabase, took_s: float) -> str:
    """Return RESULTS.md."""
    cpu = next(
        (
            text.partition(":")[2].strip()
            for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if text.startswith("model name")
        ),
        platform.machine(),
    )
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "\n".join(
        [
            "# Benchmark results",
            "",
            f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}, in {took_s:.0f} s.",
            "",
            f"- Machine: {len(harness.CORES)} x {cpu}, {gib:.0f} GiB, Linux {platform.release()}; "
            "the stand-in for Iterable on one core, the job on the others, the database on all",
            f"- Versions: Python {platform.python_version()}, {database.kind} {database.version}, "
            f"requests {version('requests')}, urllib3 {version('urllib3')}, "
            f"mysql-connector-python {version('mysql-connector-python')}",
            "- Every line is the real program, as a process, against the local Iterable with its "
            "limits on unless said otherwise, `ITERABLE_RATE_SHARE=1.0`. It counts only if the job "
            "and the stand-in agree that every user and every event is there. Users a second are "
            "from the first request to the last answer. Before each line the machine was quiet "
            "for two seconds, or the line says so.",
            "",
            HEAD,
            *map(_row, lines),
            "",
            "![What was measured over what must be reached](results.svg)",
            "",
        ]
    )


def plot(lines: list[Line], path: Path) -> None:
    """Draw how far each line is beyond what it must reach; grey reads on light and dark."""
    import matplotlib as mpl  # noqa: PLC0415 - only here

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = [line for line in lines if line.ratio and line.must][::-1]
    scores = [
        line.must / line.ratio if line.less_is_better else line.ratio / line.must
        for line in shown
        if line.ratio and line.must
    ]
    grey = "#808890"
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(shown) + 1.3))
    colours = ["#2f8f5b" if line.reached else "#c2503a" for line in shown]
    axes.barh([line.name for line in shown], scores, color=colours, height=0.6)
    axes.axvline(1, color=grey, linestyle="--")
    for place, (line, score) in enumerate(zip(shown, scores, strict=True)):
        axes.text(score + 0.02, place, line.measured, va="center", color=grey, fontsize=9)
    axes.set_xlim(0, max(scores) * 1.75)
    axes.set_xlabel("measured over what must be reached (dashed: 1)", color=grey)
    axes.tick_params(colors=grey)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, transparent=True)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.run")
    parser.add_argument("--only", metavar="NAME", help="one line, such as bulk_rate")
    parser.add_argument("--scale", type=float, default=1.0, help="times the rows")
    parser.add_argument("--views", type=int, default=query_index.VIEWS, help="for Query 2")
    parser.add_argument("--mysql", metavar="PATH", help="a mysqld, to time Query 2 on it too")
    parser.add_argument("--server", metavar="PATH", help="the database; default: the first found")
    args = parser.parse_args()
    # So that the database, the stand-in and the job are ended too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    began = time.perf_counter()
    sys.stdout.write(HEAD + "\n")
    with PrivateDatabase(args.server) as database:
        if database.kind == "seekdb":
            # It is busy by itself, and gives up on the load of ten million views.
            sys.exit("Figures need mariadbd or mysqld: install one, or name it with --server PATH")
        lines = run_lines(Bench(database, args.scale, args.views), args.only, args.mysql)
        text = report(lines, database, time.perf_counter() - began)
    if args.only is None and args.scale == 1:
        (FOLDER / "RESULTS.md").write_text(text, encoding="utf-8")
        plot(lines, FOLDER / "results.svg")
    return 0 if all(line.reached for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
