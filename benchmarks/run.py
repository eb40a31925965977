"""The figures of the README, each a ratio to a limit or a rival of the same run: ``make bench``.

    python3 -m benchmarks.run [--quick] [--only NAME] [--scale X] [--views N] [--mysql PATH]

Prints a table and, when every line was run at full scale, writes RESULTS.md, results.csv and
results.svg beside this file. With --quick it takes less than three minutes, has fewer lines with
fewer rows, and writes nothing. Exit status 1 when a line misses what it must reach. Linux.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import harness, query_index
from benchmarks import lines_many_rows as many_rows
from benchmarks import lines_per_user as per_user
from benchmarks import lines_rivals as rivals
from benchmarks.lines import Bench, Line
from benchmarks.report import HEAD, plot, report, table_row, write_csv
from sandbox.database import PrivateDatabase

FOLDER = Path(__file__).resolve().parent
LATENCIES_MS = (20, 100, 300, 600, 1200)
QUICK_LATENCIES_MS = (20, 300, 1200)
SHORT_RUNS = (3, 50, 1000)

Part = Callable[[], Line]


def parts_of(bench: Bench, args: argparse.Namespace) -> dict[str, Part]:
    """Return the lines by name, in the order in which they are run."""
    latencies = QUICK_LATENCIES_MS if bench.quick else LATENCIES_MS
    parts: dict[str, Part] = {f"sweep_{ms}": partial(per_user.sweep, bench, ms) for ms in latencies}
    parts |= {
        "whole": partial(per_user.whole, bench),
        "tls": partial(per_user.over_tls, bench),
        "burst": partial(per_user.burst, bench),
        "random_429": partial(per_user.random_429, bench),
        "shared": partial(per_user.shared, bench),
        "sequential": partial(rivals.sequential, bench),
    }
    if not bench.quick:
        for pool in rivals.NODE_POOLS:
            parts[f"node_{pool}"] = partial(rivals.node, pool, args.scale)
    parts |= {f"short_{rows}": partial(rivals.short, bench, rows) for rows in SHORT_RUNS}
    parts |= {
        "bulk_rate": partial(many_rows.bulk_rate, bench),
        "bulk_bad_rows": partial(many_rows.bulk_bad_rows, bench),
        "unchanged": partial(many_rows.unchanged, bench),
        "memory": partial(many_rows.memory, bench),
        "memory_unchanged": partial(many_rows.memory_unchanged, bench),
        "memory_values": partial(many_rows.memory_values, bench),
    }
    if not bench.quick:
        parts["index"] = lambda: index_line(bench.database, bench.views)
    if args.mysql:
        parts["index_mysql"] = partial(_index_on, args.mysql, bench.views)
    return parts


def index_line(database: PrivateDatabase, views: int) -> Line:
    """Query 2 with and without its index."""
    found = query_index.compare(database, views)
    without, covered = found.without.seconds, found.covered.seconds
    measured = f"{covered:.2f} s, without the index {without:.2f} s"
    name = f"Query 2 on {found.server.split('-')[0]}"
    return Line(name, measured, without / covered, None, found.how)


def _index_on(server: str, views: int) -> Line:
    with PrivateDatabase(server) as database:
        return index_line(database, views)


def run_lines(parts: dict[str, Part], *, quick: bool) -> list[Line]:
    """Run the lines one after another, each on a quiet machine; print each as it is done."""
    lines = []
    for name, part in parts.items():
        busy = harness.wait_for_quiet(3, 0.5) if quick else harness.wait_for_quiet()
        try:
            line = part()
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            line = Line(name, "failed", None, None, str(error), right=False)
        if busy >= harness.BUSY_LIMIT:
            line = replace(line, note=f"{line.note}; NOT QUIET: {busy:.0%} busy")
        lines.append(line)
        sys.stdout.write(table_row(line) + "\n")
        sys.stdout.flush()
    return lines


def parse_args() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.run")
    parser.add_argument("--quick", action="store_true", help="less than three minutes")
    parser.add_argument(
        "--only", metavar="NAME", default="", help="lines whose names begin so, such as sweep"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="times the rows")
    parser.add_argument("--views", type=int, default=query_index.VIEWS, help="for Query 2")
    parser.add_argument("--mysql", metavar="PATH", help="a mysqld, to time Query 2 on it too")
    parser.add_argument("--server", metavar="PATH", help="the database; default: the first found")
    return parser.parse_args()


def main() -> int:
    """Run what the command line asks for."""
    args = parse_args()
    # So that the database, the stand-in and the job are ended too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    began = time.perf_counter()
    sys.stdout.write(HEAD + "\n")
    sys.stdout.flush()
    with PrivateDatabase(args.server) as database:
        if database.kind == "seekdb":
            # It is busy by itself, and gives up on the load of ten million views.
            sys.exit("Figures need mariadbd or mysqld: install one, or name it with --server PATH")
        bench = Bench(database, args.scale, quick=args.quick, views=args.views)
        parts = {n: p for n, p in parts_of(bench, args).items() if n.startswith(args.only)}
        if not parts:
            sys.exit(f"No line's name begins with {args.only}")
        lines = run_lines(parts, quick=args.quick)
        took_s = time.perf_counter() - began
        text = report(lines, database, took_s)
    sys.stdout.write(f"\n{len(lines)} lines in {took_s:.0f} s\n")
    if not args.only and not args.quick and args.scale == 1:
        (FOLDER / "RESULTS.md").write_text(text, encoding="utf-8")
        write_csv(lines, FOLDER / "results.csv")
        plot(lines, FOLDER / "results.svg")
    return 0 if all(line.reached for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
