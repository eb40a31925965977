"""What makes everything go out again, told before it happens: journeys may start again."""

import json
from datetime import UTC, datetime

from configuration.settings import Settings
from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.field_types import FieldType
from iterable_api.mapping import RowMapping
from records.columns import Kind
from records.delivery_ledger import DeliveryLedger
from records.outcomes import EVENT, PROFILE
from records.results_files import tells_of_deliveries

# What the ledger notes of the last run: what makes an entry count no longer, and which kind.
_SOURCE, _ZONE, _PROFILE, _EVENT = "SOURCE_NAME", "DB_TIME_ZONE", "profile fields", "event fields"
_KIND = {_SOURCE: EVENT, _ZONE: EVENT, _PROFILE: PROFILE, _EVENT: EVENT}
_AGAIN = "What they stood for is sent again, and journeys in Iterable may start again"


def run_notes(settings: Settings, mapping: RowMapping) -> dict[str, str]:
    """Return what the ledger is to note of a run."""
    year, zone = datetime.now(UTC).year, settings.time_zone
    # Zones that are ahead of UTC by the same in winter and in summer are the same.
    offsets = [datetime(year, month, 15, tzinfo=zone).utcoffset() for month in (1, 7)]
    return {
        _SOURCE: settings.source,
        _ZONE: " ".join(map(str, offsets)),
        _PROFILE: json.dumps(mapping.shape_of(UPDATE_USER)),
        _EVENT: json.dumps(mapping.shape_of(TRACK_EVENT)),
    }


def lost_entries(ledger: DeliveryLedger | None, settings: Settings, mapping: RowMapping) -> str:
    """Return why, and how many, entries of *ledger* no longer count; empty if they all do.

    None stands for a ledger that is not there yet.
    """
    total = ledger.count_all() if ledger and ledger.is_empty else 0
    if ledger is None or (ledger.is_empty and total == 0):
        if not tells_of_deliveries(settings.results_dir, settings.job):
            return ""
        return (
            f"STATE_FILE: {settings.state_file} is empty, but results in {settings.results_dir} "
            "tell of deliveries. Every row is sent again, and journeys in Iterable may start again"
        )
    if ledger.is_empty:
        return (
            f"STATE_FILE: {_entries(total)}: the API key, ITERABLE_PROJECT or "
            f"ITERABLE_API_BASE_URL is new. {_AGAIN}"
        )
    notes = run_notes(settings, mapping).items()
    changed = [name for name, note in notes if ledger.noted(name) not in {"", note}]
    kinds = {_KIND[name] for name in changed}
    if _ZONE in changed and _has_times(mapping):
        kinds.add(PROFILE)
    count = sum(map(ledger.count, kinds))
    if not count:
        return ""
    what = ", ".join(name if name.isupper() else f"Query 2's {name}" for name in changed)
    return f"STATE_FILE: {_entries(count)}: changed since the last run: {what}. {_AGAIN}"


def _entries(count: int) -> str:
    return "1 entry no longer counts" if count == 1 else f"{count} entries no longer count"


def _has_times(mapping: RowMapping) -> bool:
    """Whether a profile has a field that depends on the time zone."""
    return any(
        field.type is FieldType.DATE and field.column.kind is not Kind.DATE
        for field in mapping.fields_of(UPDATE_USER)
    )
