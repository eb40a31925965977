"""Measure how fast the job is: make bench, on a machine with nothing else to do. Linux.

    python3 -m benchmarks.run [--only NAME] [--scale X] [--server PATH]

Prints each line as it is done. A full run also writes RESULTS.md, results.csv and results.svg, and
exits with status 1 if a line misses what it must reach. With fewer rows (--scale) figures mean
little: only that all was delivered counts.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks import harness
from benchmarks.lines import LINES, Bench, Line
from benchmarks.query_index import SERVER_OPTIONS, index
from benchmarks.report import cells, write
from sandbox.database import PrivateDatabase

BUSY_LIMIT = 0.1  # of the processors, by other programs


def measured(name: str, measure: Callable[[Bench], Line], bench: Bench) -> Line:
    """Return the line, taken on a quiet machine; one that fails says so."""
    for _ in range(10 if bench.scale == 1 else 1):
        if (busy := harness.busy()) < BUSY_LIMIT:
            break
    try:
        line = measure(bench)
    except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
        line = Line(name, "failed", "", good=False, note=str(error))
    if busy >= BUSY_LIMIT:
        line = replace(line, note=f"{line.note}; NOT QUIET: {busy:.0%} busy")
    sys.stdout.write(" | ".join(cells(name, line)) + "\n")
    sys.stdout.flush()
    return line


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.run")
    parser.add_argument("--only", metavar="NAME", default="", help="lines whose names begin so")
    parser.add_argument("--scale", type=float, default=1.0, help="times the rows")
    parser.add_argument("--server", metavar="PATH", help="the database; default: the first found")
    args = parser.parse_args()
    # Ends the database, the stand-in and the job too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    began = time.perf_counter()
    wanted = {n: part for n, part in (LINES | {"index": index}).items() if n.startswith(args.only)}
    with PrivateDatabase(args.server, SERVER_OPTIONS) as database:
        if database.kind == "seekdb":
            # It is busy by itself, and gives up on the load of ten million views.
            sys.exit("Figures need mariadbd or mysqld: install one, or name it with --server PATH")
        bench = Bench(database, args.scale)
        lines = {name: measured(name, part, bench) for name, part in wanted.items()}
        took_s = time.perf_counter() - began
        if not args.only and args.scale == 1:
            write(lines, database, took_s)
    sys.stdout.write(f"{len(lines)} lines in {took_s:.0f} s\n")
    few = args.scale != 1
    good = [line.reached or (few and line.measured != "failed") for line in lines.values()]
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
