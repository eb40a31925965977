"""What was delivered is remembered: per project, call by call, and never too much."""

import sqlite3
from contextlib import closing, contextmanager

import pytest

from iterable_api.mapping import RowMapping
from iterable_api.payloads import JOB_MAPPING, Payloads
from records.columns import Kind
from records.delivery_ledger import APPLICATION_ID, KEEP_DAYS, LOOKUP_ROWS, MARK_DAYS, LedgerError
from records.outcomes import NOT_SENT, UNCHANGED, CallOutcome, CallStatus, Fault
from tests.results import BAD, FORGOTTEN, OK
from tests.rows import make_planner, make_prepared, open_ledger, raw_row, settled

PAYLOADS = Payloads("db")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "state.sqlite3"


@pytest.fixture
def ledger(path):
    with open_ledger(path) as ledger:
        yield ledger


@pytest.fixture
def day(monkeypatch):
    """Return what sets the day that it is."""

    def set_day(number):
        monkeypatch.setattr("time.time", lambda: (20_000 + number) * 86_400.0)

    set_day(0)
    return set_day


def to_send(ledger, *rows):
    """Return which of each row's two calls a run makes."""
    prepared = [PAYLOADS.prepare(row) for row in rows]
    make_planner(ledger).plan(prepared)
    return [(row.profile.send, row.event.send) for row in prepared]


def deliver(ledger, row, update=OK, track=OK, *, sure=True):
    """Record the outcome of a row, as a run with --all does, which sends it in any case."""
    plan = make_planner(ledger, send_all=True).plan([PAYLOADS.prepare(row)])
    ledger.forget(plan.forget)
    ledger.renew(plan.renew)
    ledger.record([settled(prepared, update, track) for prepared in plan.to_send], sure=sure)


def is_sure(ledger, number=1):
    """Return what is known of a row: for each call whether it is held, and whether for sure."""
    (held,) = ledger.held([make_prepared(number)])
    return [(each.same, each.sure) for each in held]


@contextmanager
def as_killed(path, target):
    """Yield the ledger in *path* as a process that is killed now leaves it, copied to *target*."""
    for name in ("", "-wal"):
        there = path.with_name(path.name + name)
        target.with_name(target.name + name).write_bytes(there.read_bytes())
    with open_ledger(target) as ledger:
        yield ledger


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (False, False)),
        ({"first_name": "Anna"}, (True, False)),
        ({"first_name": None}, (True, False)),
        ({"email": "new@example.com"}, (True, True)),
        ({"page_view_id": 999}, (False, True)),
        ({"browser": "Safari"}, (False, True)),
    ],
)
def test_only_what_is_new_or_changed_is_sent(ledger, changes, expected):
    deliver(ledger, raw_row())
    assert to_send(ledger, raw_row(**changes)) == [expected]


@pytest.mark.parametrize("status", [s for s in CallStatus if s is not CallStatus.DELIVERED])
def test_only_a_delivered_call_counts(ledger, status):
    deliver(ledger, raw_row(), OK, CallOutcome(status))
    assert to_send(ledger, raw_row()) == [(False, True)]
    deliver(ledger, raw_row(2), CallOutcome(status), NOT_SENT)
    assert to_send(ledger, raw_row(2)) == [(True, True)]


# After ALTER TABLE the ids are decimals.
OTHER_COLUMNS = RowMapping(
    [
        column._replace(kind=Kind.DECIMAL) if column.name.endswith("_id") else column
        for column in JOB_MAPPING.columns
    ]
)


@pytest.mark.parametrize(
    ("mapping", "changes", "costs_body"),
    [
        (JOB_MAPPING, {}, False),
        (OTHER_COLUMNS, {}, True),
        (JOB_MAPPING, {"email": " user1@example.com "}, True),
        (JOB_MAPPING, {"event_time": "2026-01-13 14:30:45.000000"}, True),
    ],
)
def test_content_of_which_the_same_body_is_made_is_not_sent_and_costs_one_body(
    ledger, mapping, changes, costs_body
):
    """An ALTER TABLE, another server or a new version of this program starts no journey."""
    deliver(ledger, raw_row())
    payloads = Payloads("db", mapping=mapping)
    for costs in (costs_body, False):
        row = payloads.prepare(raw_row(**changes))
        plan = make_planner(ledger, payloads=payloads).plan([row])
        assert (plan.to_send, plan.forget) == ([], [])
        assert (bool(row.profile.body), bool(plan.renew)) == (costs, costs)
        ledger.renew(plan.renew)


# --- Keys, hosts and projects


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({}, {"key": "another"}, False),
        ({}, {"url": "https://eu.example.com"}, False),
        ({"project": "shop"}, {"project": "other shop"}, False),
        # With a named project a new key sends nothing again.
        ({"project": "shop"}, {"project": "shop", "key": "another"}, True),
    ],
)
def test_each_project_has_its_own_memory(path, first, second, is_same):
    with open_ledger(path, **first) as ledger:
        deliver(ledger, raw_row())
    for destination, is_held in ((second, is_same), (first, True)):
        with open_ledger(path, **destination) as ledger:
            assert to_send(ledger, raw_row()) == [(not is_held, not is_held)]
            assert ledger.counts() == (2 * is_held, 2)


def test_what_another_key_is_about_to_replace_is_forgotten_before(path):
    with open_ledger(path, key="old") as ledger:
        deliver(ledger, raw_row())
    with open_ledger(path, key="new") as ledger:
        deliver(ledger, raw_row(), CallOutcome(CallStatus.UNKNOWN, attempts=5), NOT_SENT)
    with open_ledger(path, key="old") as ledger:
        assert to_send(ledger, raw_row()) == [(True, True)]


def test_a_name_takes_over_what_was_delivered_with_its_key_alone(path):
    with open_ledger(path, key="of another project") as ledger:
        deliver(ledger, raw_row(2))
    with open_ledger(path, key="old") as ledger:
        deliver(ledger, raw_row(1))
    for begins in (False, True):
        # A look that begins no run, such as --check, takes over nothing.
        with open_ledger(path, key="new", project="shop") as ledger:
            assert to_send(ledger, raw_row(1), raw_row(2)) == [(True, True)] * 2
        with open_ledger(path, key="old", project="shop") as ledger:
            assert to_send(ledger, raw_row(1), raw_row(2)) == [(False, False), (True, True)]
            if begins:
                ledger.begin_run({})
    with open_ledger(path, key="new", project="shop") as ledger:
        assert to_send(ledger, raw_row(1), raw_row(2)) == [(False, False), (True, True)]


def test_neither_the_key_nor_a_customers_data_are_in_the_file(path):
    with open_ledger(path, key="0123456789abcdef", project="my project") as ledger:
        deliver(ledger, raw_row(first_name="Sarah"))
    content = path.read_bytes()
    for text in (b"0123456789abcdef", b"my project", b"user1@example.com", b"Sarah"):
        assert text not in content


# --- The file


def test_a_killed_run_keeps_all_and_claims_nothing_of_a_call_under_way(path, ledger, tmp_path):
    deliver(ledger, raw_row())
    with as_killed(path, tmp_path / "before") as killed:
        assert to_send(killed, raw_row()) == [(False, False)]
    plan = make_planner(ledger).plan([make_prepared(first_name="Anna")])
    ledger.forget(plan.forget)
    with as_killed(path, tmp_path / "copy") as killed:
        assert to_send(killed, raw_row()) == [(True, False)]
        assert to_send(killed, raw_row(first_name="Anna")) == [(True, False)]


def test_a_second_run_is_kept_out_and_told_by_what(path, ledger):
    with pytest.raises(LedgerError) as caught:
        open_ledger(path)
    told = f"Another run is in progress: it has locked STATE_FILE {path}. This run did nothing. "
    assert str(caught.value).startswith(told)
    assert caught.value.status == 75
    ledger.close()
    open_ledger(path).close()


def test_what_the_ledger_cannot_do_is_found_before_anything_is_sent(path, ledger):
    ledger.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("ALTER TABLE entry RENAME body TO sent")
    with open_ledger(path) as changed, pytest.raises(LedgerError, match="Name another file"):
        changed.held([make_prepared()])


def record_many(ledger, count):
    rows = [make_prepared(number) for number in range(count)]
    ledger.record([settled(row, OK, OK) for row in rows], sure=True)


def test_damage_inside_the_file_is_found_before_the_run(path):
    with open_ledger(path) as ledger:
        record_many(ledger, 1000)
    content = path.read_bytes()
    path.write_bytes(content[:40_000] + b"\xaa" * 8192 + content[48_192:])
    with pytest.raises(LedgerError, match=r"is damaged \(.+ move it away"):
        open_ledger(path)


@pytest.mark.parametrize(
    "content", [b"some words" * 50, b"SQLite format 3\0" + b"\xff" * 4000, 0, APPLICATION_ID - 1]
)
def test_the_file_of_another_program_or_version_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "state"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE t (x)")
            other.execute(f"PRAGMA application_id = {content}")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"STATE_FILE {path} .* move it away; the next"):
        open_ledger(path)
    assert path.read_bytes() == before


def test_a_full_disk_fails_the_record_and_nothing_before_it(ledger):
    deliver(ledger, raw_row())
    ledger._sqlite.execute("PRAGMA max_page_count = 1")
    with pytest.raises(LedgerError, match="full"):
        record_many(ledger, 500)
    assert to_send(ledger, raw_row()) == [(False, False)]
    assert to_send(ledger, raw_row(400)) == [(True, True)]


def test_forgetting_waits_for_the_disk_and_remembering_does_not(ledger):
    statements: list[str] = []
    deliver(ledger, raw_row())
    ledger._sqlite.set_trace_callback(statements.append)
    deliver(ledger, raw_row(first_name="Anna"))
    shown = [s for s in statements if s.startswith(("PRAGMA", "DELETE", "INSERT", "COMMIT"))]
    kinds = [statement.partition(" FROM")[0].partition(" INTO")[0] for statement in shown]
    assert kinds == [
        *("PRAGMA synchronous = FULL", "DELETE", "COMMIT"),
        *("PRAGMA synchronous = NORMAL", "INSERT OR REPLACE", "INSERT OR REPLACE", "COMMIT"),
    ]


def test_many_rows_are_looked_up_at_once(ledger):
    held, new = LOOKUP_ROWS + 10, LOOKUP_ROWS
    record_many(ledger, held)
    rows = [raw_row(number) for number in range(held + new)]
    assert to_send(ledger, *rows) == [(False, False)] * held + [(True, True)] * new


# --- Refusals


@pytest.mark.parametrize("refusal", [BAD, FORGOTTEN])
def test_a_refusal_takes_back_what_was_remembered(ledger, refusal):
    row = raw_row()
    deliver(ledger, row)
    deliver(ledger, row, refusal, NOT_SENT)
    assert to_send(ledger, row) == [(True, False)]
    deliver(ledger, row, OK, refusal)
    assert to_send(ledger, row) == [(False, True)]
    deliver(ledger, row)
    # Refused on this machine: Iterable has judged nothing.
    deliver(ledger, row, UNCHANGED, CallOutcome(CallStatus.REFUSED, fault=Fault.ROW))
    assert to_send(ledger, row) == [(False, False)]


# --- What is sure


@pytest.mark.parametrize("sure", [True, False])
def test_what_a_run_has_delivered_is_settled_later(path, sure):
    with open_ledger(path) as ledger:
        ledger.begin_run({})
        deliver(ledger, raw_row(), sure=False)
        ledger.settle(sure=sure)
    with open_ledger(path) as ledger:
        ledger.begin_run({})
        # Settles what this run delivers, and nothing of an earlier one.
        ledger.settle(sure=True)
        assert is_sure(ledger) == [(True, sure)] * 2


def test_what_a_killed_run_did_not_settle_is_not_sure(path, ledger, tmp_path):
    ledger.begin_run({})
    deliver(ledger, raw_row(1), sure=True)
    deliver(ledger, raw_row(2), sure=False)
    with as_killed(path, tmp_path / "copy") as killed:
        killed.begin_run({})
        killed.settle(sure=True)
        assert is_sure(killed, 1) == [(True, True)] * 2
        assert is_sure(killed, 2) == [(True, False)] * 2


# --- Notes


def test_notes_outlive_runs_and_count_as_no_entries(path, day):
    with open_ledger(path) as ledger:
        ledger.begin_run({"SOURCE_NAME": "shop", "DB_TIME_ZONE": "Europe/Zürich"})
        ledger.note({"left out": "a b"})
    day(10 * KEEP_DAYS)
    with open_ledger(path, key="another", url="https://eu.example.com") as ledger:
        ledger.begin_run({"SOURCE_NAME": "shop 2"})
        ledger.note({"left out": ""})
    with open_ledger(path) as ledger:
        kept = {"SOURCE_NAME": "shop 2", "DB_TIME_ZONE": "Europe/Zürich", "left out": ""}
        assert ledger.notes == kept | {"job": ""}
        assert ledger.counts() == (0, 0)


# --- Days


def test_what_no_run_has_needed_for_long_is_dropped(path, day):
    for number in range(KEEP_DAYS + 2):
        day(number)
        with open_ledger(path) as ledger:
            if number == 0:
                deliver(ledger, raw_row(1))
                deliver(ledger, raw_row(2))
            ledger.begin_run({})
            assert ledger.counts() == ((4, 4) if number <= KEEP_DAYS else (2, 2))
            # Only the first row is in Query 2's answer every night.
            ledger.renew(make_planner(ledger).plan([PAYLOADS.prepare(raw_row(1))]).renew)
    with open_ledger(path) as ledger:
        assert to_send(ledger, raw_row(1), raw_row(2)) == [(False, False), (True, True)]


@pytest.mark.parametrize(("days", "marks"), [(0, 0), (MARK_DAYS, 0), (MARK_DAYS + 1, 2)])
def test_an_entry_is_marked_as_needed_only_now_and_then(path, day, days, marks):
    with open_ledger(path) as ledger:
        deliver(ledger, raw_row())
    day(days)
    with open_ledger(path) as ledger:
        renew = make_planner(ledger).plan([PAYLOADS.prepare(raw_row())]).renew
        assert len(renew) == marks
        ledger.renew(renew)
        assert make_planner(ledger).plan([PAYLOADS.prepare(raw_row())]).renew == []
