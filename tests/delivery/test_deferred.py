"""Rows whose turn comes later: on disk, and as they were."""

import resource

import pytest

from delivery.deferred import DeferredRows
from iterable_api.payloads import Payloads
from records.outcomes import CallOutcome, CallStatus
from records.row_spool import SpoolError
from tests.rows import make_prepared, raw_row

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)


def test_rows_come_back_as_they_were_and_in_their_order(tmp_path):
    rows = [make_prepared(n)._replace(users_update=OK) for n in range(4)]
    # One without its bodies.
    rows.append(Payloads("db").prepare(raw_row(5, first_name=None)))
    deferred = DeferredRows(tmp_path)
    deferred.extend(rows[:2])
    deferred.extend(rows[2:])
    assert len(deferred) == 5
    assert list(deferred) == rows
    deferred.close()


def test_without_rows_no_file_is_made(tmp_path):
    deferred = DeferredRows(tmp_path / "nowhere")
    deferred.extend([])
    assert list(deferred) == []
    deferred.close()
    with pytest.raises(SpoolError):
        deferred.extend([make_prepared()])


def put_one_by_one(deferred, rows):
    for row in rows:
        deferred.extend([row])


def test_of_rows_that_a_full_disk_does_not_take_the_earlier_ones_come_back(tmp_path):
    rows = [make_prepared(n) for n in range(99)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    deferred = DeferredRows(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(SpoolError):
            put_one_by_one(deferred, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(SpoolError):
        deferred.extend(rows)
    assert 0 < len(deferred) < 99
    assert list(deferred) == rows[: len(deferred)]
    deferred.close()
