"""--limit moves on to the next rows that need sending."""

import pytest

from delivery.planner import length_to_send
from delivery.project_fields import ProjectFields
from records.outcomes import CallOutcome, CallStatus, outcome_of
from records.run import RunOptions, RunRecord
from tests.rows import (
    CHUNK_ROWS,
    chunks_of,
    make_planner,
    make_prepared,
    open_ledger,
    raw_row,
    repeats_in,
)

DELIVERED = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(tmp_path / "state.sqlite3") as ledger:
        yield ledger


def length(ledger, limit, rows, fields=None):
    planner = make_planner(ledger, repeats_in(rows), dry_run=True, fields=fields)
    return length_to_send(limit, chunks_of(rows), planner)


def deliver(ledger, *prepared):
    ledger.record([outcome_of(row, DELIVERED, DELIVERED) for row in prepared], sure=True)


@pytest.mark.parametrize(("limit", "expected"), [(1, 3), (2, 5), (3, 6), (4, 6), (99, 6)])
def test_rows_that_were_delivered_are_not_counted(ledger, limit, expected):
    deliver(ledger, *(make_prepared(number) for number in (1, 2, 4)))
    assert length(ledger, limit, [raw_row(number) for number in range(1, 7)]) == expected


def test_a_row_with_one_call_to_make_is_counted(ledger):
    deliver(ledger, make_prepared(1), make_prepared(2))
    changed = raw_row(2, browser="Lynx")
    assert length(ledger, 1, [raw_row(1), changed, raw_row(3)]) == 2


def test_a_row_that_can_never_be_sent_is_not_counted(ledger):
    rows = [raw_row(1, email=None), raw_row(2, email="a b"), raw_row(3), raw_row(4)]
    assert length(ledger, 1, rows) == 3


def test_a_profile_that_is_not_sent_does_not_count_as_changed(ledger):
    """The second row of an address has another profile than the first, today and every day."""
    second = raw_row(2, email="user1@example.com")
    deliver(ledger, make_prepared(2, email="user1@example.com"), make_prepared(1))
    rows = [raw_row(1), second, raw_row(3)]
    assert length(ledger, 1, rows) == 3


@pytest.mark.parametrize("first", [CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS])
def test_it_looks_as_far_as_need_be(ledger, first):
    rows = [raw_row(number) for number in range(1, 2 * CHUNK_ROWS + 1)]
    deliver(ledger, *(make_prepared(number) for number in range(1, first)))
    assert length(ledger, 1, rows) == first


def test_no_rows_are_no_rows(ledger):
    assert length(ledger, 5, []) == 0


def test_an_event_that_would_overwrite_another_is_not_counted(ledger):
    """It is refused on this machine, today and every day."""
    one = {"customer_id": 1, "page_view_id": 17}
    rows = [raw_row(1, **one), raw_row(1, **one, browser="Lynx"), raw_row(3)]
    assert length(ledger, 2, rows) == 3
    deliver(ledger, make_prepared(1, **one))
    assert length(ledger, 1, rows) == 3


def test_a_row_that_comes_twice_is_counted_once(ledger):
    assert length(ledger, 2, [raw_row(1), raw_row(1), raw_row(2), raw_row(3)]) == 3


def test_what_is_sent_once_more_is_counted_and_what_is_only_not_sure_is_not(ledger):
    for number in (1, 2):
        row = make_prepared(number)
        ledger.record([outcome_of(row, DELIVERED, DELIVERED)], sure=False)
    rows = [raw_row(1), raw_row(2), raw_row(3)]
    assert length(ledger, 1, rows) == 1
    unknown = ProjectFields(RunRecord(RunOptions(), "1.0.0"), ledger, lambda: None, lambda _: False)
    assert length(ledger, 1, rows, unknown) == 3
