"""Rows of Query 2 for the tests."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from delivery.planner import Plan
from iterable_api.payloads import Payloads, RowError
from records.delivery_ledger import DeliveryLedger
from records.outcomes import Row, Task, refused_row


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


def make_task(number: int = 1, **changes: Any) -> Task:
    """Return what is to be sent for ``make_row()``."""
    return Payloads("db").task(make_row(number, **changes))


def plan_all(rows: Sequence[Row]) -> Plan:
    """Plan to send whatever can be sent, as a run without a ledger would."""
    settled, tasks = [], []
    for row in rows:
        try:
            tasks.append(Payloads("db").task(row))
        except RowError as error:
            settled.append(refused_row(row, str(error)))
    return Plan(settled, tasks)


def open_ledger(
    path: Path, url: str = "https://api.iterable.com", key: str = "k"
) -> DeliveryLedger:
    """Open a ledger for a destination."""
    return DeliveryLedger(path, url, key)
