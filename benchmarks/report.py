"""What is written of the lines: RESULTS.md, results.csv, and a picture of the rates."""

import csv
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jinja2

from benchmarks import harness
from benchmarks.lines import LIMIT_PER_S, VARIATIONS, Line
from sandbox.database import PrivateDatabase

FOLDER = Path(__file__).resolve().parent
COLUMNS = ("name", "line", "measured", "covers", "must be", "reached", "MB", "besides")


def cells(name: str, line: Line) -> tuple[str, ...]:
    """Return a row of results.csv."""
    memory = f"{line.peak_mb:.0f}" if line.peak_mb else ""
    reached = "yes" if line.reached else "no"
    return (name, line.name, line.measured, line.covers, line.must, reached, memory, line.note)


def write(lines: Mapping[str, Line], database: PrivateDatabase, took_s: float) -> None:
    """Write RESULTS.md, results.csv and results.svg beside this file."""
    with (FOLDER / "results.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [cells(name, line) for name, line in lines.items()]
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=jinja2.select_autoescape(["svg.jinja"])
    )
    known = {
        **machine(),
        "took_s": f"{took_s:.0f}",
        "database": f"{database.kind} {database.version.split('-')[0]}",
        "limit": LIMIT_PER_S,
        "steady": f"{harness.STEADY_FROM:.0%} and {harness.STEADY_TO:.0%}",
        "lines": [line for name, line in lines.items() if name not in VARIATIONS],
        "bars": [line for line in lines.values() if line.per_s is not None],
        "missed": "; ".join(line.name for line in lines.values() if not line.reached),
    }
    for name in ("RESULTS.md", "results.svg"):
        text = environment.get_template(f"{name}.jinja").render(known)
        (FOLDER / name).write_text(f"{text.strip()}\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """Return what the figures were taken on."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [text.partition(":")[2].strip() for text in cpus if text.startswith("model name")]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": len(harness.CORES),
        "processor": models[0] if models else platform.machine(),
        "gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "linux": platform.release(),
        "python": platform.python_version(),
        "requests": version("requests"),
        "connector": version("mysql-connector-python"),
    }
