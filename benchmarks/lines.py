"""A line of the table, and what the measurements of one run of the benchmark share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from benchmarks import harness
from benchmarks.harness import JobRun
from sandbox.database import PrivateDatabase

T = TypeVar("T")

MOST_MB = 150
# Share of the requests that may be answered 429 when nobody else uses the project.
MOST_429 = 0.01
UNLIMITED = {"limits": False, "keep_fields": False, "log_requests": 10}


@dataclass(frozen=True)
class Line:
    """One line of the table. ``ratio`` is what is held against ``must``; None is only shown.

    ``peak_mb`` is the memory of the job at its largest, None where no job ran.
    """

    name: str
    measured: str
    ratio: float | None
    must: float | None
    note: str
    right: bool = True
    less_is_better: bool = False
    peak_mb: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the line is right, its ratio good enough, and the job small enough."""
        if not self.right or (self.peak_mb or 0) > MOST_MB:
            return False
        if self.ratio is None or self.must is None:
            return True
        return self.ratio <= self.must if self.less_is_better else self.ratio >= self.must


class Bench:
    """The database of all lines, how large they are, and the runs that several of them share."""

    def __init__(self, database: PrivateDatabase, scale: float, *, quick: bool, views: int) -> None:
        self.database = database
        self.quick = quick
        self.views = int(views * scale)
        self._scale = scale
        self._filled = 0
        self._runs: dict[object, object] = {}

    def rows(self, count: int, quick: int) -> int:
        """Fill the database with *count* users, or *quick* in a quick run, scaled."""
        return self.exactly(max(10, int((quick if self.quick else count) * self._scale)))

    def exactly(self, count: int, name_length: int | None = None) -> int:
        """Fill the database with *count* users, unless it is so already."""
        if name_length is not None or count != self._filled:
            harness.fill(self.database, count)
            self._filled = count
        if name_length is not None:
            harness.enlarge_names(self.database, name_length)
            self._filled = 0
        return count

    def spoiled(self, count: int, every: int) -> int:
        """Fill the database with *count* users, *every* one of so many bad; return how many."""
        self.exactly(count)
        self._filled = 0
        return harness.spoil(self.database, every)

    def once(self, name: object, run: Callable[[], T]) -> T:
        """Return what *run* returns, which is run for the first line that asks for *name*."""
        if name not in self._runs:
            self._runs[name] = run()
        found: T = self._runs[name]  # type: ignore[assignment]
        return found

    def run(self, *flags: str, iterable: Mapping[str, object], **environ: str) -> JobRun:
        """Run the job once, against a stand-in of its own."""
        with harness.site(self.database, **iterable) as site:
            return site.run(*flags, **environ)


def rate_over(rate: float, reference: float, of: str = "users") -> str:
    """Return a rate beside what it is held against."""
    return f"{rate:,.0f} {of}/s over {reference:,.2f}".replace(".00", "")


def peak_line(name: str, run: JobRun, note: str, *, right: bool = True) -> Line:
    """Return a line that holds the job's memory against what it may take."""
    return Line(
        f"{name}: peak memory over {MOST_MB} MB",
        f"{run.peak_mb:.0f} MB",
        run.peak_mb / MOST_MB,
        1.0,
        note,
        right,
        less_is_better=True,
        peak_mb=run.peak_mb,
    )
