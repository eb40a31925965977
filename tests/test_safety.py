"""Whatever happens on the way: every row accounted for, and another run finishes the work."""

import re
import resource
import shutil
import signal
import socket
import time
from functools import partial
from urllib.parse import urlsplit

import pytest
import trustme

from sandbox.faults import Fault
from tests import test_db_connection, tunnels
from tests.test_main import API_KEY, REFUSED, Job, add_pro_users, both_modes, writes
from tests.test_main import job as job  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.program

wait_until = partial(test_db_connection.wait_until, seconds=30)


def forget_results(job):
    for path in job.folder.glob("results/*"):
        path.unlink()


def start_hanging(job, iterable, **fault):
    """Start a run whose first requests get no answer; return the process once they are there."""
    iterable.set_faults(Fault("hang", endpoint="users/update", **fault))
    process = job.start()
    wait_until(lambda: writes(iterable))
    return process


def test_a_second_run_ends_at_once_and_touches_no_file_of_the_first(job, iterable):
    first = start_hanging(job, iterable, times=1)
    # The two rows that are answered are in the files.
    wait_until(lambda: len(iterable.events) == 2 and job.log.count("✓ Successfully") == 2)
    files = {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")}
    second = job.alone()
    assert second.returncode == 75
    assert "Another run is in progress" in second.stderr
    assert {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")} == files
    first.kill()
    first.communicate()
    assert job().returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(job, iterable, number):
    process = start_hanging(job, iterable)
    process.send_signal(number)
    time.sleep(0.2)
    assert process.poll() is None
    # Python sees two as one if it has had no time for the first.
    wait_until(lambda: process.send_signal(number) or process.poll() is not None)
    process.communicate()
    assert process.returncode == -number
    assert not list(job.folder.glob("results/integration_results_*.json"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_a_signal_before_the_first_row_still_leaves_results(job, iterable, number, status):
    """The heartbeat's first ping takes its time; the settings are valid by then."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        process = job.start(HEARTBEAT_URL=f"http://127.0.0.1:{port}/secret-check")
        with silent.accept()[0]:
            process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == status
    assert "Interrupted before anything was sent" in err
    assert job.results["run"]["exit_status"] == status
    assert not iterable.requests


def test_a_signal_interrupts_the_look_at_the_fields_before_anything_is_sent(job, iterable):
    iterable.set_faults(Fault("hang", endpoint="users/getFields", seconds=20))
    process = job.start()
    wait_until(lambda: iterable.requests)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "Interrupted before anything was sent" in err
    assert job.results["run"]["exit_status"] == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_after_the_last_row_changes_nothing(job, iterable, number):
    # After the look at the start come one with the first row, and one after the last.
    iterable.change(latency_ms={"users/getFields": 500})
    process = job.start()
    wait_until(lambda: sum(r.path.endswith("getFields") for r in iterable.requests) == 3)
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.05)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert job.results["run"]["complete"] is True


def test_iterable_being_down_stops_early_and_another_run_does_the_rest(job, iterable, database):
    add_pro_users(database, 200)
    iterable.set_faults(Fault("gateway", status=503))
    job.scale("iterable_api/limiter.py", "OUTAGE_S", 1.0)
    job.scale("iterable_api/limiter.py", "PROBE_S", 0.5)
    done = job(ITERABLE_WORKERS="20")
    assert done.returncode == 4
    (last,) = done.stderr.splitlines()[-1:]
    assert re.search(r"Iterable seems to be down: no definite answer for [1-9] s", last)
    assert "503" in last
    assert "Run again to send the rest" in last
    # One request at a time tries it: hardly any row is spent on it.
    assert len(iterable.requests) < 60
    summary = job.results["summary"]
    assert summary["total_failures"] + summary["not_attempted"] == 203
    assert summary["not_attempted"] > 150
    assert job.results["run"]["complete"] is False
    forget_results(job)
    iterable.set_faults()
    assert job().returncode == 0
    assert len(iterable.events) == 203


def test_the_deadline_stops_the_run_and_the_next_one_moves_on(job, iterable, database):
    """Although the project cannot have a field that no row has had yet."""
    add_pro_users(database, 200)
    database.execute("UPDATE customers SET first_name = NULL")
    iterable.change(latency_ms=200)
    for unchanged in (False, True):
        done = job(MAX_RUNTIME_SECONDS="2.5", ITERABLE_WORKERS="2")
        assert done.returncode == 4
        assert "The time limit MAX_RUNTIME_SECONDS was reached" in done.stderr
        summary = job.results["summary"]
        assert (summary["unchanged"] > 0) is unchanged
        assert summary["successful"] + summary["unchanged"] + summary["not_attempted"] == 203
        forget_results(job)


@pytest.mark.parametrize("limits", [{"MIN_ROWS": "4"}, {"MAX_ROWS": "2"}], ids=["min", "max"])
def test_a_row_count_that_cannot_be_right_sends_nothing(job, iterable, limits):
    done = job(**limits)
    assert done.returncode == 3
    (name,) = limits
    assert f" rows (3) than {name} (" in done.stderr
    assert set(job.outcomes.values()) == {"not_attempted"}
    assert not iterable.requests
    assert name in job.results["run"]["error"]


def test_a_dry_run_shows_every_payload_and_sends_nothing(job, iterable, database):
    add_pro_users(database, 10)
    done = job("--dry-run")
    assert done.returncode == 0
    assert not iterable.requests
    assert list(job.outcomes.values()) == ["planned"] * 13
    row = job.results["results"][0]
    assert row["users_update"]["payload"]["email"] == row["email"]
    assert row["events_track"]["payload"]["id"] == row["events_track"]["event_id"]
    assert done.stdout.count("POST /api/users/update") == 3
    assert "POST" not in job.log
    assert job().stderr == ""
    assert len(iterable.events) == 13


# --- What happens to the job's files


def test_a_disk_without_room_for_the_outcomes_sends_nothing(job, iterable):
    job.scale("delivery/recorder.py", "SPARE_BYTES", 10**15)
    done = job()
    assert done.returncode == 2
    assert "RESULTS_DIR: " in done.stderr
    assert "free some, or name another disk" in done.stderr
    assert not writes(iterable)


def test_a_results_folder_that_goes_away_is_told_and_the_ledger_has_what_was_sent(
    job, iterable, database
):
    add_pro_users(database, 60)
    iterable.change(latency_ms=60)
    process = job.start(ITERABLE_WORKERS="3")
    wait_until(lambda: len(iterable.events) > 5)
    shutil.rmtree(job.folder / "results")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 4
    assert "The results could not be written" in err
    assert "STATE_FILE records" in err
    done = job()
    assert done.returncode == 0
    assert "Unchanged since an earlier run, not sent: 63 " in done.stdout


def test_old_results_files_go_when_the_settings_say_so(job):
    job()
    (first,) = job.folder.glob("results/*")
    # One is really old; the other was written while the clock was ahead.
    for day in ("20250101", "20990101"):
        shutil.copy(first, first.with_name(f"integration_results_{day}_000000.json"))
    assert job(RESULTS_KEEP="2").returncode == 0
    kept = sorted(job.folder.glob("results/*"))
    assert len(kept) == 2
    assert kept[0] == first


# --- Who hears of it


def test_quiet_prints_nothing_when_all_is_well_and_one_line_when_not(job, iterable):
    done = job("--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "Successful (both API calls): 3" in job.log
    iterable.set_faults(Fault("answer", endpoint="events/track", status=400, body=REFUSED, times=1))
    # A later warning takes no place of the reason.
    done = job("--quiet", "--all", HEARTBEAT_URL="http://127.0.0.1:9/secret-check")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("main.py: exit status 1: 1 of 3 rows was not delivered, the first is ")
    assert line.endswith(": events/track refused (client error 400 BadParams)")


def test_a_monitor_that_cannot_be_reached_changes_nothing(job):
    url = "http://127.0.0.1:9"
    # A proxy could read the API key in a request to an http address, so it gets none.
    more = {"METRICS_FILE": "/dev/null/iterable.prom", "ITERABLE_PROXY": url}
    done = job(HEARTBEAT_URL=f"{url}/secret-check", **more)
    assert done.returncode == 0
    assert "HEARTBEAT_URL" in done.stderr
    assert "METRICS_FILE" in done.stderr
    assert "secret-check" not in done.stderr + job.log


def test_the_report_is_written_from_the_results_without_any_other_setting(job):
    bare = Job({"RESULTS_DIR": job.environ["RESULTS_DIR"]}, job.folder)
    assert bare("--report").returncode == 2
    job()
    done = bare("--report")
    assert (done.returncode, done.stderr) == (0, "")
    page = job.folder / "results" / "report.html"
    assert f"Report written to {page}" in done.stdout
    assert "users/update" in page.read_text()


# --- The way to Iterable


@pytest.fixture
def way_out(job, iterable, tmp_path):
    """Put Iterable behind a private authority and a proxy, which this returns."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = urlsplit(iterable.url).port
    with tunnels.with_tls(port, authority) as url, tunnels.proxy() as proxy:
        job.environ |= {
            "ITERABLE_API_BASE_URL": url,
            "ITERABLE_CA_FILE": str(tmp_path / "ca.pem"),
            "ITERABLE_PROXY": proxy.url.replace("//", "//me:sEcReT@"),
        }
        yield proxy


def test_a_run_goes_out_by_a_proxy_under_a_private_authority(job, iterable, way_out):
    heartbeat = job.environ["ITERABLE_API_BASE_URL"] + "/secret-check"
    done = job(HEARTBEAT_URL=heartbeat)
    assert done.returncode == 0
    assert job.results["summary"]["successful"] == len(iterable.events) == 3
    seen = b"".join(way_out.heads + way_out.relayed)
    assert way_out.heads
    assert not any(each in seen for each in (API_KEY.encode(), b"secret-check", b"@email.com"))
    assert "sEcReT" not in done.stdout + done.stderr + job.log


@both_modes
def test_a_certificate_that_is_not_trusted_sends_nothing_and_nothing_twice(
    job, iterable, way_out, mode
):
    done = job(*mode, ITERABLE_CA_FILE="")
    # As --check says.
    assert done.returncode == job("--check", ITERABLE_CA_FILE="").returncode == 4
    assert "ITERABLE_CA_FILE must name its CA" in done.stderr.splitlines()[-1]
    for row in job.results["results"]:
        update = row["users_update"]
        assert (update["status"], update["attempts"]) in {("unavailable", 1), ("not_sent", 0)}
    assert job.results["summary"]["retries"] == 0
    assert not iterable.requests
    assert "TLS failed" in job.log


def test_few_open_files_make_fewer_workers_and_no_retries(job, iterable, database):
    add_pro_users(database, 150)
    iterable.change(latency_ms=500)
    process = job.start(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
    _, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (0, "")
    summary = job.results["summary"]
    assert (summary["successful"], summary["retries"]) == (153, 0)
    answers = [endpoint["answers"] for endpoint in summary["endpoints"].values()]
    assert answers == [{"200": 153}] * 2
