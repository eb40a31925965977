"""Batches: filled to the brim, and never larger than Iterable takes."""

import itertools
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery.batching import MAX_BYTES, BatchLimits, Packer, packed
from iterable_api.payloads import bulk_body
from records.outcomes import UNCHANGED
from tests.rows import make_prepared


def request_bytes(batch):
    """Return the sizes of the two requests that a batch needs."""
    users = [row.user for row in batch if row.send_user]
    events = [row.event for row in batch if row.send_event]
    return len(bulk_body("users", users)), len(bulk_body("events", events))


def sizes(batches):
    return [len(batch) for batch in batches]


def test_a_stream_is_packed_by_rows():
    row = make_prepared()
    assert sizes(packed([row] * 2500, BatchLimits(1000))) == [1000, 1000, 500]


def test_no_batch_is_returned_for_no_rows():
    assert Packer(BatchLimits(10)).flush() is None
    assert list(packed([], BatchLimits(10))) == []


def test_a_batch_of_one_does_not_wait_for_the_next_row():
    row, packer = make_prepared(), Packer(BatchLimits(1))
    assert packer.add(row) == [row]
    assert packer.flush() is None


def test_a_stream_of_large_rows_is_packed_to_the_brim_instead_of_in_two_unequal_parts():
    row = make_prepared(first_name="x" * 5400)
    most = sizes(packed([row] * 1000, BatchLimits(1000)))[0]
    assert 700 < most < 740
    assert sizes(packed([row] * 3 * most, BatchLimits(1000))) == [most] * 3


@pytest.mark.parametrize("column", ["first_name", "location"])
def test_users_and_events_each_fit_into_their_request(column):
    rows = [make_prepared(n, **{column: "é" * (n % 9000)}) for n in range(0, 90_000, 300)]
    batches = list(packed(rows, BatchLimits(1000)))
    assert [row for batch in batches for row in batch] == rows
    assert max(max(request_bytes(batch)) for batch in batches) <= MAX_BYTES
    for batch, following in itertools.pairwise(batches):
        assert max(request_bytes([*batch, following[0]])) > MAX_BYTES - 5


def test_calls_that_are_not_made_take_no_room():
    limits = BatchLimits(1000, 100_000)
    large = make_prepared(first_name="x" * 30_000, location="x" * 30_000)
    assert sizes(packed([large] * 6, limits)) == [3, 3]
    without_user = large._replace(users_update=UNCHANGED)
    without_event = large._replace(events_track=UNCHANGED)
    assert sizes(packed([without_user, without_event] * 3, limits)) == [6]


def test_a_row_that_is_too_large_goes_alone():
    rows = [make_prepared(1), make_prepared(2, first_name="x" * 4_100_000), make_prepared(3)]
    assert sizes(packed(rows, BatchLimits(1000))) == [1, 1, 1]


def test_what_iterable_found_too_large_is_not_tried_again():
    row, limits = make_prepared(), BatchLimits(1000)
    packer = Packer(limits)
    for _ in range(800):
        assert packer.add(row) is None
    limits.too_large(1000, 250_000)
    assert packer.add(row) == [row] * 801
    assert sizes(packed([row] * 1500, limits)) == [500, 500, 500]


@pytest.mark.parametrize(
    ("rows", "body_bytes", "lowered"),
    [
        (1000, 250_000, (500, 4_000_000)),
        (120, 3_900_000, (1000, 1_950_039)),
        (1000, 4_000_000, (500, 4_000_000)),
        (2, 10, (1, 4_000_000)),
        (5000, 9_000_000, (1000, 4_000_000)),
        (100, 80_000_000, (1000, 4_000_000)),
    ],
)
def test_the_limit_that_was_used_further_is_lowered_and_never_raised(rows, body_bytes, lowered):
    limits = BatchLimits(1000)
    limits.too_large(rows, body_bytes)
    assert (limits.rows, limits.body_bytes) == lowered


def test_a_limit_never_falls_below_one_row():
    limits = BatchLimits(1000)
    for rows in (1000, 500, 9, 3, 2, 1, 1):
        limits.too_large(rows, rows * 100)
    assert limits.rows == 1
    assert sizes(packed([make_prepared()] * 3, limits)) == [1, 1, 1]


def test_requests_in_flight_together_lower_the_limit_once():
    limits = BatchLimits(1000)
    threads = [threading.Thread(target=limits.too_large, args=(1000, 250_000)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (limits.rows, limits.body_bytes) == (500, MAX_BYTES)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 300), st.booleans(), st.booleans()),
        max_size=40,
    ),
    st.integers(1, 9),
    st.integers(100, 1500),
)
def test_every_row_is_in_one_batch_in_its_order(shapes, most_rows, most_bytes):
    rows = [
        make_prepared(number)._replace(
            user=b"u" * users,
            event=b"e" * events,
            users_update=UNCHANGED if known_user else None,
            events_track=UNCHANGED if known_event else None,
        )
        for number, (users, events, known_user, known_event) in enumerate(shapes)
    ]
    batches = list(packed(rows, BatchLimits(most_rows, most_bytes)))
    assert [row for batch in batches for row in batch] == rows
    for batch in batches:
        assert 0 < len(batch) <= most_rows
        assert len(batch) == 1 or max(request_bytes(batch)) <= most_bytes
