"""The table of lines, and what is written of them: RESULTS.md, results.csv and a plot."""

import csv
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import harness
from benchmarks.lines import MOST_MB, Line
from sandbox.database import PrivateDatabase

COLUMNS = ("line", "measured", "ratio", "must reach", "peak memory", "reached", "besides")
HEAD = f"| {' | '.join(COLUMNS)} |\n" + len(COLUMNS) * "| --- " + "|"
FARTHEST = 3.0  # to which the plot's bars go


def table_row(line: Line) -> str:
    """Return a line of the table."""
    return f"| {' | '.join(_cells(line))} |"


def write_csv(lines: Sequence[Line], path: Path) -> None:
    """Write the table to a file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *map(_cells, lines)])


def _cells(line: Line) -> tuple[str, ...]:
    ratio = "" if line.ratio is None else f"{line.ratio:.3g}"
    must = (
        "shown" if line.must is None else f"{'<=' if line.less_is_better else '>='} {line.must:g}"
    )
    peak = "" if line.peak_mb is None else f"{line.peak_mb:.0f} MB"
    verdict = "yes" if line.reached else "**no**"
    return line.name, line.measured, ratio, must, peak, verdict, line.note


def report(lines: Sequence[Line], database: PrivateDatabase, took_s: float) -> str:
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
            "the stand-in for Iterable has a core of its own",
            f"- Versions: Python {platform.python_version()}, {database.kind} {database.version}, "
            f"requests {version('requests')}, urllib3 {version('urllib3')}, "
            f"mysql-connector-python {version('mysql-connector-python')}",
            "- Each line is the real program against the local Iterable with its limits on, unless "
            "said otherwise, with default settings but `ITERABLE_RATE_SHARE=1.0`. It counts only "
            "if both agree that every user and every event is there.",
            f"- Per-user rates are of the steady state: of {harness.STEADY_FROM:.0%} to "
            f"{harness.STEADY_TO:.0%} of the rows, by the stand-in's clock. Other rates are from "
            "the first request to the last answer.",
            f"- Peak memory is the job's own: at most {MOST_MB} MB.",
            "- [results.csv](results.csv) has every line with its details.",
            "",
            "![What was measured over what must be reached](results.svg)",
            "",
            *_missed(lines),
        ]
    )


def _missed(lines: Sequence[Line]) -> list[str]:
    """Return what RESULTS.md says of the lines that are below what they must reach."""
    missed = [f"- {each.name}: {each.measured} ({each.note})" for each in lines if not each.reached]
    return ["Not reached on this machine:", "", *missed, ""] if missed else []


def plot(lines: Sequence[Line], path: Path) -> None:
    """Draw how far each line is beyond what it must reach; grey reads on light and dark."""
    import matplotlib as mpl  # noqa: PLC0415 - only here

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = lines[::-1]
    scores = [min(FARTHEST, _score(line)) for line in shown]
    grey = "#808890"
    figure, axes = plt.subplots(figsize=(11, 0.42 * len(shown) + 1.3))
    axes.barh(range(len(shown)), scores, color=[_colour(line) for line in shown], height=0.6)
    axes.set_yticks(range(len(shown)), [line.name for line in shown])
    axes.axvline(1, color=grey, linestyle="--")
    for place, (line, score) in enumerate(zip(shown, scores, strict=True)):
        text = f"{line.measured} …" if score == FARTHEST else line.measured
        # Not across the dashed line.
        axes.text(max(1, score) + 0.02, place, text, va="center", color=grey, fontsize=9)
    axes.set_xlim(0, FARTHEST * 1.45)
    axes.set_xlabel(
        "measured over what must be reached (dashed: 1); blue: shown, over the limit", color=grey
    )
    axes.tick_params(colors=grey)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, transparent=True, bbox_inches="tight")
    plt.close(figure)


def _score(line: Line) -> float:
    """Return how many times better a line is than it must be; 0 if it has no ratio."""
    if line.ratio is None:
        return 0.0
    must = 1.0 if line.must is None else line.must
    if line.less_is_better:
        return must / line.ratio if line.ratio > 0 else FARTHEST
    return line.ratio / must


def _colour(line: Line) -> str:
    if not line.reached:
        return "#c2503a"
    return "#5b7fa8" if line.must is None else "#2f8f5b"
