"""Rows of Query 2 for the tests, and what delivers them."""

import copy
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from delivery.planner import Planner, Repeats, find_suspects
from delivery.project_fields import ProjectFields
from iterable_api.mapping import CALLS, OWN_FIELDS
from iterable_api.payloads import JOB_MAPPING, Payloads
from records.columns import Row
from records.delivery_ledger import DeliveryLedger
from records.outcomes import CallOutcome, Delivery
from records.run import RunOptions, RunRecord

# The names of the fields of a profile and of an event, in the order in which they are sent.
PROFILE_FIELDS, EVENT_FIELDS = (
    tuple(own.name for own in OWN_FIELDS if own.call == call) for call in CALLS.values()
)
# As of a spool: not a multiple of the rows that are planned together.
CHUNK_ROWS = 100


def make_row(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a row as the connector gives it; *changes* replace columns."""
    return {
        "customer_id": number,
        "email": f"user{number}@example.com",
        "first_name": "Sarah",
        "plan_type": "pro",
        "page_view_id": 100 + number,
        "page": "pricing",
        "event_time": datetime(2026, 1, 13, 14, 30, 45),  # noqa: DTZ001 - as MySQL gives it
        "browser": "Chrome",
        "location": "Madrid, ES",
        **changes,
    }


def raw_row(number: int = 1, **changes: Any) -> Row:
    """Return ``make_row()`` as MySQL writes it."""
    return JOB_MAPPING.row_of(make_row(number, **changes))


def make_prepared(number: int = 1, **changes: Any) -> Delivery:
    """Return what is to be sent for ``make_row()``."""
    return completed(Payloads("db"), raw_row(number, **changes))


def completed(payloads: Payloads, values: Row) -> Delivery:
    """Return a row with the bodies that *payloads* makes of it; raises RowError."""
    row = payloads.prepare(values)
    payloads.complete(row)
    return row


def with_bodies(row: Delivery, user: bytes | None = None, event: bytes | None = None) -> Delivery:
    """Give *row* other bodies, and return it."""
    row.profile.body = row.profile.body if user is None else user
    row.event.body = row.event.body if event is None else event
    return row


def settled(
    row: Delivery, update: CallOutcome | None = None, track: CallOutcome | None = None
) -> Delivery:
    """Return a copy of *row* in which the calls with an outcome are settled."""
    row = copy.deepcopy(row)
    for call, outcome in ((row.profile, update), (row.event, track)):
        if outcome is not None:
            call.settle(outcome)
    return row


def bodies_of(payloads: Payloads, row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two bodies that *payloads* makes of a row; raises RowError."""
    sent = completed(payloads, payloads.mapping.row_of(row))
    return json.loads(sent.profile.body), json.loads(sent.event.body)


def open_ledger(
    path: Path, url: str = "https://api.iterable.com", key: str = "k", project: str = ""
) -> DeliveryLedger:
    """Open a ledger for a destination."""
    return DeliveryLedger(path, url, key, project=project)


def project_fields(
    ledger: DeliveryLedger,
    run: RunRecord | None = None,
    known: Collection[str] | None = PROFILE_FIELDS,
) -> ProjectFields:
    """Return what is *known* of a project; by default that it has every field of ``make_row()``."""
    run = run or RunRecord(RunOptions(), "1.0.0")
    fields = ProjectFields(run, ledger, lambda: known, lambda _seconds: False)
    fields.know(known)
    return fields


def make_planner(
    ledger: DeliveryLedger,
    repeats: Repeats | None = None,
    *,
    fields: ProjectFields | None = None,
    payloads: Payloads | None = None,
    **options: bool,
) -> Planner:
    """Return a planner of the rows of ``make_row()``; by default none repeats another."""
    payloads = payloads or Payloads("db")
    fields = fields or project_fields(ledger)
    return Planner(payloads, ledger, RunOptions(**options), fields, repeats or Repeats(payloads))


def chunks_of(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield *rows* as a spool does."""
    for start in range(0, len(rows), CHUNK_ROWS):
        yield list(rows[start : start + CHUNK_ROWS])


def repeats_in(rows: Sequence[Row]) -> Repeats:
    """Return which of *rows* have the address or the event of a row before them."""
    payloads = Payloads("db")
    return Repeats(payloads, suspects_in(rows, payloads))


def suspects_in(rows: Sequence[Row], payloads: Payloads) -> set[int]:
    """Return the numbers of what may be in some of *rows* and in a row before them."""
    suspects: set[int] = set()
    assert list(find_suspects(rows, payloads, suspects)) == list(rows)
    return suspects


def answered(row: Delivery, update: CallOutcome, track: CallOutcome) -> Delivery:
    """Settle those calls of *row* that are to be made, and return it."""
    for call, outcome in ((row.profile, update), (row.event, track)):
        if call.send:
            call.settle(outcome)
    return row


def in_order(rows: Iterable[Delivery]) -> list[Delivery]:
    """Return *rows* by their numbers."""
    return sorted(rows, key=lambda row: str(row.customer_id).zfill(9))


def no_waits() -> tuple[int, int]:
    """Say that no request waits for a limiter."""
    return 0, 0
