"""--check on files and folders: what cannot be written, what is too little, what is in use."""

import os
import resource
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing

import pytest

from configuration.lost_entries import run_notes
from configuration.preflight_files import file_findings, lost_entries_findings, room_finding
from configuration.preflight_finding import Mark
from configuration.settings import HERE
from configuration.wiring import most_sockets, open_ledger
from iterable_api.payloads import JOB_MAPPING
from records import least_versions
from records.delivery_ledger import APPLICATION_ID, LedgerBusyError
from records.exit_statuses import ExitStatus
from records.outcomes import CallOutcome, CallStatus, outcome_of
from tests.configuration.conftest import settings_of
from tests.rows import make_prepared

DELIVERED = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
OUTCOME = outcome_of(make_prepared(), DELIVERED, DELIVERED)


def of_files(environ, **changes):
    """Return the findings of the files by their name."""
    found = file_findings(settings_of(environ, **changes), None)
    return {finding.what: finding for finding in found}


def test_files_that_cannot_be_written_are_named_each(environ, tmp_path):
    (tmp_path / "file").touch()
    found = of_files(
        environ,
        RESULTS_DIR=str(tmp_path / "file" / "results"),
        LOG_FILE=str(tmp_path),
        STATE_FILE="/proc/ledger.sqlite3",
        METRICS_FILE=str(tmp_path / "missing" / "job.prom"),
    )
    for name in ("RESULTS_DIR", "LOG_FILE", "STATE_FILE"):
        assert (found[name].mark, found[name].status) == (Mark.BAD, ExitStatus.USAGE)
        assert "cannot be written: " in found[name].text
    # A run goes on without its metrics.
    assert found["METRICS_FILE"].mark is Mark.WARNING


def test_files_that_are_there_stay_as_they_are(environ, tmp_path):
    for name in ("results", "logs", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "logs" / "job.log").write_text("older lines\n")
    settings = settings_of(environ)
    open_ledger(settings).close()
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    assert {finding.mark for finding in of_files(environ).values()} == {Mark.GOOD}
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("free", "last_size", "mark"),
    [
        (0, 0, Mark.BAD),
        (90_000, 10**12, Mark.BAD),
        # Enough for a few rows, and nobody knows yet how many there are.
        (1_000_000, 10**12, Mark.WARNING),
        (49_000_000, 0, Mark.WARNING),
        (51_000_000, 0, Mark.GOOD),
        (300_000_000, 100_000_000, Mark.WARNING),
        (401_000_000, 100_000_000, Mark.GOOD),
    ],
)
def test_the_disk_must_have_room_for_a_run_like_the_last(tmp_path, free, last_size, mark):
    finding = room_finding(tmp_path, free, last_size)
    assert finding.mark is mark
    assert f"{free // 1_000_000} MB" in finding.text


def test_the_last_results_say_how_much_room_is_needed(environ, tmp_path):
    results = tmp_path / "results"
    # None of these is the last results file: older ones of the same second, and names and a folder
    # that only look like one and sort behind it.
    (results / "integration_results_20260102_000000.json").mkdir(parents=True)
    for name in (
        "integration_results_20260101_000000.json",
        "integration_results_20260101_000000_9.json",
        "integration_results_old.json",
        "integration_results_20260103_000000.json.bak",
    ):
        write_sparse(results / name, 10**12)
    write_sparse(results / "integration_results_20260101_000000_10.json", 10**13)
    assert "a run may need 40000.0 GB" in of_files(environ)["RESULTS_DIR"].text


def test_without_results_of_an_earlier_run_little_room_is_needed(environ, tmp_path):
    (tmp_path / "results").mkdir()
    write_sparse(tmp_path / "results" / "integration_results_old.json", 10**13)
    assert of_files(environ)["RESULTS_DIR"].mark is Mark.GOOD


def write_sparse(path, size):
    """Make a file that has a length, and nothing in it."""
    with path.open("wb") as file:
        file.truncate(size)


HOLDER = (
    "import sys; from pathlib import Path; from records.delivery_ledger import DeliveryLedger\n"
    "with DeliveryLedger(Path(sys.argv[1]), 'https://api.iterable.com', 'k'):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


@pytest.mark.program
def test_a_run_under_way_is_a_warning_and_is_not_disturbed(environ):
    path = settings_of(environ).state_file
    command, pipe = [sys.executable, "-c", HOLDER, path], subprocess.PIPE
    with subprocess.Popen(command, cwd=HERE, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout
        holder.stdout.readline()
        before = content_of(path.parent)
        finding = of_files(environ)["STATE_FILE"]
        told_of_lost = list(lost_entries_findings(settings_of(environ), JOB_MAPPING))
        assert content_of(path.parent) == before
        with pytest.raises(LedgerBusyError, match=r"it has locked STATE_FILE /.*ledger\.sqlite3"):
            open_ledger(settings_of(environ))
        holder.communicate()
    assert finding.mark is Mark.WARNING
    assert "another run is under way" in finding.text
    assert told_of_lost == []
    assert of_files(environ)["STATE_FILE"].mark is Mark.GOOD


def content_of(folder):
    """Return what each file in *folder* holds, and when it was changed."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_what_a_killed_run_left_beside_its_ledger_is_kept(environ):
    settings = settings_of(environ)
    folder = settings.state_file.parent
    with open_ledger(settings) as ledger:
        ledger.record([OUTCOME], sure=True)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert "ledger.sqlite3-wal" in files
    assert of_files(environ)["STATE_FILE"].mark is Mark.GOOD
    with open_ledger(settings) as ledger:
        assert ledger.count() == 2


def test_a_ledger_that_is_not_there_is_not_made(environ):
    settings = settings_of(environ)
    for _ in range(2):
        finding = of_files(environ)["STATE_FILE"]
        assert finding.mark is Mark.GOOD
        assert "is not there yet; a run can make it" in finding.text
    assert list(lost_entries_findings(settings, JOB_MAPPING)) == []
    assert not settings.state_file.parent.exists()


def test_a_check_changes_nothing_of_what_a_run_has_noted(environ):
    settings = settings_of(environ)
    with open_ledger(settings) as ledger:
        ledger.begin_run(run_notes(settings, JOB_MAPPING))
        ledger.record([OUTCOME], sure=False)
    other = settings_of(environ, SOURCE_NAME="another")
    for _ in range(2):
        of_files(environ, SOURCE_NAME="another")
        (finding,) = lost_entries_findings(other, JOB_MAPPING)
        assert (finding.mark, finding.what) == (Mark.WARNING, "STATE_FILE")
        assert finding.text.startswith("1 entry no longer counts: changed since the last run: ")
    with open_ledger(settings) as ledger:
        assert (ledger.count(), ledger.noted("SOURCE_NAME")) == (2, settings.source)


def test_a_ledger_of_another_format_is_refused_and_left_as_it_is(environ):
    settings = settings_of(environ)
    settings.state_file.parent.mkdir()
    with closing(sqlite3.connect(settings.state_file)) as older:
        older.execute("CREATE TABLE delivered (hash BLOB)")
        older.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        older.execute("PRAGMA user_version = 1")
    before = content_of(settings.state_file.parent)
    finding = of_files(environ)["STATE_FILE"]
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.USAGE)
    assert finding.text.startswith(f"{settings.state_file} has format 1 and this program reads ")
    assert list(lost_entries_findings(settings, JOB_MAPPING)) == []
    assert content_of(settings.state_file.parent) == before


def test_damage_is_told_under_the_ledgers_own_name(environ):
    settings = settings_of(environ)
    with open_ledger(settings) as ledger:
        ledger._sqlite.execute("DROP TABLE entry")
    finding = of_files(environ)["STATE_FILE"]
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.USAGE)
    assert finding.text.startswith(f"{settings.state_file} cannot be used (no such table: entry)")


def test_an_sqlite_that_is_too_old_is_told(environ, monkeypatch):
    monkeypatch.setattr(least_versions, "SQLITE", (99, 0))
    finding = of_files(environ)["STATE_FILE"]
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.USAGE)
    assert "STATE_FILE needs 99.0 or newer" in finding.text


def test_a_state_file_that_is_no_ledger_is_told(environ, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.sqlite3").write_text("no database at all, but long enough" * 50)
    finding = of_files(environ)["STATE_FILE"]
    assert (finding.mark, finding.status) == (Mark.BAD, ExitStatus.USAGE)
    assert "move it away" in finding.text


def test_secrets_that_others_may_read_are_a_warning(environ, tmp_path):
    env_file = tmp_path / "env"
    env_file.write_text("")
    env_file.chmod(0o644)
    first, *_ = file_findings(settings_of(environ), env_file)
    assert (first.mark, first.what) == (Mark.WARNING, str(env_file))
    assert "chmod 600" in first.text
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o644


def test_a_log_that_is_no_regular_file_is_looked_at_without_waiting(environ, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert of_files(environ, LOG_FILE=str(pipe))["LOG_FILE"].mark is Mark.BAD
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert of_files(environ, LOG_FILE=str(pipe))["LOG_FILE"].mark is Mark.GOOD
    assert of_files(environ, LOG_FILE="/dev/null")["LOG_FILE"].mark is Mark.GOOD
    os.close(reader)


def test_a_password_in_quotes_is_a_warning(environ, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", '"sEcReT"')
    finding = of_files(environ, DB_PASSWORD='"sEcReT"')["DB_PASSWORD"]
    assert finding.mark is Mark.WARNING
    assert "quotes" in finding.text
    assert "sEcReT" not in finding.text


@pytest.fixture
def open_files(monkeypatch):
    """Return what sets the limits that the program sees, and returns those it sets itself."""
    raised = []

    def limits(soft, hard, refused=None):
        def setrlimit(_, limits):
            raised.append(limits)
            if refused:
                raise refused

        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", setrlimit)
        most_sockets.cache_clear()
        return raised

    yield limits
    most_sockets.cache_clear()


def test_too_few_open_files_are_a_warning(environ, open_files):
    raised = open_files(100, 256)
    few = of_files(environ)["ITERABLE_WORKERS"].text
    assert few.startswith("only 206 rows can be in flight, because 256 files may be open")
    assert few.endswith("ulimit -n 380 allows 330")
    assert "ITERABLE_WORKERS" not in of_files(environ, ITERABLE_WORKERS="100")
    assert raised == [(256, 256)]


@pytest.mark.parametrize("hard", [2050, 1_000_000_000, resource.RLIM_INFINITY])
def test_the_soft_limit_is_raised_once_and_no_further_than_needed(open_files, hard):
    raised = open_files(256, hard)
    assert [most_sockets() for _ in range(3)] == [2000] * 3
    assert raised == [(2050, hard)]


@pytest.mark.parametrize("soft", [2050, 1_000_000, resource.RLIM_INFINITY])
def test_a_limit_that_is_high_enough_is_left_alone(open_files, soft):
    raised = open_files(soft, resource.RLIM_INFINITY)
    assert (most_sockets(), raised) == (2000, [])


@pytest.mark.parametrize("refused", [PermissionError(), ValueError()])
def test_a_limit_that_cannot_be_raised_is_lived_with(open_files, refused):
    open_files(256, 4096, refused)
    assert most_sockets() == 206


def test_the_least_limit_leaves_one_socket(open_files):
    open_files(40, 40)
    assert most_sockets() == 1


def test_the_soft_limit_of_open_files_is_no_hindrance(environ):
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, allowed[1]))
    most_sockets.cache_clear()
    try:
        assert "ITERABLE_WORKERS" not in of_files(environ)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(2050, allowed[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
        most_sockets.cache_clear()
