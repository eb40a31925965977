"""What Iterable says, and what the ledger claims: the right verdict on each row, in both modes."""

import shutil
import signal
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
import requests

from iterable_api.endpoints import UPDATE_USER
from iterable_api.mapping import OWN_FIELDS
from sandbox.faults import Fault
from tests.chaos.world import SCALED
from tests.test_main import USERS, add_pro_users, both_modes, writes
from tests.test_main import job as job  # noqa: PLC0414 - a fixture
from tests.test_safety import forget_results, wait_until

pytestmark = [pytest.mark.database, pytest.mark.program]


@pytest.fixture
def quick(job, iterable):
    """Return the job without waits, towards an Iterable with higher limits."""
    iterable.change(limit_scale=100)
    for each in SCALED:
        job.scale(*each)
    job.environ |= {"ITERABLE_TIMEOUT_SECONDS": "2"}
    return job


def outcomes(job):
    """Return how many rows ended how, and take the results file away."""
    found = Counter(job.outcomes.values())
    forget_results(job)
    return found


def calls(job):
    """Return by customer what came of the two calls, and take the file away."""
    found = {
        row["customer_id"]: (row["users_update"]["status"], row["events_track"]["status"])
        for row in job.results["results"]
    }
    forget_results(job)
    return found


def nothing_more_to_send(job, iterable, mode):
    """Return whether another run over the same data sends nothing, and says so."""
    forget_results(job)
    before = len(writes(iterable))
    done = job(*mode)
    sent = len(writes(iterable)) - before
    return (done.returncode, sent, outcomes(job).keys()) == (0, 0, {"unchanged"})


def set_type(iterable, job, **fields):
    """Let the project have *fields* with the types of these values."""
    requests.post(
        f"{iterable.url}/api/users/update",
        json={"email": "first@example.com", "dataFields": fields},
        headers={"Api-Key": job.environ["ITERABLE_API_KEY"]},
        timeout=5,
    ).raise_for_status()


def calls_in_ledger(job):
    """Return how many a copy of the ledger has, which the run keeps to itself; 0 if it is torn."""
    path = Path(job.environ["STATE_FILE"])
    with suppress(OSError, sqlite3.Error):
        copied = shutil.copytree(path.parent, job.folder / "copy", dirs_exist_ok=True)
        with closing(sqlite3.connect(copied / path.name)) as ledger:
            return ledger.execute("SELECT COUNT(*) FROM entry").fetchone()[0]
    return 0


@both_modes
def test_an_event_that_is_not_accounted_for_is_sent_again_without_its_user(quick, iterable, mode):
    none = '{"successCount":0,"failCount":0}'
    bulk = [Fault("answer", endpoint="events/trackBulk", body=none)] if mode else []
    iterable.set_faults(*bulk, Fault("answer", endpoint="events/track", body="{}"))
    assert quick(*mode, ITERABLE_MAX_ATTEMPTS="1").returncode in {1, 4}
    assert set(calls(quick).values()) == {("delivered", "unknown")}
    iterable.set_faults()
    assert quick(*mode).returncode == 0
    assert set(calls(quick).values()) == {("unchanged", "delivered")}


@both_modes
def test_events_of_users_who_are_not_visible_yet_arrive_in_the_same_run(quick, iterable, mode):
    iterable.change(lag_s=0.3, track_needs_user=True)
    done = quick(*mode)
    assert (done.returncode, done.stderr) == (0, "")
    assert "does not find all new users yet" in done.stdout
    assert set(calls(quick).values()) == {("delivered", "delivered")}
    assert len(iterable.events) == 3
    assert nothing_more_to_send(quick, iterable, mode)


def test_what_a_killed_run_left_not_sure_is_held_and_sent_once_more_when_the_fields_are_there(
    quick, iterable
):
    iterable.change(create_new_fields=False)
    iterable.set_faults(Fault("hang", endpoint="users/getFields", skip=1))
    process = quick.start(ITERABLE_TIMEOUT_SECONDS="60")
    wait_until(lambda: len(iterable.events) == 3 and calls_in_ledger(quick) == 6)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    iterable.set_faults()
    for _ in range(2):
        forget_results(quick)
        done = quick()
        assert done.returncode == 0
        assert outcomes(quick) == {"unchanged": 3}
        assert done.stderr.count("Some rows count as delivered, perhaps without these fields") == 1
    iterable.change(create_new_fields=True)
    # As the project's operator does.
    own = {own.name: own.value or "a" for own in OWN_FIELDS if own.call == UPDATE_USER}
    set_type(iterable, quick, **own)
    assert quick().returncode == 0
    assert outcomes(quick) == {"successful": 3}
    assert "plan_type" in iterable.users[USERS[0]].data_fields
    assert all("page" in event.data_fields for event in iterable.events.values())
    assert nothing_more_to_send(quick, iterable, [])


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
