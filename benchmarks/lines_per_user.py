"""One request after another within Iterable's limits: at any latency, and beside other clients."""

import threading
import time

from benchmarks import harness
from benchmarks.harness import JobRun
from benchmarks.lines import MOST_429, Bench, Line, rate_over

LIMIT_PER_S = 500  # users/update; events/track has four times as many
# What another client takes for good, and for how long another one takes nine tenths.
HALF = {"users/update": 250, "events/track": 1000}
NINE_TENTHS = {"users/update": 450, "events/track": 1800}
BURST_S = 2.0
BURST_AT = 0.3  # of the rows
BURST_MAY_COST_S = 6.0
RANDOM_429 = {"kind": "rate_limited", "probability": 0.02}
# The whole log is kept: steady state is read from it.
LOGGED = {"log_requests": 1_000_000}


def sweep(bench: Bench, latency_ms: int) -> Line:
    """Against Iterable's limit of users/update a second, whatever the latency."""
    run = undisturbed(bench, latency_ms)
    name = f"per-user, {latency_ms} ms an answer, {run.rows:,} rows"
    return _steady(name, run, LIMIT_PER_S, 0.95, right=run.share_of_too_many <= MOST_429)


def whole(bench: Bench) -> Line:
    """Against the limit from the first request to the last, start and end included."""
    run = undisturbed(bench, 300)
    rate = run.rows / run.requests_s
    return Line(
        f"per-user, 300 ms, {run.rows:,} rows from the first request to the last",
        rate_over(rate, LIMIT_PER_S),
        rate / LIMIT_PER_S,
        0.93,
        f"{run.users_per_s:,.0f} users/s to the last answer",
        peak_mb=run.peak_mb,
    )


def over_tls(bench: Bench) -> Line:
    """Against the same limit, over TLS as in real life."""
    run = undisturbed(bench, 300, tls=True)
    name = f"per-user, 300 ms an answer over TLS, {run.rows:,} rows"
    return _steady(name, run, LIMIT_PER_S, 0.95, right=run.share_of_too_many <= MOST_429)


def undisturbed(bench: Bench, latency_ms: int, *, tls: bool = False) -> JobRun:
    """Return the run at this latency with the limits to itself."""

    def run() -> JobRun:
        bench.rows(6000, quick=3000)
        return bench.run(iterable={**LOGGED, "latency_ms": latency_ms, "tls": tls})

    return bench.once(("undisturbed", latency_ms, tls), run)


def burst(bench: Bench) -> Line:
    """Another client takes nine tenths of the limits for two seconds in mid-run."""
    without = undisturbed(bench, 300)
    bench.rows(6000, quick=3000)
    with harness.site(bench.database, **LOGGED, latency_ms=300) as site:
        other = threading.Thread(target=_take_most, args=(site.url, without.rows), daemon=True)
        other.start()
        run = site.run()
        other.join(BURST_S)
    if not run.too_many:
        raise RuntimeError("the other client came too late: no request was answered 429")
    cost_s = run.sending_s - without.sending_s
    note = (
        f"{run.sending_s:.1f} s instead of {without.sending_s:.1f} s for {run.rows:,} rows "
        "at 300 ms; "
        f"{BURST_S * NINE_TENTHS['users/update'] / LIMIT_PER_S:.1f} s of the limit were taken; "
        f"{run.too_many} answers 429"
    )
    return Line(
        f"per-user, 300 ms, a burst of another client: its cost over {BURST_MAY_COST_S:.0f} s",
        f"{cost_s:.1f} s",
        cost_s / BURST_MAY_COST_S,
        1.0,
        note,
        less_is_better=True,
        peak_mb=run.peak_mb,
    )


def _take_most(url: str, rows: int) -> None:
    """Take nine tenths of the limits for a while, once some of the *rows* have arrived."""
    while harness.ask(url, "stats")["users"] < BURST_AT * rows:
        time.sleep(0.05)
    harness.ask(url, "settings", {"other_clients": NINE_TENTHS})
    time.sleep(BURST_S)
    harness.ask(url, "settings", {"other_clients": {}})


def random_429(bench: Bench) -> Line:
    """Answers 429 that come now and then, without a limit behind them."""
    bench.rows(6000, quick=3000)
    with harness.site(bench.database, **LOGGED, latency_ms=300) as site:
        harness.ask(site.url, "faults", [RANDOM_429])
        run = site.run()
    name = f"per-user, 300 ms, 2 % of answers 429 at random, {run.rows:,} rows"
    return _steady(name, run, LIMIT_PER_S, 0.9)


def shared(bench: Bench) -> Line:
    """Against what another client leaves of the limit for good."""
    bench.rows(10_000, quick=3000)
    run = bench.run(iterable={**LOGGED, "latency_ms": 300, "other_clients": HALF})
    name = f"per-user, 300 ms, half of the limit taken, {run.rows:,} rows"
    return _steady(name, run, LIMIT_PER_S / 2, 0.9)


def _steady(name: str, run: JobRun, limit: float, must: float, *, right: bool = True) -> Line:
    note = (
        f"{run.users_per_s:,.0f} users/s from start to end; {run.too_many} answers 429 "
        f"({run.share_of_too_many:.1%} of requests); whole process {run.wall_s:.1f} s"
    )
    rate = run.steady_per_s
    measured = rate_over(rate, limit)
    return Line(name, measured, rate / limit, must, note, right, peak_mb=run.peak_mb)
