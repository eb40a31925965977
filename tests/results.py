"""Outcomes of rows, runs and results files for the tests."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from records.outcomes import NOT_SENT, SUPERSEDED, CallOutcome, CallStatus, Delivery, Fault
from records.results_files import ResultsWriter
from records.run import RunOptions, RunRecord

LAST = datetime(2026, 3, 1, 2, 15, tzinfo=UTC)
OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1, "no such field", Fault.ROW)
DOWN = CallOutcome(CallStatus.UNAVAILABLE, 503, None, 5, fault=Fault.ITERABLE)
MISTYPED = CallOutcome(
    *(CallStatus.REFUSED, 400, "RequestFieldsTypesMismatched", 1, "not of that type"),
    fault=Fault.FIELD,
    fields=(("plan_type", "date"),),
)
FILTERED = CallOutcome(
    *(CallStatus.DELIVERED, 200, None, 1),
    fields=(("plan_type", "filtered out"), ("candidate", "filtered out")),
)
FORGOTTEN = CallOutcome(CallStatus.FORGOTTEN, 409, "ForgottenUserError", 1, "was forgotten")
ENDPOINTS = {
    "users/update": {
        "requests": 6,
        "answers": {"200": 5, "no answer": 1},
        "latency_seconds": {"p50": 0.1, "p90": 0.2, "p95": 0.25, "p99": 0.5, "max": 1.5},
    }
}

# Whatever may stand in a file.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


def ended(customer_id, email, update, track=NOT_SENT) -> Delivery:
    """Return a row whose calls ended so."""
    row = Delivery(customer_id, email)
    row.profile.outcome, row.event.outcome = update, track
    return row


def delivered(count):
    return [ended(i, f"user{i}@example.com", OK, OK) for i in range(count)]


def refused(count, email="user@example.com"):
    return [ended(i, email, BAD) for i in range(count)]


def forgotten(count):
    return [ended(f"f{i}", f"gone{i}@example.com", FORGOTTEN) for i in range(count)]


def half_delivered(count):
    return [ended(f"h{i}", "half@example.com", OK, DOWN) for i in range(count)]


def failing(*calls):
    return [ended(i, "a@example.com", call) for i, call in enumerate(calls)]


def filtered(count):
    return [ended(i, f"user{i}@example.com", FILTERED, OK) for i in range(count)]


def not_attempted(count):
    return [ended(i, "later@example.com", NOT_SENT) for i in range(count)]


def superseded(count):
    return [ended(f"s{i}", "user0@example.com", SUPERSEDED, OK) for i in range(count)]


def finished_run(rows=(), **fields) -> RunRecord:
    """Return the record of a run that came to *rows*; *fields* are the record's own."""
    run = RunRecord(RunOptions(), "1.0.0", rows_read=len(rows), **fields)
    run.count(rows)
    run.finish(None, "")
    return run


def save(folder, begun=LAST, rows=(), status=0, summary=None, **run):
    """Write a results file; *summary* and *run* replace fields that no run would set so."""
    with ResultsWriter(folder, begun) as results:
        results.add(rows)
        results.finish(finished_run(rows, started_at=begun))
    head, mark, tail = results.path.read_text().partition('\n],\n"summary": ')
    end: dict[str, Any] = json.loads('{"summary": ' + tail)
    changed = end["summary"] | (summary or {}), end["run"] | {"exit_status": status} | run
    texts = [json.dumps(part, indent=2) for part in changed]
    results.path.write_text(f'{head}{mark}{texts[0]},\n"run": {texts[1]}\n}}\n')
    return results.path


def unfinished(folder, begun):
    """Leave what a killed run leaves."""
    with ResultsWriter(folder, begun) as results:
        killed = results._partial
    killed.touch()


def damage_second_row(path):
    """Cut the line of the second row of a results file."""
    lines = path.read_text().splitlines(keepends=True)
    lines[4] = lines[4][:90] + "\n"
    path.write_text("".join(lines))


def save_daily(folder, statuses, count=100, **run):
    """Write a run for each exit status, one a day, the last of them at LAST."""
    for days, status in enumerate(reversed(statuses)):
        save(folder, LAST - timedelta(days=days), delivered(count), status, **run)
