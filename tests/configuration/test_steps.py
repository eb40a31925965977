"""The steps of a run before its first request: what they warn of, and what stops the run."""

import os
import re
import resource
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import mysql.connector
import pytest

from configuration import steps, wiring
from configuration.settings import HERE
from configuration.wiring import most_workers, open_ledger
from delivery.stopping import Stop
from iterable_api.mapping import RowMapping
from iterable_api.payloads import JOB_MAPPING
from logger_config import setup_logger
from records.columns import Column, Kind
from records.delivery_ledger import LedgerError
from records.exit_statuses import DatabaseError, ExitStatus, RunError, StopReason
from records.run import RunOptions, RunRecord
from sandbox.database import run_script
from sandbox.faults import Fault
from tests.configuration.conftest import settings_of
from tests.results import LAST, save
from tests.rows import raw_row
from tests.test_db_connection import private
from tests.users import NOBODY, NOBODYS_NAME, as_nobody, needs_root, open_folder


def new_run(**options):
    return RunRecord(RunOptions(**options), "1.0.0")


# --- Files


@pytest.mark.parametrize(
    ("own", "keep", "left"),
    [
        (5, 0, range(6)),
        (5, 9, range(6)),
        (5, 2, [4, 5]),
        (5, 1, [5]),
        # Those that are dated later were written while the clock was ahead, and go first.
        (0, 1, [0]),
        (2, 3, [0, 1, 2]),
        (2, 4, [0, 1, 2, 5]),
    ],
)
def test_the_oldest_results_files_of_the_job_go_and_nothing_else(environ, own, keep, left):
    days = [LAST + timedelta(days=day) for day in range(6)]
    settings = settings_of(environ, RESULTS_KEEP=str(keep))
    folder = settings.results_dir
    files = [save(folder, day, job=settings.job) for day in days]
    others = [save(folder, LAST - timedelta(days=1), job="orders"), folder / "report.html"]
    others[1].touch()
    steps.remove_old_results(settings, files[own])
    assert set(folder.iterdir()) == {*(files[number] for number in left), *others}


def test_files_with_secrets_that_others_may_read_are_named(environ, tmp_path, warned, monkeypatch):
    env_file, password, key = (tmp_path / name for name in (".env", "password", "key"))
    for path, mode in [(env_file, 0o644), (password, 0o600), (key, 0o640)]:
        path.write_text("0123456789abcdef")
        path.chmod(mode)
    files = {"DB_PASSWORD_FILE": str(password), "ITERABLE_API_KEY_FILE": str(key)}
    settings = settings_of(environ | {"DB_PASSWORD": "", "ITERABLE_API_KEY": ""}, **files)
    steps.warn_of_exposed_files(env_file, settings)
    told = "Other users can read %s, which holds secrets: run chmod 600 on it"
    assert warned == [told % env_file, told % key]
    # What systemd guards looks so, too.
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for no_file in (None, tmp_path / "nowhere", Path(os.devnull)):
        steps.warn_of_exposed_files(no_file, settings)
    assert len(warned) == 2


@needs_root
def test_a_file_of_another_user_in_the_way_is_named_with_its_owner(environ):
    with open_folder() as path:
        settings = settings_of(environ, RESULTS_DIR=str(path))
        with as_nobody(), pytest.raises(RunError) as caught:
            steps.open_results(settings, new_run())
    assert str(caught.value) == (
        f"RESULTS_DIR {path} cannot be written: Permission denied. It belongs to root and the job "
        f"runs as {NOBODYS_NAME}; as root: chown {NOBODYS_NAME} {path}"
    )


@needs_root
def test_root_does_not_write_among_the_files_of_another_user(environ, tmp_path):
    settings = settings_of(environ)
    steps.refuse_root(settings, new_run())  # nothing is there yet
    for path in (settings.state_file, settings.log_file):
        path.parent.mkdir()
        path.touch()
    settings.results_dir.mkdir()
    older, newest = (save(settings.results_dir, LAST + timedelta(days=days)) for days in (0, 1))
    # Neither a folder nor an older file matters.
    for path in (older, tmp_path):
        os.chown(path, NOBODY, NOBODY)
    steps.refuse_root(settings, new_run())
    for path in (settings.state_file, settings.log_file, newest):
        os.chown(path, NOBODY, NOBODY)
        with pytest.raises(RunError, match=f"{path} belongs to {NOBODYS_NAME}, whose runs"):
            steps.refuse_root(settings, new_run())
        steps.refuse_root(settings, new_run(demo=True))
        with as_nobody():
            steps.refuse_root(settings, new_run())
        os.chown(path, 0, 0)


# --- Two jobs of one checkout


def test_a_ledger_is_that_of_one_query(environ, tmp_path):
    (tmp_path / "orders.sql").write_text("SELECT 1")
    first = settings_of(environ)
    for _ in range(2):
        with open_ledger(first) as ledger:
            ledger.begin_run({})
    changes = {"QUERY_FILE": str(tmp_path / "orders.sql"), "ITERABLE_API_KEY": "f" * 32}
    with pytest.raises(LedgerError, match="give each job its own STATE_FILE") as caught:
        open_ledger(settings_of(environ, **changes))
    told = f"belongs to the job of phase2_queries.sql, but this is the job of {tmp_path}/orders.sql"
    assert told in str(caught.value)
    assert caught.value.status is ExitStatus.USAGE
    open_ledger(settings_of(environ, **changes, STATE_FILE=str(tmp_path / "orders"))).close()


def test_a_log_is_free_again_after_its_process_and_stays_ones_own_when_it_rotates(tmp_path):
    path = tmp_path / "job.log"
    logger = setup_logger("INFO", path)
    (handler,) = [each for each in logger.handlers if hasattr(each, "doRollover")]
    handler.doRollover()
    logger.info("after it")
    probe = f"from logger_config import *; setup_logger('INFO', Path({str(path)!r}))"
    held = subprocess.run([sys.executable, "-c", probe], cwd=HERE, capture_output=True, check=False)
    assert b"BlockingIOError" in held.stderr
    setup_logger()
    subprocess.run([sys.executable, "-c", probe], cwd=HERE, check=True)


def test_results_of_two_jobs_in_one_folder_are_told(environ, tmp_path, warned):
    settings = settings_of(environ, RESULTS_DIR=str(tmp_path))
    save(tmp_path, job="orders.sqlite3")
    for demo in (True, False):
        with steps.open_results(settings, new_run(demo=demo)):
            assert len(warned) == (not demo)
    (text,) = warned
    assert "also holds results of another job (STATE_FILE orders.sqlite3)" in text
    assert "the report mixes the two" in text


# --- The database


@pytest.mark.parametrize(("run_s", "query_s", "limit_s"), [("0", "7", 7), ("4.2", "300", 5)])
def test_no_statement_may_take_longer_than_query_2_or_the_run(
    environ, monkeypatch, run_s, query_s, limit_s
):
    monkeypatch.setattr(wiring, "DatabaseConnection", lambda **options: options)
    limits = {"MAX_RUNTIME_SECONDS": run_s, "DB_QUERY_TIMEOUT_SECONDS": query_s}
    options: Any = wiring.database_connection(settings_of(environ, **limits))
    assert options["query_timeout_s"] == limit_s


# --- The zone of the data


@pytest.mark.parametrize("zone", ["-05:30", "Europe/Berlin"])
@pytest.mark.parametrize(
    ("ahead", "is_told"),
    [
        (timedelta(minutes=4), False),
        (timedelta(minutes=6), True),
        (timedelta(hours=25, minutes=59), True),
        # No zones differ by as much: these stand for something else, such as "never".
        (timedelta(hours=26, minutes=1), False),
    ],
)
def test_a_time_ahead_by_what_zones_differ_is_told(environ, warned, zone, ahead, is_told):
    settings = settings_of(environ, DB_TIME_ZONE=zone)
    now = datetime.now(settings.time_zone).replace(tzinfo=None)
    rows = [raw_row(1), raw_row(2, event_time=None), raw_row(3, event_time=now + ahead)]
    look = steps.FirstLook(settings, shown=False)
    assert list(look.watch(JOB_MAPPING.columns, iter(rows))) == rows
    told = f"DB_TIME_ZONE: 1 event_time is in the future in {zone}, so this is probably not the "
    assert [text.startswith(told) for text in warned] == [True] * is_told


# --- The project


@pytest.mark.parametrize(
    ("fault", "reason", "told"),
    [
        (Fault("unauthorized", variant="code_success"), StopReason.KEY_REFUSED, ""),
        # It may be good for the rest.
        (Fault("unauthorized", variant="no_permission"), None, "lacks the permission for this"),
        # What Iterable says itself is not logged.
        (Fault("answer", status=400, body='{"code":"x","msg":"of Sarah"}'), None, "answered 400; "),
        (None, None, "http://127.0.0.1:1: connection refused; check ITERABLE_API_BASE_URL"),
    ],
)
def test_a_project_that_does_not_tell_its_fields(environ, iterable, warned, fault, reason, told):
    iterable.set_faults(*filter(None, [fault]))
    environ |= {} if fault else {"ITERABLE_API_BASE_URL": "http://127.0.0.1:1"}
    stop = Stop()
    assert steps._look_at_project(JOB_MAPPING, settings_of(environ), stop) is None
    assert stop.reason is reason
    assert [told in text and "Sarah" not in text for text in warned] == [True] * bool(told)


@pytest.mark.parametrize(
    ("kind", "suffix", "has", "sends"),
    [
        (Kind.TINYINT, ":boolean", "long", "a boolean"),
        (Kind.INTEGER, ":string", "long", "a string"),
        (Kind.DECIMAL, "", "string", "a double"),
        (Kind.BIT, ":long", "long", ""),
        (Kind.INTEGER, "", "double", ""),
        (Kind.MOMENT, "", "string", ""),
        (Kind.JSON, "", "string", ""),  # the type of what is in an array
        (Kind.NULL, "", "boolean", ""),
    ],
)
def test_a_field_of_another_type_is_told_with_what_to_change_in_query_2(kind, suffix, has, sends):
    mapping = RowMapping([*JOB_MAPPING.columns, Column(f"user.x{suffix}", kind)])
    for text in (told := list(steps.wrong_types({"x": has}, mapping))):
        assert text.startswith(f"The profile field x has the type {has} in the project, and ")
        assert f"{sends}: Iterable refuses every row with it" in text
        assert text.endswith(f"give the field another name, or if its values fit, the type :{has}")
    assert bool(told) is bool(sends)


def test_a_field_of_the_jobs_own_can_be_replaced_in_query_2():
    (told,) = steps.wrong_types({"candidate": "boolean"}, JOB_MAPPING)
    assert "write NULL AS `user.candidate` and send it as `user.<another name>`, or if" in told
    assert told.endswith("if its values fit, write it AS `user.candidate:boolean`")


# --- Rows in flight


@pytest.mark.parametrize(
    ("soft", "hard", "workers", "set_to"),
    [
        (256, resource.RLIM_INFINITY, 1500, (1550, resource.RLIM_INFINITY)),
        (100, 256, 206, (256, 256)),
        (4096, 4096, 1500, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1500, None),
        (40, 40, 1, (40, 40)),
        # A sandbox forbids to raise it.
        (256, 4095, 206, PermissionError),
    ],
)
def test_the_soft_limit_of_open_files_is_raised_as_far_as_needed(
    environ, monkeypatch, soft, hard, workers, set_to
):
    setrlimit = mock.Mock(side_effect=set_to if set_to is PermissionError else None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert most_workers(settings_of(environ)) == workers
    if isinstance(set_to, tuple):
        setrlimit.assert_called_once_with(resource.RLIMIT_NOFILE, set_to)
    assert setrlimit.called is bool(set_to)
    assert most_workers(settings_of(environ, ITERABLE_WORKERS="1")) == 1


# --- The database


@pytest.mark.database
def test_zone_tables_that_differ_from_this_machines_end_the_run_at_once(environ):
    """The server's tables have no summer, which is right in Algiers and wrong in Berlin."""
    with private("mariadbd") as server:
        with mysql.connector.connect(**server.connection_options("mysql")) as connection:
            run_script(
                connection,
                "INSERT INTO time_zone VALUES (9, 'N');"
                "INSERT INTO time_zone_name VALUES ('Europe/Berlin', 9), ('Africa/Algiers', 9);"
                "INSERT INTO time_zone_transition VALUES (9, 0, 1);"
                "INSERT INTO time_zone_transition_type VALUES (9, 1, 3600, 0, 'CET');",
            )
        environ |= server.settings
        with steps.connected(settings_of(environ, DB_TIME_ZONE="Africa/Algiers")) as session:
            assert session.execute_query("SELECT HOUR(FROM_UNIXTIME(0)) AS n") == [{"n": 1}]
        berlin = settings_of(environ, DB_TIME_ZONE="Europe/Berlin")
        with pytest.raises(DatabaseError) as caught, steps.connected(berlin):
            pass
    told = str(caught.value)
    there, here = re.findall(r"-07-15 (\d\d):\S* on (?:the server|this machine)", told)
    assert (int(there) + 1) % 24 == int(here)
    assert "tzdata, or load the server's time zone tables as its root: mysql_tzinfo" in told
