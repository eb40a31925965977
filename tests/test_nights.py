"""Night after night: only what is new goes out, and a night without trouble says nothing."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from records.query_file import JOB_QUERY, load_query
from sandbox.faults import Fault
from tests.rows import PROFILE_FIELDS
from tests.test_main import add_pro_users, copy_program, scaled, writes
from tests.test_main import job as job  # noqa: PLC0414 - a fixture
from tests.test_safety import forget_results
from tests.test_verdicts import both_modes, set_type

pytestmark = [pytest.mark.database, pytest.mark.program]

FIELDS = sorted(PROFILE_FIELDS)


def night(job, *args, **environ):
    """Run the job and return what became of it, its run and its summary."""
    forget_results(job)
    done = job(*args, **environ)
    return done, job.results["run"], job.results["summary"]


def last_success(path):
    """Return the time of the last success by the job's name."""
    (family,) = [
        family
        for family in text_string_to_metric_families(path.read_text())
        if family.name == "iterable_sync_last_success_timestamp_seconds"
    ]
    return {sample.labels["sync"]: sample.value for sample in family.samples}


def make_dead(database, *customers):
    """Give *customers* addresses that Iterable refuses."""
    for customer in customers:
        sql = "UPDATE customers SET email = CONCAT('dead', id, '@nowhere') WHERE id = %s"
        database.execute(sql, (customer,))


def make_mistyped(job, iterable, database, first, last):
    """Give *first* to *last* a first name that is no date, although the project has dates there."""
    set_type(iterable, job, first_name="2026-01-01")
    database.execute("UPDATE customers SET first_name = '2026-02-02'")
    assert job(*job.mode).returncode == 0
    database.execute(
        "UPDATE customers SET first_name = 'Ann' WHERE id BETWEEN %s AND %s", (first, last)
    )


@both_modes
def test_three_nights_with_one_changed_name_are_seven_writes(job, iterable, database, mode):
    users, events = [], []
    for name in ("Sarah", "Sarah", "Sally"):
        database.execute("UPDATE customers SET first_name = %s WHERE id = 1", (name,))
        done, run, _ = night(job, *mode)
        assert (done.returncode, run["all"]) == (0, False)
        users.append(sum(user.updates for user in iterable.users.values()))
        events.append(sum(event.received for event in iterable.events.values()))
    assert (users, events) == ([3, 3, 4], [3, 3, 3])
    assert "Unchanged, already in Iterable: 2. --all would send them again" in done.stdout


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
        night(job, "--limit", "2")
        assert len(iterable.events) == expected
    _, _, summary = night(job, "--limit", "2", "--all")
    assert (summary["total"], summary["successful"]) == (2, 2)


@both_modes
def test_dead_addresses_within_the_limit_leave_a_night_successful(
    job, iterable, database, mode, tmp_path
):
    metrics = tmp_path / "job.prom"
    job.environ["METRICS_FILE"] = str(metrics)
    add_pro_users(database, 2)
    make_dead(database, 100, 101)
    done, run, summary = night(job, *mode)
    assert (done.returncode, run["tolerated"]) == (1, 0)
    assert set(last_success(metrics).values()) == {0}
    assert summary["total_failures"] == 2

    done, run, _ = night(job, *mode, MAX_REFUSED_ROWS="1")
    assert (done.returncode, run["tolerated"]) == (1, 0)

    done, run, _ = night(job, *mode, MAX_REFUSED_ROWS="2")
    assert (done.returncode, run["exit_status"]) == (0, 0)
    assert (run["tolerated"], run["max_refused_rows"], run["error"]) == (2, 2, None)
    warning = "2 rows were refused and MAX_REFUSED_ROWS allows 2, so the run is a success."
    assert done.stderr.count(warning) == job.log.count(warning) == 1
    assert last_success(metrics)[job.environ["STATE_FILE"]] > 0
    quiet = job("--quiet", *mode, MAX_REFUSED_ROWS="2")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


@both_modes
def test_a_row_that_was_not_refused_for_itself_is_never_tolerated(job, iterable, mode):
    paths = ["users/update", *(["users/bulkUpdate"] if mode else [])]
    iterable.set_faults(*(Fault("gateway", status=503, endpoint=path, times=3) for path in paths))
    done, run, _ = night(job, *mode, MAX_REFUSED_ROWS="100", ITERABLE_MAX_ATTEMPTS="1")
    assert (done.returncode, run["tolerated"]) == (1, 0)


@both_modes
def test_a_run_that_is_stopped_for_its_refusals_is_not_tolerated(job, iterable, database, mode):
    set_type(iterable, job, first_name="2026-01-01")
    add_pro_users(database, 60)
    done, run, _ = night(job, *mode, MAX_REFUSED_ROWS="1000")
    assert (done.returncode, run["tolerated"]) == (4, 0)


@both_modes
@pytest.mark.parametrize(("first", "last"), [(100, 103), (100, 159)], ids=["few", "many"])
def test_bad_rows_stop_no_night_in_which_iterable_holds_the_others(
    job, iterable, database, mode, first, last
):
    """The bad rows come first in Query 2, and nothing else of that night is sent."""
    job.mode = mode
    add_pro_users(database, 60)
    database.execute("UPDATE page_views SET event_time = NOW() WHERE user_id >= 100")
    make_mistyped(job, iterable, database, first, last)
    done, run, summary = night(job, *mode, BULK_BATCH_SIZE="10")
    assert (done.returncode, run["error"]) == (1, None)
    assert summary["total_failures"] == last - first + 1
    assert summary["unchanged"] == 63 - summary["total_failures"]
    assert night(job, *mode, MAX_REFUSED_ROWS="60")[0].returncode == 0


def test_quiet_names_the_row_and_not_a_later_warning(job, iterable, database):
    make_dead(database, 1)
    done, _, _ = night(job, "--quiet", HEARTBEAT_URL="http://127.0.0.1:9/secret-check")
    (line,) = done.stderr.splitlines()
    assert line == (
        "main.py: exit status 1: 1 of 3 rows was not delivered, the first is customer 1: "
        "users/update refused (client error 400 InvalidEmailAddressError)"
    )


@both_modes
def test_quiet_tells_once_which_fields_the_project_leaves_out(job, iterable, tmp_path, mode):
    job.program = scaled(
        copy_program(tmp_path / "copy"), "delivery/project_fields.py", "PATIENCE_S", 0.0
    )
    iterable.change(create_new_fields=False, limits=False)
    done, _, summary = night(job, "--quiet", "--all", *mode)
    assert summary["filtered_fields"]["users_update"] == FIELDS
    (line,) = done.stderr.splitlines()
    assert line.startswith("main.py: Iterable now leaves out ")
    assert all(name in line for name in FIELDS)
    assert night(job, "--quiet", "--all", *mode)[0].stderr == ""
    set_type(iterable, job, candidate="yes")  # no field is made of it
    iterable.change(create_new_fields=True)
    (line,) = night(job, "--quiet", "--all", *mode)[0].stderr.splitlines()
    assert line == "main.py: Iterable now leaves out no fields"
    done, _, _ = night(job, "--quiet", "--all", *mode)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_two_jobs_have_metrics_that_do_not_collide(job, tmp_path):
    names: dict[str, float] = {}
    for name in ("one", "two"):
        files = {"STATE_FILE": f"{name}.sqlite3", "METRICS_FILE": f"{name}.prom"}
        files = {variable: str(tmp_path / file) for variable, file in files.items()}
        night(job, **files)
        names |= last_success(tmp_path / f"{name}.prom")
    assert sorted(names) == [str(tmp_path / "one.sqlite3"), str(tmp_path / "two.sqlite3")]


def test_an_error_answer_is_logged_without_its_body(job, iterable, database):
    make_dead(database, 1)
    iterable.set_faults(Fault("gateway", status=503, endpoint="events/track", times=1))
    night(job)
    code = "status 400, code InvalidEmailAddressError"
    assert f"4xx client error from users/update: {code}" in job.log
    assert "5xx server error from events/track: status 503, code none" in job.log
    assert '"msg"' not in job.log
    assert "Invalid email" not in job.log


def test_the_steps_are_told_in_the_words_of_the_specification(job, iterable):
    done, _, _ = night(job)
    steps = [line for line in done.stdout.splitlines() if line.startswith("[STEP")]
    assert steps == [
        "[STEP 1] Loading environment variables...",
        "[STEP 2] Connecting to database...",
        "[STEP 3] Executing Phase 2 Query 2...",
        "[STEP 4] Initializing Iterable API client...",
        "[STEP 5] Processing user records...",
        "[STEP 6] Saving results...",
    ]
    assert len(writes(iterable)) == 6


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
    messages = [row["events_track"]["message"] for row in job.results["results"]]
    told = "came before for this customer and time: one event would overwrite the other; give each"
    assert sum(told in message for message in messages) == 3
    assert night(job, *mode, QUERY_FILE=str(file), MAX_REFUSED_ROWS="3")[0].returncode == 0


@both_modes
def test_a_key_is_rotated_without_a_second_delivery(job, iterable, mode):
    # Its runs may ask for the project's fields more than four times a second.
    iterable.change(api_key=None, limits=False)
    assert night(job, *mode)[0].returncode == 0
    before = len(writes(iterable))
    named = {"ITERABLE_PROJECT": "shop"}
    for changes in (named, named | {"ITERABLE_API_KEY": "f" * 32}):
        done, _, summary = night(job, *mode, **changes)
        assert (done.returncode, done.stderr, summary["unchanged"]) == (0, "", 3)
    assert len(writes(iterable)) == before
    # Without a name for the project the same would have been told, and sent.
    done = job("--dry-run", *mode, ITERABLE_API_KEY="f" * 32)
    assert "STATE_FILE: entries that no longer count: 6; the API key" in done.stderr
    assert "journeys in Iterable may start again" in done.stderr


def test_a_change_of_a_columns_type_alone_sends_nothing(job, iterable, database):
    assert night(job)[0].returncode == 0
    before = len(writes(iterable))
    database.execute("ALTER TABLE customers MODIFY first_name MEDIUMTEXT")
    database.execute("ALTER TABLE page_views MODIFY event_time DATETIME(6)")
    done, _, summary = night(job)
    assert (done.returncode, summary["unchanged"], len(writes(iterable))) == (0, 3, before)
