"""Shows a run in the documents: python -m tools.pictures, or make pictures.

The output of the demo becomes a picture, its results file the sample in docs/. The other picture is
the report page on forty made-up nights: a private database has no past to report on.
"""

import html
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from configuration.settings import HERE
from monitoring.report import write_report
from tests.monitoring.browser import browser
from tests.monitoring.report_page import NOW
from tests.results import LAST, delivered, refused, save
from tools.documents import SAMPLE

IMAGES = HERE / "docs" / "images"
COLOURS = {"✓": "#7ee787", "$": "#79c0ff", "[": "#a5b4c3"}


def main() -> None:
    """Make the pictures and the sample."""
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "run.svg").write_text(terminal(f"$ make demo\n{demo()}"), encoding="utf-8")
    with TemporaryDirectory() as folder, browser() as page:
        past(Path(folder))
        page.open(write_report(Path(folder), NOW), width=960, height=1035)
        page.screenshot(IMAGES / "report.png", full=False)


def demo() -> str:
    """Return what the demo prints; move its results file to docs/."""
    before = {*HERE.glob("integration_results_*.json")}
    command = [sys.executable, str(HERE / "main.py"), "--demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    for path in {*HERE.glob("integration_results_*.json")} - before:
        SAMPLE.write_bytes(path.read_bytes())
        path.unlink()
    lines = done.stdout.replace(str(HERE), "/srv/iterable-sync").splitlines()
    return "\n".join(lines[:-1])  # without the hint at how to go on


def terminal(text: str) -> str:
    """Return *text* as a picture of a terminal."""
    lines = text.splitlines()
    width, height = 8 * max(map(len, lines)) + 36, 19 * len(lines) + 32
    shown = "\n".join(
        f'<text x="18" y="{19 * number + 32}" fill="{COLOURS.get(line[:1], "#e6edf3")}" '
        f'xml:space="preserve">{html.escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="13" '
        f'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#161b22"/>\n{shown}\n</svg>\n'
    )


def past(folder: Path) -> None:
    """Write the results files of forty nights: two had no run; at the end one row is refused."""
    chance = random.Random(7)  # noqa: S311 - the same picture each time
    for night in {*range(40)} - {14, 15}:
        bad = 1 if night > 33 else chance.choice([0, 0, 0, 2])
        rows = [*delivered(chance.randint(380, 450)), *refused(bad, "sam.lee@email")]
        seconds = chance.uniform(1.8, 2.4)
        more = {"duration_seconds": seconds, "sending_seconds": seconds - 0.4, "tolerated": bad}
        save(folder, LAST - timedelta(days=39 - night), rows, **more, max_refused_rows=5)


if __name__ == "__main__":
    main()
