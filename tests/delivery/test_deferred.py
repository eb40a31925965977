"""Rows whose turn comes later: on disk, and as they were."""

import pytest

from delivery.deferred import DeferredRows
from records.outcomes import CallOutcome, CallStatus
from records.row_spool import SpoolError
from tests.rows import make_prepared

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)


def test_rows_come_back_as_they_were_and_in_their_order(tmp_path):
    rows = [make_prepared(n)._replace(users_update=OK) for n in range(5)]
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
