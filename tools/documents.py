"""What README.md takes from the code and from the benchmark: make docs writes it, with cog."""

import csv
import os
import subprocess
import sys

from configuration.settings import HERE

SAMPLE = HERE / "docs" / "SAMPLE_RESULTS.json"
# The lines of the benchmark that README.md shows.
FIGURES = ("whole_10000", "steady_300", "bulk", "unchanged")


def usage() -> str:
    """Return what --help says, as a block of Markdown."""
    done = subprocess.run(
        [sys.executable, HERE / "main.py", "--help"],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return f"```text\n{done.stdout.strip()}\n```"


def figures() -> str:
    """Return some lines of the benchmark as a table."""
    with (HERE / "benchmarks" / "results.csv").open(encoding="utf-8") as file:
        lines = {line["name"]: line for line in csv.DictReader(file)}
    shown = [lines[name] for name in FIGURES if name in lines]
    rows = [f"| {each['line']} | {each['measured']} | {each['covers']} |" for each in shown]
    return "\n".join(["| what | measured | covers |", "| --- | --- | --- |", *rows])
