"""The table of lines, RESULTS.md and its plot."""

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
    ratio = "" if line.ratio is None else f"{line.ratio:.3g}"
    must = (
        "shown" if line.must is None else f"{'<=' if line.less_is_better else '>='} {line.must:g}"
    )
    peak = "" if line.peak_mb is None else f"{line.peak_mb:.0f} MB"
    verdict = "yes" if line.reached else "**no**"
    cells = (line.name, line.measured, ratio, must, peak, verdict, line.note)
    return f"| {' | '.join(cells)} |"


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
            "the stand-in for Iterable on one core, the job on the others, the database on all",
            f"- Versions: Python {platform.python_version()}, {database.kind} {database.version}, "
            f"requests {version('requests')}, urllib3 {version('urllib3')}, "
            f"mysql-connector-python {version('mysql-connector-python')}",
            "- Every line is the real program, as a process, against the local Iterable with its "
            "limits on unless said otherwise; all settings are the default ones but "
            "`ITERABLE_RATE_SHARE=1.0`. It counts only if the job and the stand-in agree that "
            "every user and every event is there. Before each line the machine was quiet for two "
            "seconds, or the line says so.",
            "- Per-user rates are of the steady state: the users that the stand-in accepted a "
            f"second, by its own clock, from {harness.STEADY_FROM:.0%} to "
            f"{harness.STEADY_TO:.0%} of the rows, so without the start and the last row's "
            "latency. All other rates, and those from start to end, are from the first request to "
            "the last answer.",
            f"- Peak memory is the job's own, and at most {MOST_MB} MB in every line.",
            "",
            HEAD,
            *map(table_row, lines),
            "",
            "![What was measured over what must be reached](results.svg)",
            "",
        ]
    )


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
        axes.text(score + 0.02, place, text, va="center", color=grey, fontsize=9)
    axes.set_xlim(0, FARTHEST * 1.45)
    axes.set_xlabel(
        "measured over what must be reached (dashed: 1); blue: shown, over the limit", color=grey
    )
    axes.tick_params(colors=grey)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, transparent=True)
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
