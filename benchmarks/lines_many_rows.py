"""Many rows: in bulk, with nothing to send, and with large values, always in little memory."""

from dataclasses import replace

from benchmarks import harness
from benchmarks.harness import JobRun
from benchmarks.lines import MOST_429, UNLIMITED, Bench, Line, peak_line, rate_over
from benchmarks.lines_per_user import LIMIT_PER_S

BULK_PER_S = 5000  # five requests of a thousand rows
UNCHANGED_OVER_READ = 1.8
NAME_LENGTH = 30_000  # Iterable takes strings of some 32,000 characters


def bulk_rate(bench: Bench) -> Line:
    """Against Iterable's limit of users/bulkUpdate a second."""
    rows = bench.rows(60_000, quick=20_000)
    run = bench.run("--bulk", iterable={"keep_fields": False, "log_requests": 10})
    note = f"{run.too_many} answers 429; whole process {run.wall_s:.1f} s"
    name = f"bulk, 1000 a batch, {rows:,} rows"
    return _rate(name, run, BULK_PER_S, 0.92, note, right=run.share_of_too_many <= MOST_429)


def bulk_bad_rows(bench: Bench) -> Line:
    """One row of a hundred has a value of the wrong type, so that every batch is refused."""
    rows = bench.rows(20_000, quick=5000)
    bad = bench.spoiled(rows, every=100)
    with harness.site(bench.database, keep_fields=False, log_requests=10, latency_ms=300) as site:
        site.bad = bad
        run = site.run("--bulk")
    name = f"bulk with 1 % of bad rows, 300 ms, {rows:,} rows"
    note = f"{bad} refused; {run.too_many} answers 429; whole process {run.wall_s:.1f} s"
    return _rate(name, run, LIMIT_PER_S, 0.9, note, right=run.share_of_too_many <= MOST_429)


def unchanged(bench: Bench) -> Line:
    """Against the time in which the connector's plain cursor reads the rows and drops them."""
    _, run = _twice(bench, *_FAST, BULK_BATCH_SIZE="5000")
    ratio = run.wall_s / run.read_s
    return Line(
        f"{run.rows:,} unchanged rows, whole process over a plain read of Query 2",
        f"{run.wall_s:.2f} s over {run.read_s:.2f} s",
        ratio,
        UNCHANGED_OVER_READ,
        f"{run.sending_s:.2f} s of it after the read",
        less_is_better=True,
        peak_mb=run.peak_mb,
    )


def memory(bench: Bench) -> Line:
    """Against 150 MB, and the peak at 100,000 rows, which fill the caches of a fixed size."""
    few = bench.rows(100_000, quick=30_000)
    small = bench.run("--bulk", iterable=UNLIMITED)
    large, _ = _twice(bench, *_MANY)
    growth = large.peak_mb / small.peak_mb
    note = f"{small.peak_mb:.0f} MB at {few:,} rows: {growth:.2f} times (at most 1.20)"
    return peak_line(f"bulk, {large.rows:,} rows", large, note, right=growth <= 1.2)


def memory_unchanged(bench: Bench) -> Line:
    """Against 150 MB, with nothing to send."""
    _, run = _twice(bench, *_MANY)
    note = f"{run.users_per_s:,.0f} rows/s; whole process {run.wall_s:.1f} s"
    return peak_line(f"{run.rows:,} unchanged rows", run, note)


def memory_values(bench: Bench) -> Line:
    """Against 150 MB, with values as large as Iterable takes."""
    count = bench.rows(3000, quick=600)
    bench.exactly(count, NAME_LENGTH)
    run = bench.run("--bulk", iterable=UNLIMITED)
    note = (
        f"names of {NAME_LENGTH:,} characters, {3 * NAME_LENGTH // 1000} kB each in MySQL and "
        f"{6 * NAME_LENGTH // 1000} kB in JSON; whole process {run.wall_s:.1f} s"
    )
    return peak_line(f"bulk, {run.rows:,} rows with large values", run, note)


# Rows of a full run and of a quick one.
_FAST = (200_000, 50_000)
_MANY = (1_000_000, 60_000)


def _twice(bench: Bench, count: int, quick: int, **environ: str) -> tuple[JobRun, JobRun]:
    """Deliver rows in bulk with the limits off, then run again with nothing changed."""

    def run() -> tuple[JobRun, JobRun]:
        rows = bench.rows(count, quick)
        with harness.site(bench.database, **UNLIMITED) as site:
            first = site.run("--bulk", **environ)
            again = replace(site.run(), read_s=site.read())
        if again.summary["unchanged"] != rows or again.summary["requests"]:
            raise RuntimeError(f"not all was held already: {again.summary}")
        return first, again

    return bench.once(("twice", count), run)


def _rate(  # noqa: PLR0913 - the columns of the table
    name: str,
    run: JobRun,
    reference: float,
    must: float,
    note: str,
    *,
    right: bool = True,
) -> Line:
    measured = rate_over(run.users_per_s, reference, "users")
    ratio = run.users_per_s / reference
    return Line(name, measured, ratio, must, note, right, peak_mb=run.peak_mb)
