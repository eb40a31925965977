"""Rows whose turn comes later: on disk, and as they were."""

import itertools
import resource

import pytest

from delivery.repeats import LaterRows
from iterable_api.payloads import Payloads
from records.outcomes import CallOutcome, CallStatus
from records.row_spool import SpoolError
from tests.rows import make_prepared, raw_row

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)


def rows_of(later):
    """Return the rows of the next round."""
    return list(itertools.chain.from_iterable(later.next_round()))


def test_rows_come_back_as_they_were_and_in_their_order(tmp_path):
    rows = [make_prepared(n)._replace(users_update=OK) for n in range(4)]
    # One without its bodies.
    rows.append(Payloads("db").prepare(raw_row(5, first_name=None)))
    later = LaterRows(tmp_path)
    later.extend(rows[:2])
    later.extend(rows[2:])
    assert len(later) == 5
    assert rows_of(later) == rows
    assert len(later) == 0


def test_without_rows_no_file_is_made(tmp_path):
    later = LaterRows(tmp_path / "nowhere")
    later.extend([])
    assert rows_of(later) == []
    with pytest.raises(SpoolError):
        later.extend([make_prepared()])


def put_one_by_one(later, rows):
    for row in rows:
        later.extend([row])


def test_of_rows_that_a_full_disk_does_not_take_the_earlier_ones_come_back(tmp_path):
    rows = [make_prepared(n) for n in range(99)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    later = LaterRows(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(SpoolError):
            put_one_by_one(later, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = len(later)
    assert 0 < kept < 99
    assert rows_of(later) == rows[:kept]


def test_what_is_put_aside_during_a_round_comes_in_the_next(tmp_path):
    rows = [make_prepared(n) for n in range(5)]
    later = LaterRows(tmp_path)
    later.extend(rows[:3])
    first = later.next_round()
    assert next(first) == rows[:3]
    later.extend(rows[3:])
    assert list(first) == []
    assert rows_of(later) == rows[3:]
