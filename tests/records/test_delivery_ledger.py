"""What was delivered is remembered: per destination, call by call, and never too much."""

import sqlite3
from contextlib import closing

import pytest

from iterable_api.payloads import Payloads
from records import least_versions
from records.delivery_ledger import (
    FORMAT_VERSION,
    KEEP_DAYS,
    MARK_DAYS,
    Change,
    LedgerBusyError,
    LedgerError,
)
from records.outcomes import NOT_SENT, UNCHANGED, CallOutcome, CallStatus, outcome_of
from tests.rows import make_planner, make_prepared, make_row, open_ledger

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
PAYLOADS = Payloads("db")
REFUSED = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
UNKNOWN = CallOutcome(CallStatus.UNKNOWN, attempts=5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "state.sqlite3"


@pytest.fixture
def ledger(path):
    with open_ledger(path) as ledger:
        yield ledger


def to_send(ledger, *rows):
    """Return which of each row's two calls a run makes."""
    prepared = [PAYLOADS.prepare(row) for row in rows]
    sent = {row.event_id: row for row in make_planner(ledger).plan(prepared)[1]}
    found = [sent.get(row.event_id) for row in prepared]
    return [(row.send_user, row.send_event) if row else (False, False) for row in found]


def deliver(ledger, row, update=OK, track=OK):
    """Record the outcome of a row, as a run with --all does, which sends it in any case."""
    plan = make_planner(ledger, send_all=True).plan([PAYLOADS.prepare(row)])
    ledger.apply(plan.change)
    ledger.record([outcome_of(prepared, update, track) for prepared in plan.to_send])


def test_nothing_is_known_at_first(ledger):
    assert to_send(ledger, make_row()) == [(True, True)]


def test_what_was_delivered_is_not_sent_again(ledger):
    deliver(ledger, make_row())
    assert to_send(ledger, make_row()) == [(False, False)]
    assert to_send(ledger, make_row(2)) == [(True, True)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"first_name": "Anna"}, (True, False)),
        ({"email": "new@example.com"}, (True, True)),
        ({"page_view_id": 999}, (False, True)),
        ({"browser": "Safari"}, (False, True)),
    ],
)
def test_only_the_call_whose_content_changed_is_sent(ledger, changes, expected):
    deliver(ledger, make_row())
    assert to_send(ledger, make_row(**changes)) == [expected]


@pytest.mark.parametrize("status", [s for s in CallStatus if s is not CallStatus.DELIVERED])
def test_only_a_delivered_call_counts(ledger, status):
    deliver(ledger, make_row(), OK, CallOutcome(status))
    assert to_send(ledger, make_row()) == [(False, True)]
    deliver(ledger, make_row(2), CallOutcome(status), NOT_SENT)
    assert to_send(ledger, make_row(2)) == [(True, True)]


def test_a_later_event_alone_leaves_the_profile_known(ledger):
    deliver(ledger, make_row())
    deliver(ledger, make_row(page_view_id=999), UNCHANGED, OK)
    assert to_send(ledger, make_row(page_view_id=999)) == [(False, False)]


def test_content_that_may_have_been_replaced_is_forgotten(ledger):
    """Sent and not answered: then nobody knows which of the two Iterable has."""
    deliver(ledger, make_row())
    changed = make_row(first_name="Anna", browser="Safari")
    deliver(ledger, changed, UNKNOWN, NOT_SENT)
    assert to_send(ledger, make_row()) == [(True, True)]


def test_sending_the_same_again_forgets_nothing(ledger):
    deliver(ledger, make_row())
    deliver(ledger, make_row(), UNKNOWN, NOT_SENT)
    assert to_send(ledger, make_row()) == [(False, False)]


@pytest.mark.parametrize(
    "other", [{"key": "another"}, {"url": "https://eu.example.com"}], ids=["key", "url"]
)
def test_another_destination_has_its_own_memory(path, other):
    with open_ledger(path) as ledger:
        deliver(ledger, make_row())
    with open_ledger(path, **other) as ledger:
        assert to_send(ledger, make_row()) == [(True, True)]
    with open_ledger(path) as ledger:
        assert to_send(ledger, make_row()) == [(False, False)]


def test_neither_the_key_nor_a_customers_data_are_in_the_file(path):
    with open_ledger(path, key="0123456789abcdef") as ledger:
        deliver(ledger, make_row(first_name="Sarah"))
    content = path.read_bytes()
    for text in (b"0123456789abcdef", b"user1@example.com", b"Sarah"):
        assert text not in content


def test_every_record_is_on_disk_at_once(path, ledger, tmp_path):
    deliver(ledger, make_row())
    copy = tmp_path / "copy"
    for name in ("", "-wal"):
        (tmp_path / f"copy{name}").write_bytes(path.with_name(path.name + name).read_bytes())
    with open_ledger(copy) as as_if_killed:
        assert to_send(as_if_killed, make_row()) == [(False, False)]


def test_a_second_run_is_kept_out_and_told_by_what(path, ledger):
    with pytest.raises(LedgerBusyError) as caught:
        open_ledger(path)
    held = f"Another run is under way: it has locked STATE_FILE {path}. "
    assert str(caught.value).startswith(held + "This one did nothing; let the other end.")
    ledger.close()
    open_ledger(path).close()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not a database at all, but some words" * 50, "move it away"),
        (b"SQLite format 3\0" + b"\xff" * 4000, "STATE_FILE"),
    ],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, content, told):
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=told) as caught:
        open_ledger(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("table", ["profile", "event"])
@pytest.mark.parametrize("change", ["RENAME body TO content", "ADD further INTEGER"])
def test_what_the_ledger_cannot_do_is_found_before_the_run(path, table, change):
    open_ledger(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"ALTER TABLE {table} {change}")
    with pytest.raises(LedgerError) as caught:
        open_ledger(path)
    told = f"Its tables are not this program's, to SQLite {sqlite3.sqlite_version}. Name another"
    assert told in str(caught.value)
    assert "rights" not in str(caught.value)


def test_trying_the_ledger_leaves_nothing_in_it(path, ledger):
    ledger.close()
    with closing(sqlite3.connect(path)) as other:
        for table in ("profile", "event"):
            assert other.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_an_sqlite_that_is_too_old_is_told_and_nothing_is_made(path, monkeypatch):
    monkeypatch.setattr(least_versions, "SQLITE", (99, 0))
    with pytest.raises(LedgerError, match=r"has SQLite 3\.\d+\.\d+, and STATE_FILE needs 99\.0"):
        open_ledger(path)
    assert not path.exists()


def test_damage_inside_the_file_is_found_before_the_run(path):
    with open_ledger(path) as ledger:
        for start in range(0, 5000, 500):
            prepared_rows = [make_prepared(number) for number in range(start, start + 500)]
            ledger.record([outcome_of(prepared, OK, OK) for prepared in prepared_rows])
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :][:8192] = bytes(8192)
    content[40_000:48_192] = b"\xaa" * 8192
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="move it away"):
        open_ledger(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "state"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="another program"):
        open_ledger(path)
    assert path.read_bytes() == before


def test_a_later_format_is_refused(path):
    open_ledger(path).close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    other.close()
    with pytest.raises(LedgerError, match=f"format {FORMAT_VERSION + 1}"):
        open_ledger(path)


def test_an_empty_file_is_a_new_ledger(tmp_path):
    (tmp_path / "state").touch()
    open_ledger(tmp_path / "state").close()


def test_a_folder_in_its_place_is_told(tmp_path):
    with pytest.raises(LedgerError, match="STATE_FILE"):
        open_ledger(tmp_path)


def test_too_little_room_is_found_before_anything_is_sent(ledger):
    ledger.check_room(10)
    with pytest.raises(LedgerError, match="free disk"):
        ledger.check_room(10**12)


def test_a_full_disk_fails_the_record_and_nothing_before_it(path, ledger):
    deliver(ledger, make_row())
    ledger._sqlite.execute("PRAGMA max_page_count = 1")
    prepared_rows = [make_prepared(number) for number in range(5000)]
    with pytest.raises(LedgerError, match="full"):
        ledger.record([outcome_of(prepared, OK, OK) for prepared in prepared_rows])
    assert to_send(ledger, make_row()) == [(False, False)]
    assert to_send(ledger, make_row(4000)) == [(True, True)]


@pytest.mark.parametrize("customer", [7, "c-7", None, 2**80])
def test_a_customer_may_have_any_id_or_none(ledger, customer):
    row = make_row(customer_id=customer)
    deliver(ledger, row)
    assert to_send(ledger, row) == [(False, False)]


def test_a_refusal_takes_back_what_was_remembered(ledger):
    row = make_row()
    deliver(ledger, row)
    deliver(ledger, row, REFUSED, NOT_SENT)
    assert to_send(ledger, row) == [(True, False)]
    deliver(ledger, row, OK, REFUSED)
    assert to_send(ledger, row) == [(False, True)]


@pytest.mark.parametrize("status", [CallStatus.UNKNOWN, CallStatus.UNAVAILABLE])
def test_the_same_content_without_an_answer_is_still_there(ledger, status):
    deliver(ledger, make_row())
    deliver(ledger, make_row(), CallOutcome(status), NOT_SENT)
    assert to_send(ledger, make_row()) == [(False, False)]


def test_an_address_that_moves_to_another_customer_and_back_is_sent_each_time(ledger):
    first = make_row(1, email="a@example.com")
    second = make_row(2, email="a@example.com", first_name="Anna")
    deliver(ledger, first)
    assert to_send(ledger, second) == [(True, True)]
    deliver(ledger, second)
    assert to_send(ledger, first) == [(True, False)]
    deliver(ledger, first)
    assert to_send(ledger, first) == [(False, False)]


def test_two_addresses_of_one_customer_are_two_users(ledger):
    rows = [make_row(1, email=f"{name}@example.com", page_view_id=name) for name in "ab"]
    for row in rows:
        deliver(ledger, row)
    assert to_send(ledger, *rows) == [(False, False)] * 2


def test_the_case_of_an_address_makes_no_other_user(ledger):
    deliver(ledger, make_row(first_name="Anna"))
    deliver(ledger, make_row(email="USER1@example.com"))
    assert to_send(ledger, make_row(first_name="Anna")) == [(True, True)]


def test_a_key_that_comes_back_proves_nothing_of_what_another_sent_meanwhile(path):
    """Two keys may belong to one project."""
    with open_ledger(path, key="old") as ledger:
        deliver(ledger, make_row(1))
        deliver(ledger, make_row(2))
    with open_ledger(path, key="new") as ledger:
        deliver(ledger, make_row(1, first_name="Anna"))
    with open_ledger(path, key="old") as ledger:
        assert to_send(ledger, make_row(1), make_row(2)) == [(True, True), (False, False)]


def test_what_another_key_is_about_to_replace_is_forgotten_before(path):
    with open_ledger(path, key="old") as ledger:
        deliver(ledger, make_row())
    with open_ledger(path, key="new") as ledger:
        deliver(ledger, make_row(), UNKNOWN, NOT_SENT)
    with open_ledger(path, key="old") as ledger:
        assert to_send(ledger, make_row()) == [(True, True)]


def test_a_call_of_which_a_field_was_left_out_is_sent_again(ledger):
    part = CallOutcome(CallStatus.DELIVERED, 200, fields=(("first_name", "filtered out"),))
    deliver(ledger, make_row())
    deliver(ledger, make_row(first_name="Anna"), part, OK)
    assert to_send(ledger, make_row(first_name="Anna")) == [(True, False)]


def test_what_an_unproven_run_has_delivered_does_not_count_until_it_is_proven(path):
    with open_ledger(path) as ledger:
        ledger.begin_run(proven=True)
        deliver(ledger, make_row(1))
        assert not ledger.has_unproven_runs()
    with open_ledger(path) as ledger:
        ledger.begin_run(proven=False)
        deliver(ledger, make_row(2))
        # Its own doubts are settled at its end.
        assert not ledger.has_unproven_runs()
    with open_ledger(path) as ledger:
        ledger.begin_run(proven=False)
        deliver(ledger, make_row(3))
        assert ledger.has_unproven_runs()
        assert to_send(ledger, make_row(1), make_row(2)) == [(False, False), (True, True)]
        ledger.prove_earlier_runs()
        assert not ledger.has_unproven_runs()
        assert to_send(ledger, make_row(2), make_row(3)) == [(False, False), (True, True)]
        ledger.prove()
        assert to_send(ledger, make_row(3)) == [(False, False)]


def test_what_is_unproven_can_be_forgotten_together(path):
    with open_ledger(path) as ledger:
        ledger.begin_run(proven=True)
        deliver(ledger, make_row(1))
    with open_ledger(path) as ledger:
        ledger.begin_run(proven=False)
        deliver(ledger, make_row(2))
    with open_ledger(path) as ledger:
        ledger.forget_unproven()
        assert not ledger.has_unproven_runs()
        ledger.prove()
        assert to_send(ledger, make_row(1), make_row(2)) == [(False, False), (True, True)]


def test_what_no_run_has_needed_for_long_is_dropped(path, monkeypatch):
    days = 0
    monkeypatch.setattr("time.time", lambda: (20_000 + days) * 86_400.0)
    for days in range(KEEP_DAYS + 2):
        with open_ledger(path) as ledger:
            ledger.begin_run(proven=True)
            if days == 0:
                deliver(ledger, make_row(1))
                deliver(ledger, make_row(2))
            # Only the first row is in Query 2's answer every night.
            planner = make_planner(ledger)
            ledger.apply(planner.plan([PAYLOADS.prepare(make_row(1))]).change)
    with open_ledger(path) as ledger:
        assert to_send(ledger, make_row(1), make_row(2)) == [(False, False), (True, True)]
        (runs,) = ledger._sqlite.execute("SELECT count(*) FROM run").fetchone()
        assert runs <= KEEP_DAYS + 2


def test_what_an_unproven_run_finds_delivered_by_others_counts_as_before(path, monkeypatch):
    days = 0
    monkeypatch.setattr("time.time", lambda: (20_000 + days) * 86_400.0)
    for number, proven in enumerate((True, False)):
        days = number * (MARK_DAYS + 1)
        with open_ledger(path) as ledger:
            ledger.begin_run(proven=proven)
            if proven:
                deliver(ledger, make_row())
            plan = make_planner(ledger).plan([PAYLOADS.prepare(make_row())])
            ledger.apply(plan.change)
            assert bool(plan.change.profiles_to_mark) is not proven
    with open_ledger(path) as ledger:
        ledger.forget_unproven()
        assert to_send(ledger, make_row()) == [(False, False)]


def test_an_entry_is_marked_as_needed_only_now_and_then(path, ledger):
    ledger.begin_run(proven=True)
    deliver(ledger, make_row())
    plan = make_planner(ledger).plan([PAYLOADS.prepare(make_row())])
    assert plan.change == Change()


def test_forgetting_waits_for_the_disk_and_remembering_does_not(ledger):
    statements: list[str] = []
    deliver(ledger, make_row())
    ledger._sqlite.set_trace_callback(statements.append)
    deliver(ledger, make_row(first_name="Anna"))
    shown = [s for s in statements if s.startswith(("PRAGMA", "DELETE", "INSERT", "COMMIT"))]
    kinds = [statement.partition(" FROM")[0].partition(" INTO")[0] for statement in shown]
    assert kinds == [
        *("PRAGMA synchronous = FULL", "DELETE", "COMMIT", "PRAGMA synchronous = NORMAL"),
        *("INSERT OR REPLACE", "INSERT OR REPLACE", "COMMIT"),
    ]


def test_the_file_of_an_older_version_is_emptied_and_used(path, ledger):
    ledger.close()
    with sqlite3.connect(path) as other:
        other.executescript("DROP TABLE profile; DROP TABLE event; DROP TABLE run;")
        other.executescript("DROP TABLE origin; CREATE TABLE delivered (customer TEXT);")
        other.execute("PRAGMA user_version = 1")
    other.close()
    with open_ledger(path) as newer:
        assert to_send(newer, make_row()) == [(True, True)]
        deliver(newer, make_row())
        assert to_send(newer, make_row()) == [(False, False)]


def test_many_rows_are_looked_up_at_once(ledger):
    rows = [make_row(number) for number in range(1200)]
    prepared = [PAYLOADS.prepare(row) for row in rows]
    ledger.record([outcome_of(row, OK, OK) for row in prepared[:1100]])
    assert to_send(ledger, *rows) == [(False, False)] * 1100 + [(True, True)] * 100
