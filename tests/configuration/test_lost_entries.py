"""What makes everything go out again is told before it happens."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from configuration import steps
from configuration.steps import AGAIN, EMPTY, lost_entries, run_notes
from configuration.wiring import open_ledger
from delivery.recorder import Recorder
from delivery.stopping import Stop
from iterable_api.mapping import Identity, RowMapping
from iterable_api.payloads import JOB_MAPPING
from records.columns import Column, Kind
from records.outcomes import CallOutcome, CallStatus
from records.results_writer import ResultsWriter
from records.row_spool import RowSpool
from records.run import RunOptions, RunRecord
from tests.configuration.conftest import settings_of
from tests.results import LAST, delivered, refused, save
from tests.rows import make_prepared, project_fields, raw_row, settled

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
LOST = "STATE_FILE: outdated entries: "
NEW_KEY = "Changed since the last run: the API key, ITERABLE_PROJECT or ITERABLE_API_BASE_URL"


def deliver(settings, mapping=JOB_MAPPING):
    """Do what a run of two rows does in the ledger."""
    with open_ledger(settings) as ledger:
        ledger.begin_run(run_notes(settings, mapping))
        ledger.record([settled(make_prepared(n), OK, OK) for n in range(2)], sure=True)


def told(settings, mapping=JOB_MAPPING):
    with open_ledger(settings) as ledger:
        return lost_entries(ledger, settings, mapping)


def changed(*names):
    return f"{LOST}up to 4. Changed since the last run: {', '.join(names)}. {AGAIN}"


def with_field(name, kind=Kind.INTEGER, identity=Identity.EMAIL):
    return RowMapping([*JOB_MAPPING.columns, Column(name, kind)], identity)


# --- An empty ledger


def test_a_first_run_is_told_nothing(environ):
    settings = settings_of(environ)
    assert lost_entries(None, settings, JOB_MAPPING) == ""
    assert told(settings) == ""


@pytest.mark.parametrize("is_there", [False, True])
def test_an_empty_ledger_beside_results_of_deliveries_is_told(environ, is_there):
    settings = settings_of(environ)
    settings.results_dir.mkdir()
    save(settings.results_dir, LAST, rows=delivered(2), job=settings.job)
    # Later runs without deliveries hide nothing.
    save(settings.results_dir, LAST + timedelta(days=1), status=3, job=settings.job)
    text = told(settings) if is_there else lost_entries(None, settings, JOB_MAPPING)
    assert text == EMPTY.format(settings.state_file, settings.results_dir)


def test_deliveries_of_another_job_or_of_none_are_not_ones_own(environ):
    settings = settings_of(environ)
    settings.results_dir.mkdir()
    save(settings.results_dir, rows=delivered(2), job="orders.sqlite3")
    save(settings.results_dir, rows=refused(2), job=settings.job)
    assert told(settings) == ""


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
    assert told(settings_of(environ, **changes)) == f"{LOST}4. {NEW_KEY}. {AGAIN}"


# --- What is changed in the settings or in Query 2


@pytest.mark.parametrize(
    ("changes", "mapping", "names"),
    [
        ({}, JOB_MAPPING, []),
        ({"SOURCE_NAME": "another"}, JOB_MAPPING, ["SOURCE_NAME"]),
        ({"DB_TIME_ZONE": "Europe/Berlin"}, JOB_MAPPING, ["DB_TIME_ZONE"]),
        ({}, with_field("user.visits"), ["Query 2's profile fields"]),
        ({}, with_field("event.price"), ["Query 2's event fields"]),
        (
            {"SOURCE_NAME": "another"},
            with_field("user_id", Kind.TEXT, Identity.USER_ID),
            ["SOURCE_NAME", "Query 2's profile fields", "Query 2's event fields"],
        ),
    ],
)
def test_all_that_has_changed_is_told_at_once(environ, changes, mapping, names):
    deliver(settings_of(environ))
    text = told(settings_of(environ, **changes), mapping)
    assert text == (changed(*names) if names else "")


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
    settings = settings_of(environ, SOURCE_NAME="another")
    # With --all it was asked for; neither that nor a dry run notes anything here.
    assert begin(settings, warned, dry_run=True, send_all=True) == []
    assert begin(settings, warned, dry_run=True) == [changed("SOURCE_NAME")]
    assert begin(settings, warned) == [changed("SOURCE_NAME")]
    assert begin(settings, warned) == []
