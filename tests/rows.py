"""Rows of Query 2 for the tests."""

from datetime import datetime
from typing import Any


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
