"""What makes everything go out again, told before it happens: journeys may start again."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfoNotFoundError

from configuration.settings import Settings, zone_of
from iterable_api.endpoints import TRACK_EVENT, UPDATE_USER
from iterable_api.field_types import FieldType
from iterable_api.mapping import RowMapping
from records.columns import Kind
from records.delivery_ledger import EVENT, PROFILE, DeliveryLedger
from records.results_files import tells_of_deliveries

# What the ledger notes of the last run: what makes an entry count no longer, and which kind.
_SOURCE, _ZONE, _PROFILE, _EVENT = "SOURCE_NAME", "DB_TIME_ZONE", "profile fields", "event fields"
_KIND = {_SOURCE: EVENT, _ZONE: EVENT, _PROFILE: PROFILE, _EVENT: EVENT}
_AGAIN = "What they stood for is sent again, and journeys in Iterable may start again"


def run_notes(settings: Settings, mapping: RowMapping) -> dict[str, str]:
    """Return what the ledger is to note of a run."""
    return {
        _SOURCE: settings.source,
        _ZONE: settings.db_time_zone,
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
    changed = _changed(ledger, run_notes(settings, mapping))
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


def _changed(ledger: DeliveryLedger, notes: Mapping[str, str]) -> list[str]:
    """Return which of *notes* differ from those of the last run, if there was one."""
    before = {name: ledger.noted(name) for name in notes}
    changed = [name for name in notes if before[name] and before[name] != notes[name]]
    if _ZONE in changed and _offsets(before[_ZONE]) == _offsets(notes[_ZONE]):
        changed.remove(_ZONE)
    return changed


def _has_times(mapping: RowMapping) -> bool:
    """Whether a profile has a field that depends on the time zone."""
    return any(
        field.type is FieldType.DATE and field.column.kind is not Kind.DATE
        for field in mapping.fields_of(UPDATE_USER)
    )


def _offsets(zone: str) -> list[object]:
    """Return what *zone* is ahead of UTC in winter and in summer, none if it is not known here."""
    try:
        tz: tzinfo = zone_of(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return [zone]
    year = datetime.now(UTC).year
    return [datetime(year, month, 15, tzinfo=tz).utcoffset() for month in (1, 7)]
