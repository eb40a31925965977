"""What Iterable says, and what the ledger claims: the right verdict on each row, in both modes."""

import contextlib
import signal
import socket
import time
from collections import Counter

import pytest
import requests

from iterable_api.endpoints import UPDATE_USER
from iterable_api.mapping import OWN_FIELDS
from sandbox.faults import Fault
from tests.chaos.world import SCALED, rows_of
from tests.test_main import USERS, add_pro_users, copy_program, scaled, writes
from tests.test_main import job as job  # noqa: PLC0414 - a fixture
from tests.test_safety import forget_results, wait_until

pytestmark = [pytest.mark.database, pytest.mark.program]

both_modes = pytest.mark.parametrize("mode", [[], ["--bulk"]], ids=["per-user", "bulk"])
USER_PATHS = {"/api/users/update", "/api/users/bulkUpdate"}
FORBIDDEN = '{"code": "Forbidden", "msg": "no"}'
SUCCESS = '{"code":"Success","msg":""}'
NO_ROWS = '{"successCount":0,"failCount":0}'
CLOSE = {"Connection": "close"}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """Copy the program once; it takes the first silence for an outage."""
    program = copy_program(tmp_path_factory.mktemp("impatient") / "copy")
    return scaled(program, "iterable_api/limiter.py", "OUTAGE_S", 0.0)


@pytest.fixture
def quick(job, iterable):
    """Return the job without waits, towards an Iterable with higher limits."""
    iterable.change(limit_scale=100)
    for each in SCALED:
        job.scale(*each)
    job.environ |= {"ITERABLE_TIMEOUT_SECONDS": "2"}
    return job


def results(job):
    """Return the rows of the one results file by address, and take the file away."""
    rows = {row["email"]: row for row in job.results["results"]}
    forget_results(job)
    return rows


def calls(job):
    """Return by customer what came of the two calls, and take the file away."""
    found = {
        row["customer_id"]: (row["users_update"]["status"], row["events_track"]["status"])
        for row in job.results["results"]
    }
    forget_results(job)
    return found


def outcomes(rows):
    return Counter(row["outcome"] for row in rows.values())


def sent_to(iterable, path):
    return [request for request in writes(iterable) if request.path.endswith(path)]


def last_line(done):
    return done.stderr.splitlines()[-1]


def nothing_more_to_send(job, iterable, mode):
    """Return whether another run over the same data sends nothing, and says so."""
    forget_results(job)
    before = len(writes(iterable))
    done = job(*mode)
    rows = results(job)
    unchanged = outcomes(rows) == {"unchanged": len(rows)}
    return (done.returncode, len(writes(iterable)) - before, unchanged) == (0, 0, True)


def set_type(iterable, job, **fields):
    """Let the project have *fields* with the types of these values."""
    requests.post(
        f"{iterable.url}/api/users/update",
        json={"email": "first@example.com", "dataFields": fields},
        headers={"Api-Key": job.environ["ITERABLE_API_KEY"]},
        timeout=5,
    ).raise_for_status()


def create_profile_fields(iterable, job):
    """Create the job's profile fields in the project, as its operator does."""
    own = {own.name: own.value or "a" for own in OWN_FIELDS if own.call == UPDATE_USER}
    set_type(iterable, job, **own)


def allow_repeats(database):
    database.execute("ALTER TABLE customers DROP INDEX ux_customers_email")


# --- A. Verdicts ----------------------------------------------------------------------------------


@both_modes
def test_an_event_that_is_not_accounted_for_is_sent_again_without_its_user(quick, iterable, mode):
    bulk = [Fault("answer", endpoint="events/trackBulk", body=NO_ROWS)] if mode else []
    iterable.set_faults(*bulk, Fault("answer", endpoint="events/track", body="{}"))
    assert quick(*mode, ITERABLE_MAX_ATTEMPTS="1").returncode in {1, 4}
    assert set(calls(quick).values()) == {("delivered", "unknown")}
    iterable.set_faults()
    assert quick(*mode).returncode == 0
    assert set(calls(quick).values()) == {("unchanged", "delivered")}


@both_modes
def test_an_event_that_the_project_blocks_is_told_as_the_reason(quick, iterable, mode):
    iterable.disallow("page_view")
    done = quick(*mode)
    assert done.returncode == 4
    assert "the project blocks events with this name" in last_line(done)
    assert set(calls(quick).values()) == {("delivered", "unavailable")}


@both_modes
def test_a_run_whose_every_row_is_of_a_wrong_type_stops_and_names_the_field(
    quick, iterable, database, mode
):
    add_pro_users(database, 300)
    set_type(iterable, quick, plan_type=7)
    done = quick(*mode, ITERABLE_WORKERS="5")
    assert done.returncode == 4
    assert "'plan_type' has the type long" in last_line(done)
    assert len(writes(iterable)) < 100
    assert outcomes(results(quick))["not_attempted"] > 200


def refused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("mode", "fault", "words"),
    [
        (["--bulk"], Fault("gateway", status=503), "answered 503"),
        ([], Fault("reset_before"), "connection reset by peer"),
        (["--bulk"], Fault("hang"), "no answer within 0.2 s"),
        ([], Fault("gateway", status=404), "answered 404, but not by Iterable"),
    ],
    ids=["503", "reset", "hang", "404"],
)
def test_the_last_line_says_why_there_is_no_answer(job, iterable, impatient, mode, fault, words):
    job.program = impatient
    iterable.set_faults(fault)
    done = job(*mode, ITERABLE_MAX_ATTEMPTS="2", ITERABLE_TIMEOUT_SECONDS="0.2")
    assert done.returncode == 4
    assert words in last_line(done)


@pytest.mark.parametrize("cause", ["refused", "DNS", "TLS"])
def test_the_last_line_says_why_there_is_no_connection(job, impatient, cause, tls_server):
    job.program = impatient
    urls = {"refused": refused_port(), "DNS": "https://no-such-host.invalid", "TLS": tls_server.url}
    words = {"refused": "connection refused", "DNS": "DNS ", "TLS": "TLS failed: "}
    done = job(ITERABLE_MAX_ATTEMPTS="1", ITERABLE_WORKERS="1", ITERABLE_API_BASE_URL=urls[cause])
    assert done.returncode == 4
    assert words[cause] in last_line(done)
    assert set(calls(job).values()) <= {("unavailable", "not_sent"), ("not_sent", "not_sent")}
    assert not tls_server.received
    if cause != "TLS":
        # So that the server of this test need not be waited for.
        with contextlib.suppress(OSError):
            socket.create_connection(tls_server.url.rpartition("/")[2].split(":"), 1).close()


@pytest.mark.parametrize(
    ("mode", "variant", "words"),
    [
        ([], "bad_key", "Iterable refused the API key"),
        (["--bulk"], "code_success", "Iterable refused the API key"),
        (["--bulk"], "no_permission", "disabled, or lacks the permission"),
        ([], "bad_jwt", "JWT"),
        (["--bulk"], "bad_jwt", "JWT"),
    ],
)
def test_the_last_line_says_what_is_wrong_with_the_key(job, iterable, mode, variant, words):
    iterable.set_faults(Fault("unauthorized", variant=variant))
    done = job(*mode)
    assert done.returncode == 4
    assert words in last_line(done)
    assert set(calls(job).values()) <= {("unavailable", "not_sent"), ("not_sent", "not_sent")}


def test_one_users_token_is_not_the_key_of_the_run(job, iterable):
    iterable.set_faults(Fault("unauthorized", variant="bad_jwt", email=USERS[0]))
    assert job().returncode == 1
    assert outcomes(results(job)) == {"successful": 2, "total_failure": 1}


# Each may come once. What is more than 1 MB is not read.
PASSING = [
    Fault("gateway", status=status, times=1) for status in (400, 403, 404, 407, 502, 503)
] + [
    Fault("answer", status=408, headers=CLOSE, times=1),
    Fault("answer", status=408, headers=CLOSE, times=1, applied=True),
    Fault("answer", status=425, times=1),
    Fault("rate_limited", times=1, body="slow down"),
]
SHAPES = [
    Fault("answer", body=body, times=1)
    for body in (
        *("", "null", "[]", "7", '"Success"', "[" * 100_000, '{"a":' * 3000, "{}", '{"code":7}'),
        '{"successCount":"3","failCount":null}',
        '{"successCount":true,"failCount":false}',
        '{"successCount":-3,"failCount":6}',
        '{"successCount":3,"failedUpdates":[]}',
        f"\ufeff{SUCCESS}",
    )
]
UNREADABLE = [
    Fault("answer", body=SUCCESS, size=9_000_000, times=1),
    Fault("answer", body=SUCCESS, times=1, headers={"Content-Encoding": "gzip"}),
    Fault("answer", body=SUCCESS, times=1, headers={"Content-Encoding": "br"}),
    Fault("truncated", times=1),
    Fault("hang", seconds=0.1, times=1),
]


@both_modes
@pytest.mark.parametrize(
    "faults", [PASSING, SHAPES, UNREADABLE], ids=["passing", "shapes", "unreadable"]
)
def test_what_is_no_verdict_is_repeated_and_nobody_pays_for_it(quick, iterable, mode, faults):
    iterable.set_faults(*faults)
    done = quick(*mode, ITERABLE_MAX_ATTEMPTS="20", ITERABLE_WORKERS="1")
    assert done.returncode == 0, done.stderr
    assert iterable.stats["faults"] == Counter(fault.kind for fault in faults)
    assert set(calls(quick).values()) == {("delivered", "delivered")}
    assert len(iterable.events) == 3


@both_modes
def test_events_of_users_who_are_not_visible_yet_arrive_in_the_same_run(quick, iterable, mode):
    iterable.change(lag_s=0.3, track_needs_user=True)
    done = quick(*mode)
    assert (done.returncode, done.stderr) == (0, "")
    assert "does not find all new users yet" in done.stdout
    assert set(calls(quick).values()) == {("delivered", "delivered")}
    assert len(iterable.events) == 3
    assert nothing_more_to_send(quick, iterable, mode)


@both_modes
def test_a_forgotten_person_is_told_beside_other_failures_and_asked_for_again(
    quick, iterable, mode
):
    iterable.forget(USERS[0])
    assert quick(*mode).returncode == 0
    forget_results(quick)
    done = quick(*mode)
    assert done.returncode == 0
    assert outcomes(results(quick)) == {"forgotten": 1, "unchanged": 2}
    (*_, last) = writes(iterable)
    assert [row["email"] for row in rows_of(last)] == USERS[:1]


# --- B. Memory ------------------------------------------------------------------------------------


@both_modes
def test_of_two_rows_with_one_address_the_first_one_is_the_profile(quick, iterable, database, mode):
    allow_repeats(database)
    add_pro_users(database, 40)
    # In Query 2's order Mia's row comes after Sarah's, and before those of the others.
    database.execute(
        "UPDATE customers SET email = UPPER(%s) WHERE email = %s", (USERS[0], USERS[2])
    )
    database.execute("UPDATE customers SET email = %s WHERE id IN (110, 120)", (USERS[0],))
    (name,) = next(
        iter(
            database.execute(
                "SELECT first_name FROM customers WHERE email = %s AND id < 3", USERS[:1]
            )
        )
    )
    done = quick(*mode, ITERABLE_WORKERS="20", BULK_BATCH_SIZE="5")
    assert done.returncode == 0
    assert done.stderr.count("3 rows repeat an earlier row's address") == 1
    assert iterable.users[USERS[0]].data_fields["first_name"] == name
    assert iterable.users[USERS[0]].updates == 1
    assert len(iterable.users) == 40
    assert len(iterable.events) == 43
    assert Counter(calls(quick).values()) == {
        ("delivered", "delivered"): 40,
        ("superseded", "delivered"): 3,
    }
    assert nothing_more_to_send(quick, iterable, mode)


@both_modes
def test_the_first_row_stays_the_profile_while_its_event_waits_for_the_user(
    quick, iterable, database, mode
):
    allow_repeats(database)
    iterable.change(lag_s=0.3, track_needs_user=True)
    database.execute("UPDATE customers SET email = %s WHERE email = %s", tuple(USERS[:2]))
    assert quick(*mode).returncode == 0
    assert iterable.users[USERS[0]].updates == 1
    assert Counter(calls(quick).values()) == {
        ("delivered", "delivered"): 2,
        ("superseded", "delivered"): 1,
    }


# --- What is not sure to be there -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["no answer", "killed"])
def test_what_is_not_sure_counts_as_held_and_is_sent_once_more_when_the_fields_are_there(
    quick, iterable, how
):
    iterable.change(create_new_fields=False)
    if how == "killed":
        iterable.set_faults(Fault("hang", endpoint="users/getFields", skip=1))
        process = quick.start(ITERABLE_TIMEOUT_SECONDS="20")
        wait_until(lambda: len(iterable.events) == 3)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    else:
        iterable.set_faults(Fault("gateway", status=503, endpoint="users/getFields"))
        assert quick().returncode == 0
    iterable.set_faults()
    for _ in range(2):
        forget_results(quick)
        done = quick()
        assert done.returncode == 0
        assert outcomes(results(quick)) == {"unchanged": 3}
        assert done.stderr.count("Some rows count as delivered, perhaps without these fields") == 1
    iterable.change(create_new_fields=True)
    create_profile_fields(iterable, quick)
    assert quick().returncode == 0
    assert outcomes(results(quick)) == {"successful": 3}
    assert "plan_type" in iterable.users[USERS[0]].data_fields
    assert all("page" in event.data_fields for event in iterable.events.values())
    assert nothing_more_to_send(quick, iterable, [])


def test_a_key_that_may_not_read_starts_no_journeys_every_night(quick, iterable):
    refusal = '{"code":"BadApiKey","msg":"insufficient privileges","params":{"apiKeyType":"x"}}'
    iterable.set_faults(Fault("answer", status=401, endpoint="users/getFields", body=refusal))
    assert quick().returncode == 0
    for arguments in ([], ["--dry-run"], []):
        forget_results(quick)
        before = len(writes(iterable))
        done = quick(*arguments)
        assert (done.returncode, len(writes(iterable))) == (0, before)
        assert outcomes(results(quick)) == {"unchanged": 3}
        if not arguments:
            assert done.stderr.count("perhaps without these fields") == 1
            assert "--check" in done.stderr


@both_modes
def test_a_project_that_takes_no_new_fields_gets_nothing_twice(quick, iterable, database, mode):
    iterable.change(create_new_fields=False)
    assert quick(*mode).returncode == 0
    forget_results(quick)
    database.execute("UPDATE customers SET first_name = 'Sally' WHERE id = 1")
    before = len(writes(iterable))
    done = quick(*mode)
    assert (done.returncode, len(writes(iterable)) - before) == (0, 1)
    assert "Iterable left" in done.stderr
    forget_results(quick)
    assert quick(*mode).returncode == 0
    assert len(writes(iterable)) - before == 1


def test_a_first_run_that_is_stopped_sends_nothing_twice(quick, iterable, database):
    """What was delivered before the signal is sure: the fields were looked at meanwhile."""
    add_pro_users(database, 100)
    iterable.change(latency_ms=50)
    process = quick.start(ITERABLE_WORKERS="4")
    wait_until(lambda: len(iterable.events) > 40)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    forget_results(quick)
    assert quick().returncode == 0
    again = sum(event.received > 1 for event in iterable.events.values())
    assert again == 0
    assert len(iterable.events) == 103


# --- Rows that a batch leaves open ----------------------------------------------------------------


def test_a_thousand_rows_with_bad_values_among_them_cost_seconds(quick, iterable, database):
    """Each bad one has its own code and field; the good ones are delivered."""
    iterable.change(limit_scale=10, latency_ms=30)
    add_pro_users(database, 997)
    set_type(iterable, quick, first_name="2026-01-01")
    database.execute("UPDATE customers SET first_name = '2026-02-02'")
    database.execute("UPDATE customers SET first_name = 'Ann' WHERE id >= 100 AND id % 22 = 3")
    (bad,) = database.execute("SELECT COUNT(*) FROM customers WHERE first_name = 'Ann'")[0]
    assert quick("--bulk").returncode == 1
    seconds = quick.results["run"]["sending_seconds"]
    rows = results(quick)
    assert outcomes(rows) == {"successful": 1000 - bad, "total_failure": bad}
    refused = [row["users_update"] for row in rows.values() if row["outcome"] == "total_failure"]
    assert {(call["code"], *call["fields"].items()) for call in refused} == {
        ("RequestFieldsTypesMismatched", ("first_name", "date"))
    }
    assert len(sent_to(iterable, "users/bulkUpdate")) == 1
    assert seconds < 10


def test_one_row_at_which_iterable_fails_costs_its_batch_seconds_and_no_row(
    quick, iterable, database
):
    iterable.change(limit_scale=10)
    add_pro_users(database, 2997)
    iterable.set_faults(Fault("server_error", email=USERS[0]))
    assert quick("--bulk").returncode == 1
    seconds = quick.results["run"]["sending_seconds"]
    rows = results(quick)
    assert outcomes(rows) == {"successful": 2999, "total_failure": 1}
    assert rows[USERS[0]]["users_update"]["status"] == "unavailable"
    # Its batch of a thousand was tried twice, the others once.
    assert len(sent_to(iterable, "users/bulkUpdate")) == 4
    assert seconds < 15


def test_a_signal_ends_single_calls_as_it_ends_others(quick, iterable, database):
    add_pro_users(database, 497)
    set_type(iterable, quick, first_name="2026-01-01")
    database.execute("UPDATE customers SET first_name = '2026-02-02'")
    database.execute("UPDATE customers SET first_name = 'Ann' WHERE id = 100")
    iterable.change(limit_scale=1, latency_ms=20)
    process = quick.start("--bulk")
    wait_until(lambda: len(iterable.events) > 40)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    rows = results(quick)
    assert len(rows) == 500
    assert outcomes(rows)["successful"] == len(iterable.events)
    assert outcomes(rows)["not_attempted"] > 100


def test_a_bulk_run_with_single_calls_looks_at_the_projects_fields_at_its_end(quick, iterable):
    """Which of them were left out, the answers to single calls do not tell."""
    iterable.change(create_new_fields=False)
    iterable.set_faults(Fault("server_error", endpoint="users/bulkUpdate"))
    done = quick("--bulk")
    assert done.returncode == 0
    assert "plan_type" in quick.results["summary"]["filtered_fields"]["users_update"]
    forget_results(quick)
    iterable.set_faults()
    iterable.change(create_new_fields=True)
    create_profile_fields(iterable, quick)
    # What was left out is sent once more, when the fields are there.
    assert quick("--bulk").returncode == 0
    assert "plan_type" in iterable.users[USERS[0]].data_fields
