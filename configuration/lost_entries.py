"""What makes everything go out again, told before it happens: journeys may start again."""

import json

from configuration.settings import Settings
from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.mapping import RowMapping
from records.delivery_ledger import DeliveryLedger
from records.results_files import tells_of_deliveries

_AGAIN = "What they stand for is sent again, and journeys in Iterable may start again"


def run_notes(settings: Settings, mapping: RowMapping) -> dict[str, str]:
    """Return what the ledger is to note of a run: what its entries depend on."""
    return {
        "SOURCE_NAME": settings.source,
        "DB_TIME_ZONE": settings.db_time_zone,
        "Query 2's profile fields": json.dumps(mapping.shape_of(UPDATE_USER)),
        "Query 2's event fields": json.dumps(mapping.shape_of(TRACK_EVENT)),
    }


def lost_entries(ledger: DeliveryLedger | None, settings: Settings, mapping: RowMapping) -> str:
    """Return why, and how many, entries of *ledger* no longer count; empty if they all do.

    None stands for a ledger that is not there yet.
    """
    own, total = ledger.counts() if ledger else (0, 0)
    if ledger is None or not total:
        if not tells_of_deliveries(settings.results_dir, settings.job):
            return ""
        return (
            f"STATE_FILE: {settings.state_file} is empty, but results in {settings.results_dir} "
            "tell of deliveries. Every row is sent again, and journeys in Iterable may start again"
        )
    why = "the API key, ITERABLE_PROJECT or ITERABLE_API_BASE_URL is new"
    if own:
        notes = run_notes(settings, mapping).items()
        changed = [name for name, note in notes if ledger.noted(name) not in {"", note}]
        if not changed:
            return ""
        why = f"changed since the last run: {', '.join(changed)}"
    # What a change does to an entry is only known when its row is there.
    count = f"up to {own}" if own else total
    return f"STATE_FILE: entries that no longer count: {count}; {why}. {_AGAIN}"
