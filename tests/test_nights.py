"""Night after night: only what is new goes out, and a night without trouble says nothing."""

import pytest

from db_connection import JOB_QUERY, load_query
from tests.rows import PROFILE_FIELDS
from tests.test_main import add_pro_users, both_modes, writes
from tests.test_main import job as job  # noqa: PLC0414 - a fixture
from tests.test_safety import forget_results
from tests.test_verdicts import set_type

pytestmark = pytest.mark.program

FIELDS = sorted(PROFILE_FIELDS)


def night(job, *args, **environ):
    """Run the job and return what became of it, its run and its summary."""
    forget_results(job)
    done = job(*args, **environ)
    return done, job.results["run"], job.results["summary"]


@both_modes
def test_a_night_sends_call_by_call_what_iterable_does_not_hold(job, iterable, database, mode):
    sent = []
    new_view = "INSERT INTO page_views (user_id, page, event_time) VALUES (5, 'pricing', NOW())"
    changes = (
        "UPDATE customers SET plan_type = 'pro' WHERE id = 1",
        "UPDATE customers SET first_name = 'Sally' WHERE id = 1",
        new_view,
    )
    for change in changes:
        database.execute(change)
        before = len(writes(iterable))
        done, run, _ = night(job, *mode)
        assert (done.returncode, run["all"]) == (0, False)
        sent.append(len(writes(iterable)) - before)
        assert all(event.user_existed for event in iterable.events.values())
        calls = {
            row["customer_id"]: (row["users_update"]["status"], row["events_track"]["status"])
            for row in job.results["results"]
        }
        if change == changes[1]:
            assert calls.pop(1) == ("delivered", "unchanged")
    assert sent == [2 if mode else 6, 1, 1]
    assert calls.pop(5) == ("unchanged", "delivered")
    assert set(calls.values()) == {("unchanged", "unchanged")}
    assert "Unchanged since an earlier run, not sent: 2 (--all sends them)" in done.stdout


@both_modes
def test_all_sends_everything_and_says_so_in_the_results(job, iterable, mode):
    night(job, *mode)
    done, run, summary = night(job, "--all", *mode)
    assert (done.returncode, run["all"]) == (0, True)
    assert (summary["successful"], summary["unchanged"]) == (3, 0)
    assert {event.received for event in iterable.events.values()} == {2}
    assert "Unchanged" not in done.stdout


def test_a_limit_counts_rows_that_need_sending_and_with_all_any_rows(job, iterable, database):
    add_pro_users(database, 3)
    for expected in (2, 4, 6, 6):
        _, run, _ = night(job, "--limit", "2")
        assert (len(iterable.events), run["limit"]) == (expected, 2)
    _, _, summary = night(job, "--limit", "2", "--all")
    assert (summary["total"], summary["successful"]) == (2, 2)


def test_dead_addresses_within_the_limit_leave_a_night_successful(
    job, iterable, database, tmp_path
):
    job.environ["METRICS_FILE"] = str(metrics := tmp_path / "job.prom")
    dead = "UPDATE customers SET email = CONCAT('dead', id, '@nowhere') WHERE id IN (1, 5)"
    database.execute(dead)
    done, run, summary = night(job, MAX_REFUSED_ROWS="1")
    assert (done.returncode, run["tolerated"], summary["total_failures"]) == (1, 0, 2)
    never = f'last_success_timestamp_seconds{{sync="{job.environ["STATE_FILE"]}"}} 0.0'
    assert never in metrics.read_text()
    done, run, _ = night(job, MAX_REFUSED_ROWS="2")
    assert (done.returncode, run["exit_status"]) == (0, 0)
    assert (run["tolerated"], run["max_refused_rows"], run["error"]) == (2, 2, None)
    warning = "2 rows were refused and MAX_REFUSED_ROWS allows 2, so the run counts as successful."
    assert done.stderr.count(warning) == job.log.count(warning) == 1
    assert never not in metrics.read_text()


@both_modes
def test_bad_rows_stop_no_night_in_which_iterable_holds_the_others(job, iterable, database, mode):
    """The bad rows come first in Query 2, and nothing else of that night is sent."""
    add_pro_users(database, 60)
    database.execute("UPDATE page_views SET event_time = NOW() WHERE user_id >= 100")
    set_type(iterable, job, first_name="2026-01-01")
    database.execute("UPDATE customers SET first_name = '2026-02-02'")
    assert job(*mode).returncode == 0
    database.execute("UPDATE customers SET first_name = 'Ann' WHERE id >= 100")
    done, run, summary = night(job, *mode, BULK_BATCH_SIZE="10")
    assert (done.returncode, run["error"]) == (1, None)
    assert (summary["total_failures"], summary["unchanged"]) == (60, 3)
    assert night(job, *mode, MAX_REFUSED_ROWS="60")[0].returncode == 0


@both_modes
def test_fields_that_the_project_leaves_out_are_told_once_to_quiet_nights(job, iterable, mode):
    job.scale("delivery/project_fields.py", "PATIENCE_S", 0.0)
    iterable.change(create_new_fields=False)
    done, _, summary = night(job, *mode, "--quiet", "--all")
    assert summary["filtered_fields"]["users_update"] == FIELDS
    (line,) = done.stderr.splitlines()
    assert line.startswith("main.py: Iterable now ignores ")
    assert all(name in line for name in FIELDS)
    assert night(job, "--quiet", "--all", *mode)[0].stderr == ""
    set_type(iterable, job, candidate="yes")  # no field is made of it
    iterable.change(create_new_fields=True)
    for expected in ("main.py: Iterable now ignores no fields\n", ""):
        done, _, _ = night(job, "--quiet", "--all", *mode)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", expected)


ITEMS = "(SELECT 'a' AS item UNION ALL SELECT 'a' UNION ALL SELECT 'b') AS items"


@both_modes
def test_rows_of_one_event_do_not_overwrite_each_other(job, iterable, mode, tmp_path):
    names = ("customer_id", "email", "first_name", "plan_type", "page_view_id", "event_time")
    columns = ", ".join(f"q.{name}" for name in (*names, "browser", "location"))
    query = f"SELECT {columns}, item AS page FROM ({load_query(JOB_QUERY)}) AS q CROSS JOIN {ITEMS}"
    file = tmp_path / "orders.sql"
    file.write_text(f"{query} ORDER BY q.customer_id, item")
    for number in range(2):
        done, _, summary = night(job, *mode, QUERY_FILE=str(file))
        assert done.returncode == 1
        assert (summary["events_track"]["refused"], summary["events_track"]["superseded"]) == (3, 3)
        assert {event.data_fields["page"] for event in iterable.events.values()} == {"a"}
        assert [event.received for event in iterable.events.values()] == [1, 1, 1]
        assert sum(user.updates for user in iterable.users.values()) == 3
        assert summary["requests"] == (0 if number else summary["requests"])
    assert night(job, *mode, QUERY_FILE=str(file), MAX_REFUSED_ROWS="3")[0].returncode == 0


def test_a_key_is_rotated_without_a_second_delivery(job, iterable):
    iterable.change(api_key=None)
    assert night(job)[0].returncode == 0
    before = len(writes(iterable))
    named = {"ITERABLE_PROJECT": "shop"}
    for changes in (named, named | {"ITERABLE_API_KEY": "f" * 32}):
        done, _, summary = night(job, **changes)
        assert (done.returncode, done.stderr, summary["unchanged"]) == (0, "", 3)
    assert len(writes(iterable)) == before


def test_a_change_of_a_columns_type_alone_sends_nothing(job, iterable, database):
    assert night(job)[0].returncode == 0
    before = len(writes(iterable))
    database.execute("ALTER TABLE customers MODIFY first_name MEDIUMTEXT")
    database.execute("ALTER TABLE page_views MODIFY event_time DATETIME(6)")
    done, _, summary = night(job)
    assert (done.returncode, summary["unchanged"], len(writes(iterable))) == (0, 3, before)
