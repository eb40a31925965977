"""Batches: as large as Iterable takes, and never larger."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery import bulk
from delivery.bulk import MAX_BYTES, BatchLimit, packed
from iterable_api.payloads import bulk_body
from tests.rows import make_prepared, with_bodies

ROW = make_prepared()


def request_bytes(batch):
    """Return the size of the larger one of the two requests that a batch needs."""
    users, events = [row.profile.body for row in batch], [row.event.body for row in batch]
    return max(len(bulk_body("users", users)), len(bulk_body("events", events)))


def test_a_batch_of_one_does_not_wait_for_the_next_row():
    rows = iter([ROW] * 3)
    assert len(next(packed(rows, BatchLimit(1)))) == 1
    assert len(list(rows)) == 2


def test_what_iterable_found_too_large_is_not_tried_again():
    limit = BatchLimit(1000)
    batches = packed([ROW] * 4000, limit)
    assert len(next(batches)) == 1000
    limit.too_large(1000)
    assert [len(batch) for batch in itertools.islice(batches, 2)] == [500, 500]
    # An older batch raises no limit, and none falls below one row.
    for rows, most in [(1500, 500), (3, 1), (1, 1)]:
        limit.too_large(rows)
        assert limit.rows == most
    assert next(batches) == [ROW]


@pytest.mark.parametrize("column", ["first_name", "location"])
def test_the_larger_one_of_both_requests_is_filled(column):
    rows = [make_prepared(n, **{column: "é" * (n % 9000)}) for n in range(0, 90_000, 300)]
    batches = list(packed(rows, BatchLimit(1000)))
    assert max(map(request_bytes, batches)) <= MAX_BYTES
    for batch, following in itertools.pairwise(batches):
        # There is room for the rule for new fields of each row.
        assert request_bytes([*batch, following[0]]) > 0.97 * MAX_BYTES


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=40),
    st.integers(1, 9),
    st.integers(100, 1500),
)
def test_every_row_is_in_one_batch_in_its_order(shapes, most_rows, most_bytes):
    """One that is too large for any is alone."""
    rows = [with_bodies(ROW, b"u" * users, b"e" * events) for users, events in shapes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "MAX_BYTES", most_bytes)
        batches = list(packed(rows, BatchLimit(most_rows)))
    assert [row for batch in batches for row in batch] == rows
    for batch in batches:
        assert 0 < len(batch) <= most_rows
        assert len(batch) == 1 or request_bytes(batch) <= most_bytes
