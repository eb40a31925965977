"""Whatever happens on the way: every row accounted for, and another run finishes the work."""

import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import time
from urllib.parse import urlsplit

import pytest
import trustme

from sandbox.faults import Fault
from tests import tunnels
from tests.test_main import API_KEY, REFUSED, Job, add_pro_users, copy_program, scaled, writes
from tests.test_main import job as job  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.database, pytest.mark.program]


def outcomes(job):
    return sorted(row["outcome"] for row in job.results["results"])


def forget_results(job):
    for path in job.folder.glob("results/*"):
        path.unlink()


def is_sending(job):
    return "STEP 5" in (job.log if (job.folder / "logs" / "job.log").exists() else "")


def wait_until(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per-user", "bulk"])
def test_a_run_sends_call_by_call_what_iterable_does_not_hold(job, iterable, database, mode):
    assert job(*mode).returncode == 0
    forget_results(job)
    database.execute("UPDATE customers SET first_name = 'Sally' WHERE id = 1")
    database.execute(
        "INSERT INTO page_views (user_id, page, event_time) VALUES (5, 'pricing', NOW())"
    )
    before = len(writes(iterable))
    done = job(*mode)
    assert done.returncode == 0
    calls = {
        row["customer_id"]: (row["users_update"]["status"], row["events_track"]["status"])
        for row in job.results["results"]
    }
    assert calls.pop(1) == ("delivered", "unchanged")
    assert calls.pop(5) == ("unchanged", "delivered")
    assert set(calls.values()) == {("unchanged", "unchanged")}
    assert job.results["summary"]["unchanged"] == 1
    assert len(writes(iterable)) - before == 2
    assert "Unchanged, already in Iterable: 1. --all would send them again" in done.stdout


def test_a_run_sends_the_event_that_did_not_arrive_and_not_its_user(job, iterable):
    iterable.set_faults(Fault("answer", endpoint="events/track", status=400, body=REFUSED, times=1))
    assert job().returncode == 1
    forget_results(job)
    before = len(writes(iterable))
    assert job().returncode == 0
    assert [r.path for r in writes(iterable)[before:]] == ["/api/events/track"]
    assert len(iterable.events) == 3


def test_another_key_is_another_destination(job, iterable):
    job()
    iterable.change(api_key="another-key")
    done = job(ITERABLE_API_KEY="another-key")
    assert "Unchanged" not in done.stdout
    assert "Successful (both API calls): 3" in done.stdout


def test_a_second_run_ends_at_once_and_touches_no_file_of_the_first(job, iterable):
    iterable.set_faults(Fault("hang", endpoint="users/update", times=1))
    first = job.start()
    wait_until(lambda: is_sending(job))
    time.sleep(0.2)
    files = {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")}
    began_s = time.monotonic()
    second = job()
    seconds = time.monotonic() - began_s
    assert second.returncode == 75
    assert "Another run is under way" in second.stderr
    assert {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")} == files
    assert seconds < 5  # a process start on a busy machine; the wait itself is none
    first.kill()
    first.communicate()
    assert job().returncode == 0


def test_a_killed_run_leaves_no_lock_no_half_file_and_its_work_is_not_done_twice(
    job, iterable, database
):
    add_pro_users(database, 200)
    iterable.change(latency_ms=20)
    first = job.start(ITERABLE_WORKERS="4")
    wait_until(lambda: len(iterable.events) > 40)
    first.kill()
    first.communicate()
    assert not list(job.folder.glob("results/integration_results_*.json"))
    held = len(iterable.events)
    assert job().returncode == 0
    assert len(iterable.events) == 203
    assert all(event.user_existed for event in iterable.events.values())
    again = sum(event.received > 1 for event in iterable.events.values())
    assert again <= 4 + 8
    assert job.results["summary"]["unchanged"] >= held - 4 - 8


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_second_signal_ends_at_once(job, iterable, number, status):
    iterable.set_faults(Fault("hang", endpoint="users/update"))
    process = job.start()
    wait_until(lambda: is_sending(job))
    time.sleep(0.2)
    process.send_signal(number)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=5)
    assert process.returncode == -number
    assert not list(job.folder.glob("results/integration_results_*.json"))


def test_a_run_that_was_frozen_with_requests_in_flight_goes_on(job, iterable, database, tmp_path):
    """A paused container, a suspended machine: no silence of Iterable's, however long."""
    add_pro_users(database, 20)
    program = copy_program(tmp_path / "copy")
    job.program = scaled(program, "iterable_api/limiter.py", "OUTAGE_S", 2.0)
    iterable.set_faults(Fault("hang", endpoint="users/update", times=4))
    process = job.start(ITERABLE_TIMEOUT_SECONDS="1", ITERABLE_WORKERS="4")
    wait_until(lambda: len(writes(iterable)) == 4)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3.0)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert len(iterable.events) == 23
    assert job.results["summary"]["retries"] >= 4


def test_a_hangup_that_is_ignored_ends_nothing(job, iterable):
    iterable.change(latency_ms=200)
    process = job.start(before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_until(lambda: is_sending(job))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert job.results["summary"]["successful"] == 3


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_before_the_first_row_still_leaves_results(job, iterable, number, status):
    """The heartbeat's first ping takes its time; the settings are valid by then."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        process = job.start(HEARTBEAT_URL=f"http://127.0.0.1:{port}/secret-check")
        with silent.accept()[0]:
            process.send_signal(number)
            time.sleep(0.1)
    _, err = process.communicate(timeout=20)
    assert process.returncode == status
    assert "Interrupted before anything was sent" in err
    assert job.results["run"]["exit_status"] == status
    assert not iterable.requests


def test_a_signal_interrupts_the_look_at_the_fields_before_anything_is_sent(job, iterable):
    iterable.set_faults(Fault("gateway", status=503, endpoint="users/getFields"))
    assert job().returncode == 0
    forget_results(job)
    asked = len(iterable.requests)
    iterable.set_faults(Fault("hang", endpoint="users/getFields", seconds=20))
    process = job.start()
    wait_until(lambda: len(iterable.requests) > asked)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 143
    assert "Interrupted before anything was sent" in err
    assert job.results["run"]["exit_status"] == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_last_row_changes_nothing(job, iterable, number):
    # After the look at the start come one with the first row, and one after the last.
    iterable.set_faults(Fault("hang", endpoint="users/getFields", seconds=0.5, skip=1, times=2))
    process = job.start()
    wait_until(lambda: sum(r.path.endswith("getFields") for r in iterable.requests) == 3)
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.05)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert job.results["run"]["complete"] is True


def test_iterable_being_down_stops_early_and_another_run_does_the_rest(
    job, iterable, database, tmp_path
):
    add_pro_users(database, 200)
    iterable.set_faults(Fault("gateway", status=503))
    job.program = copy_program(tmp_path / "copy")
    scaled(job.program, "iterable_api/limiter.py", "OUTAGE_S", 2.0)
    scaled(job.program, "iterable_api/limiter.py", "LONGEST_PROBE_S", 0.5)
    done = job(ITERABLE_WORKERS="20")
    assert done.returncode == 4
    (last,) = done.stderr.splitlines()[-1:]
    assert re.search(r"Iterable seems to be down: no definite answer for [2-9] s", last)
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


def test_the_deadline_stops_the_run(job, iterable, database):
    add_pro_users(database, 100)
    iterable.change(latency_ms=100)
    done = job(MAX_RUNTIME_SECONDS="0.9", ITERABLE_WORKERS="2")
    assert done.returncode == 4
    assert "MAX_RUNTIME_SECONDS is over" in done.stderr
    summary = job.results["summary"]
    assert summary["successful"] + summary["not_attempted"] == 103
    assert summary["not_attempted"] > 50


def test_a_job_that_never_gets_to_its_end_moves_on_all_the_same(job, iterable, database):
    """Although the project cannot have a field that no row has had yet."""
    add_pro_users(database, 100)
    database.execute("UPDATE customers SET first_name = NULL")
    iterable.change(latency_ms=100)
    for unchanged in (False, True):
        done = job(MAX_RUNTIME_SECONDS="1.5", ITERABLE_WORKERS="2")
        assert done.returncode == 4
        assert (job.results["summary"]["unchanged"] > 0) is unchanged
        forget_results(job)


@pytest.mark.parametrize("limits", [{"MIN_ROWS": "4"}, {"MAX_ROWS": "2"}], ids=["min", "max"])
def test_a_row_count_that_cannot_be_right_sends_nothing(job, iterable, limits):
    done = job(**limits)
    assert done.returncode == 3
    (name,) = limits
    assert f"Query 2 found 3 rows and {name} is" in done.stderr
    assert outcomes(job) == ["not_attempted"] * 3
    assert not iterable.requests
    assert name in job.results["run"]["error"]


def test_limit_takes_the_first_rows_only(job, iterable):
    assert job("--limit", "2").returncode == 0
    assert len(iterable.users) == job.results["summary"]["total"] == 2
    assert job.results["run"]["limit"] == 2


def test_limit_moves_on_after_a_row_that_is_sent_once_more(job, iterable):
    iterable.set_faults(Fault("gateway", status=503, endpoint="users/getFields"))
    assert job("--limit", "1", RESULTS_KEEP="1").returncode == 0
    iterable.set_faults()
    for expected in (["successful"], ["successful", "unchanged"]):
        assert job("--limit", "1", RESULTS_KEEP="1").returncode == 0
        assert sorted(outcomes(job)) == expected
    assert sorted(event.received for event in iterable.events.values()) == [1, 2]


def test_limit_moves_on_to_the_next_rows_that_need_sending(job, iterable):
    for earlier in range(3):
        assert job("--limit", "1", RESULTS_KEEP="1").returncode == 0
        assert len(iterable.users) == len(iterable.events) == earlier + 1
        assert sorted(outcomes(job)) == ["successful", *["unchanged"] * earlier]


def test_a_dry_run_shows_every_payload_and_sends_nothing(job, iterable, database):
    add_pro_users(database, 10)
    done = job("--dry-run")
    assert done.returncode == 0
    assert not iterable.requests
    assert outcomes(job) == ["planned"] * 13
    row = job.results["results"][0]
    assert row["users_update"]["payload"]["email"] == row["email"]
    assert row["events_track"]["payload"]["id"] == row["events_track"]["event_id"]
    assert done.stdout.count("POST /api/users/update") == 3
    assert "POST" not in job.log
    assert job().stderr == ""
    assert len(iterable.events) == 13


def test_a_results_folder_that_fills_up_before_the_run_sends_nothing(job, iterable, database):
    add_pro_users(database, 3000)
    small = (1_500_000, 1_500_000)
    process = job.start(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, small))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2, err
    assert "RESULTS_DIR" in err
    assert "Traceback" not in err
    assert not writes(iterable)


def test_a_results_folder_that_goes_away_is_told_and_the_ledger_has_what_was_sent(
    job, iterable, database
):
    add_pro_users(database, 60)
    iterable.change(latency_ms=20)
    process = job.start(ITERABLE_WORKERS="3")
    wait_until(lambda: len(iterable.events) > 5)
    forget_results(job)
    (job.folder / "results").rmdir()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 4
    assert "The results could not be written" in err
    assert "STATE_FILE knows" in err
    done = job()
    assert done.returncode == 0
    assert "Unchanged, already in Iterable: 63." in done.stdout


def test_a_damaged_ledger_is_told_and_left_as_it_is(job, iterable):
    state = job.folder / "state" / "sync_state.sqlite3"
    state.parent.mkdir()
    state.write_text("not a ledger, but long enough to look at " * 30)
    before = state.read_bytes()
    done = job()
    assert done.returncode == 2
    assert "STATE_FILE" in done.stderr
    assert "move it away" in done.stderr
    assert state.read_bytes() == before
    assert not iterable.requests


def test_a_ledger_that_another_program_reads_is_waited_out_by_nobody(job):
    job()
    with sqlite3.connect(job.environ["STATE_FILE"]) as other:
        other.execute("BEGIN IMMEDIATE")
        assert job().returncode == 75
    other.close()


def test_quiet_prints_nothing_when_all_is_well_and_one_line_when_not(job, iterable):
    done = job("--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "Successful (both API calls): 3" in job.log
    iterable.set_faults(Fault("answer", endpoint="events/track", status=400, body=REFUSED, times=1))
    done = job("--quiet", "--all")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("main.py: exit status 1: 1 of 3 rows was not delivered, the first is ")


def test_quiet_also_covers_settings_that_cannot_be_used(tmp_path):
    done = Job({}, tmp_path, copy_program(tmp_path / "copy"))("--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "DB_HOST is missing" in line


def test_an_env_file_that_others_may_read_is_warned_about(job, tmp_path):
    env_file = tmp_path / "job.env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in job.environ.items()))
    env_file.chmod(0o644)
    job.environ = {}
    done = job("--env-file", str(env_file))
    assert done.returncode == 0
    assert f"{env_file} holds secrets and others may read it" in done.stderr


def test_a_log_that_fails_half_way_is_told_once_and_the_run_goes_on(job):
    done = job(LOG_FILE="/dev/full")
    assert done.returncode == 0
    assert done.stderr.count("LOG_FILE is missing lines") == 1
    assert "Traceback" not in done.stderr
    assert "Successful (both API calls): 3" in done.stdout


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


@pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per-user", "bulk"])
def test_a_run_goes_out_by_a_proxy_under_a_private_authority(job, iterable, way_out, mode):
    heartbeat = job.environ["ITERABLE_API_BASE_URL"] + "/secret-check"
    done = job(*mode, HEARTBEAT_URL=heartbeat)
    assert done.returncode == 0
    assert job.results["summary"]["successful"] == len(iterable.events) == 3
    seen = b"".join(way_out.heads + way_out.relayed)
    assert way_out.heads
    assert not any(each in seen for each in (API_KEY.encode(), b"secret-check", b"@email.com"))
    assert "sEcReT" not in done.stdout + done.stderr + job.log


@pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per-user", "bulk"])
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


def test_the_monitors_are_told(job, tmp_path):
    metrics = tmp_path / "metrics" / "iterable.prom"
    metrics.parent.mkdir()
    assert job(METRICS_FILE=str(metrics)).returncode == 0
    assert "iterable_sync_" in metrics.read_text()


def test_a_monitor_that_cannot_be_reached_changes_nothing(job):
    url = "http://127.0.0.1:9/secret-check"
    done = job(HEARTBEAT_URL=url, METRICS_FILE="/dev/null/iterable.prom")
    assert done.returncode == 0
    assert "HEARTBEAT_URL" in done.stderr
    assert "METRICS_FILE" in done.stderr
    assert "secret-check" not in done.stderr + job.log


def test_percentiles_and_answers_are_recorded_by_endpoint(job, iterable):
    iterable.set_faults(Fault("server_error", endpoint="users/update", times=1))
    job()
    endpoints = job.results["summary"]["endpoints"]
    assert endpoints["users/update"]["answers"] == {"200": 3, "500": 1}
    assert endpoints["events/track"]["requests"] == 3
    latency = endpoints["events/track"]["latency_seconds"]
    assert 0 <= latency["p50"] <= latency["p95"] <= latency["max"] < 10


def test_the_report_is_written_from_the_results_without_any_other_setting(job):
    job()
    done = Job({}, job.folder)("--report", RESULTS_DIR=job.environ["RESULTS_DIR"])
    assert (done.returncode, done.stderr) == (0, "")
    page = job.folder / "results" / "report.html"
    assert f"Report written to {page}" in done.stdout
    assert "users/update" in page.read_text()


def test_a_report_of_nothing_says_so(tmp_path):
    done = Job({}, tmp_path)("--report", RESULTS_DIR=str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr


def with_open_files(soft, hard):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_few_open_files_make_fewer_workers_and_no_retries(job, iterable, database):
    add_pro_users(database, 250)
    iterable.change(latency_ms=500)
    process = job.start(before=with_open_files(128, 128))
    _, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (0, "")
    summary = job.results["summary"]
    assert (summary["successful"], summary["retries"]) == (253, 0)
    answers = [endpoint["answers"] for endpoint in summary["endpoints"].values()]
    assert answers == [{"200": 253}] * 2


def test_a_low_soft_limit_of_open_files_is_no_hindrance(job):
    process = job.start(before=with_open_files(64, 1024))
    _, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (0, "")


def test_in_bulk_few_open_files_are_enough(job):
    process = job.start("--bulk", before=with_open_files(128, 128))
    _, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (0, "")


def test_what_is_there_already_becomes_its_owners_alone(job):
    job()
    kept = [job.folder / "logs" / "job.log", job.folder / "state" / "sync_state.sqlite3"]
    for path in kept:
        path.chmod(0o644)
    assert job().returncode == 0
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


def test_pipes_in_the_places_of_files_hang_no_run(job, tmp_path):
    results = job.folder / "results"
    results.mkdir()
    metrics = tmp_path / "metrics.prom"
    for pipe in (results / ".integration_results_20260101_000000.partial", metrics):
        os.mkfifo(pipe)
        os.utime(pipe, (0, 0))
    done = job(METRICS_FILE=str(metrics))
    assert (done.returncode, done.stderr) == (0, "")
    assert "iterable_sync_" in metrics.read_text()


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
