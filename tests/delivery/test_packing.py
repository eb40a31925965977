"""Batches: as large as Iterable takes, and never larger."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery import bulk
from delivery.bulk import MAX_BYTES, BatchLimit, packed
from iterable_api.payloads import bulk_body
from tests.rows import make_prepared


def request_bytes(batch):
    """Return the size of the larger one of the two requests that a batch needs."""
    users, events = [row.user for row in batch], [row.event for row in batch]
    return max(len(bulk_body("users", users)), len(bulk_body("events", events)))


def sizes(batches):
    return [len(batch) for batch in batches]


def test_a_stream_is_packed_by_rows():
    row = make_prepared()
    assert sizes(packed([row] * 2500, BatchLimit(1000))) == [1000, 1000, 500]
    assert sizes(packed([], BatchLimit(1000))) == []


def test_a_batch_of_one_does_not_wait_for_the_next_row():
    rows = iter([make_prepared()] * 3)
    assert len(next(packed(rows, BatchLimit(1)))) == 1
    assert len(list(rows)) == 2


@pytest.mark.parametrize("column", ["first_name", "location"])
def test_the_larger_one_of_both_requests_is_filled(column):
    rows = [make_prepared(n, **{column: "é" * (n % 9000)}) for n in range(0, 90_000, 300)]
    batches = list(packed(rows, BatchLimit(1000)))
    assert [row for batch in batches for row in batch] == rows
    assert max(map(request_bytes, batches)) <= MAX_BYTES
    for batch, following in itertools.pairwise(batches):
        # There is room for the rule for new fields of each row.
        assert request_bytes([*batch, following[0]]) > 0.98 * MAX_BYTES


def test_a_row_that_is_too_large_goes_alone():
    rows = [make_prepared(1), make_prepared(2, first_name="x" * 4_100_000), make_prepared(3)]
    assert sizes(packed(rows, BatchLimit(1000))) == [1, 1, 1]


def test_what_iterable_found_too_large_is_not_tried_again():
    limit = BatchLimit(1000)
    batches = packed([make_prepared()] * 4000, limit)
    assert len(next(batches)) == 1000
    limit.too_large(1000)
    assert sizes(itertools.islice(batches, 2)) == [500, 500]
    # An older batch raises no limit, and none falls below one row.
    for rows, most in [(1500, 500), (3, 1), (1, 1)]:
        limit.too_large(rows)
        assert limit.rows == most
    assert next(batches) == [make_prepared()]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=40),
    st.integers(1, 9),
    st.integers(100, 1500),
)
def test_every_row_is_in_one_batch_in_its_order(shapes, most_rows, most_bytes):
    rows = [
        make_prepared(number)._replace(user=b"u" * users, event=b"e" * events)
        for number, (users, events) in enumerate(shapes)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "MAX_BYTES", most_bytes)
        batches = list(packed(rows, BatchLimit(most_rows)))
    assert [row for batch in batches for row in batch] == rows
    for batch in batches:
        assert 0 < len(batch) <= most_rows
        assert len(batch) == 1 or request_bytes(batch) <= most_bytes
