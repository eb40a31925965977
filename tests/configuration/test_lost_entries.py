"""What makes everything go out again is told before it happens."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from configuration import steps
from configuration.lost_entries import lost_entries, run_notes
from configuration.wiring import open_ledger
from delivery.recorder import Recorder
from delivery.stopping import Stop
from iterable_api.mapping import Identity, RowMapping
from iterable_api.payloads import JOB_MAPPING
from records.columns import Column, Kind
from records.outcomes import CallOutcome, CallStatus, outcome_of
from records.results_writer import ResultsWriter
from records.row_spool import RowSpool
from records.run import RunOptions, RunRecord
from tests.configuration.conftest import settings_of
from tests.results import LAST, delivered, refused, save
from tests.rows import make_prepared, project_fields, raw_row

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
AGAIN = "What they stood for is sent again, and journeys in Iterable may start again"
EMPTY = (
    "STATE_FILE: {} is empty, but results in {} tell of deliveries. Every row is sent again, and "
    "journeys in Iterable may start again"
)
NEW_KEY = "the API key, ITERABLE_PROJECT or ITERABLE_API_BASE_URL is new"
CHANGED = "changed since the last run: "


def deliver(settings, mapping=JOB_MAPPING, rows=3):
    """Do what a run does in the ledger: of *rows* rows the profiles, and the events but one."""
    with open_ledger(settings) as ledger:
        ledger.begin_run(run_notes(settings, mapping))
        outcomes = [outcome_of(make_prepared(number), OK, OK) for number in range(rows)]
        outcomes[0] = outcomes[0]._replace(events_track=CallOutcome(CallStatus.UNAVAILABLE))
        ledger.record(outcomes, sure=True)


def told(settings, mapping=JOB_MAPPING):
    with open_ledger(settings) as ledger:
        return lost_entries(ledger, settings, mapping)


def with_field(name, kind=Kind.INTEGER, identity=Identity.EMAIL):
    return RowMapping([*JOB_MAPPING.columns, Column(name, kind)], identity)


def test_while_nothing_has_changed_nothing_is_told(environ):
    settings = settings_of(environ)
    deliver(settings)
    assert told(settings) == ""


# --- An empty ledger


def test_a_first_run_is_told_nothing(environ):
    settings = settings_of(environ)
    assert lost_entries(None, settings, JOB_MAPPING) == ""
    assert told(settings) == ""


@pytest.mark.parametrize("is_there", [False, True])
def test_an_empty_ledger_beside_results_of_deliveries_is_told(environ, is_there):
    settings = settings_of(environ)
    settings.results_dir.mkdir()
    save(settings.results_dir, rows=delivered(2), job=settings.job)
    expected = EMPTY.format(settings.state_file, settings.results_dir)
    text = told(settings) if is_there else lost_entries(None, settings, JOB_MAPPING)
    assert text == expected


def test_deliveries_of_another_job_or_of_none_are_not_ones_own(environ):
    settings = settings_of(environ)
    settings.results_dir.mkdir()
    save(settings.results_dir, rows=delivered(2), job="orders.sqlite3")
    save(settings.results_dir, rows=refused(2), job=settings.job)
    save(settings.results_dir, rows=[], job=settings.job)
    assert told(settings) == ""


def test_a_later_run_without_deliveries_hides_nothing(environ):
    settings = settings_of(environ)
    settings.results_dir.mkdir()
    save(settings.results_dir, LAST, rows=delivered(2), job=settings.job)
    for days in range(1, 5):
        save(settings.results_dir, LAST + timedelta(days=days), status=3, job=settings.job)
    assert "is empty, but results in" in told(settings)


# --- Another key, project or place


@pytest.mark.parametrize(
    "changes",
    [
        {"ITERABLE_API_KEY": "f" * 32},
        {"ITERABLE_API_KEY": "f" * 32, "ITERABLE_PROJECT": "shop"},
        {"ITERABLE_API_BASE_URL": "https://api.eu.iterable.com"},
    ],
)
def test_a_new_key_is_told_with_the_number_of_entries(environ, changes):
    deliver(settings_of(environ))
    text = told(settings_of(environ, **changes))
    assert text == f"STATE_FILE: 5 entries no longer count: {NEW_KEY}. {AGAIN}"


def test_one_entry_is_told_as_one(environ):
    deliver(settings_of(environ), rows=1)
    text = told(settings_of(environ, ITERABLE_API_KEY="f" * 32))
    assert text.startswith("STATE_FILE: 1 entry no longer counts: ")


def test_naming_the_project_before_the_key_is_rotated_loses_nothing(environ):
    deliver(settings_of(environ))
    named = settings_of(environ, ITERABLE_PROJECT="shop")
    assert told(named) == ""
    with open_ledger(named) as ledger:
        ledger.begin_run({})
    rotated = settings_of(environ, ITERABLE_PROJECT="shop", ITERABLE_API_KEY="f" * 32)
    assert told(rotated) == ""
    other = settings_of(environ, ITERABLE_PROJECT="other", ITERABLE_API_KEY="f" * 32)
    assert NEW_KEY in told(other)


# --- What is changed in the settings or in Query 2


def test_a_changed_source_gives_every_event_another_id(environ):
    deliver(settings_of(environ))
    text = told(settings_of(environ, SOURCE_NAME="another"))
    assert text == f"STATE_FILE: 2 entries no longer count: {CHANGED}SOURCE_NAME. {AGAIN}"


@pytest.mark.parametrize(
    ("before", "after", "is_told"),
    [
        ("+01:00", "Africa/Algiers", False),
        ("Europe/Madrid", "Europe/Berlin", False),
        ("+00:00", "+01:00", True),
        # The same in winter, and the same in summer.
        ("Europe/Berlin", "Africa/Lagos", True),
        ("Europe/Berlin", "Africa/Tripoli", True),
    ],
)
def test_a_changed_zone_is_told_unless_its_offsets_are_the_same(environ, before, after, is_told):
    deliver(settings_of(environ, DB_TIME_ZONE=before))
    text = told(settings_of(environ, DB_TIME_ZONE=after))
    count = f"STATE_FILE: 2 entries no longer count: {CHANGED}DB_TIME_ZONE. {AGAIN}"
    assert text == (count if is_told else "")


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("user.seen", Kind.MOMENT, 5),
        ("user.seen:date", Kind.TEXT, 5),
        # A day is one in every zone, and a text stays what it is.
        ("user.born", Kind.DATE, 2),
        ("user.seen:string", Kind.MOMENT, 2),
        ("event.seen", Kind.MOMENT, 2),
    ],
)
def test_a_changed_zone_changes_profiles_with_times(environ, name, kind, count):
    mapping = with_field(name, kind)
    deliver(settings_of(environ, DB_TIME_ZONE="+00:00"), mapping)
    text = told(settings_of(environ, DB_TIME_ZONE="+01:00"), mapping)
    expected = f"STATE_FILE: {count} entries no longer count: {CHANGED}DB_TIME_ZONE. {AGAIN}"
    assert text == expected


@pytest.mark.parametrize(
    ("mapping", "count", "what"),
    [
        (with_field("user.visits"), 3, "Query 2's profile fields"),
        (with_field("event.price"), 2, "Query 2's event fields"),
        (with_field("event_name", Kind.TEXT), 2, "Query 2's event fields"),
        (
            with_field("user_id", Kind.TEXT, Identity.USER_ID),
            5,
            "Query 2's profile fields, Query 2's event fields",
        ),
        # These go nowhere.
        (with_field("user_id"), 0, ""),
        (with_field("remark"), 0, ""),
    ],
)
def test_another_mapping_is_told_with_the_entries_of_its_kind(environ, mapping, count, what):
    settings = settings_of(environ)
    deliver(settings)
    expected = f"STATE_FILE: {count} entries no longer count: {CHANGED}{what}. {AGAIN}"
    assert told(settings, mapping) == (expected if count else "")


def test_another_type_of_a_field_is_another_mapping(environ):
    settings = settings_of(environ)
    deliver(settings, with_field("user.visits"))
    assert told(settings, with_field("user.visits:string")).startswith("STATE_FILE: 3 entries")
    assert told(settings, with_field("user.visits:long")) == ""


def test_all_that_has_changed_is_told_at_once_and_counted_once(environ):
    deliver(settings_of(environ))
    settings = settings_of(environ, SOURCE_NAME="another", DB_TIME_ZONE="+05:30")
    text = told(settings, with_field("event.price"))
    what = "SOURCE_NAME, DB_TIME_ZONE, Query 2's event fields"
    assert text == f"STATE_FILE: 2 entries no longer count: {CHANGED}{what}. {AGAIN}"


def test_without_notes_of_a_run_nothing_has_changed(environ):
    settings = settings_of(environ)
    with open_ledger(settings) as ledger:
        ledger.record([outcome_of(make_prepared(), OK, OK)], sure=True)
    assert told(settings) == ""


def test_what_stands_for_nothing_is_not_told(environ):
    """Of a ledger without events no event goes out again."""
    settings = settings_of(environ)
    deliver(settings, rows=1)
    assert told(settings_of(environ, SOURCE_NAME="another")) == ""


# --- Who tells it, and when


def begin(settings, warned, mapping=JOB_MAPPING, **options):
    """Begin a run over one row; return what it warns of."""
    warned.clear()
    run, stop = RunRecord(RunOptions(**options), "1.0.0"), Stop()
    look = steps.FirstLook(settings, shown=False)
    with (
        open_ledger(settings) as ledger,
        ResultsWriter(settings.results_dir, datetime.now(UTC)) as results,
        closing(RowSpool(mapping.columns)) as rows,
    ):
        rows.extend(look.watch(mapping.columns, iter([raw_row()])))
        recorder = Recorder(run, stop, ledger, project_fields(ledger, run), results)
        steps.begin_run(rows, look, settings, recorder)
    return list(warned)


def test_a_run_warns_once_and_the_next_one_no_longer(environ, warned):
    deliver(settings_of(environ))
    changed = settings_of(environ, SOURCE_NAME="another")
    dry = begin(changed, warned, dry_run=True)
    (text,) = dry
    assert CHANGED + "SOURCE_NAME" in text
    # A dry run notes nothing, and sends nothing.
    assert begin(changed, warned) == [text]
    assert begin(changed, warned) == []


def test_with_all_it_was_asked_for(environ, warned):
    deliver(settings_of(environ))
    assert begin(settings_of(environ, SOURCE_NAME="another"), warned, send_all=True) == []
