"""Rows on disk: they come back as they were, and nothing stays behind."""

import gc
from contextlib import closing
from datetime import datetime
from decimal import Decimal

import pytest

from records.row_spool import CHUNK_BYTES, CHUNK_ROWS, RowSpool, SpoolError

VALUES = [
    (1, "👩‍👩‍👧\n", None, Decimal("1.50")),
    (2**64, b"\xff", datetime(2026, 1, 13), {"a"}),  # noqa: DTZ001 - as MySQL gives it
]


def test_rows_come_back_as_dicts_as_often_as_asked(tmp_path):
    spool = RowSpool(["a", "b", "c", "d"], tmp_path)
    assert (len(spool), list(spool)) == (0, [])
    spool.extend(VALUES)
    spool.extend(VALUES[:1])
    expected = [dict(zip("abcd", row, strict=True)) for row in [*VALUES, VALUES[0]]]
    assert len(spool) == 3
    assert list(spool) == expected
    assert list(spool) == expected
    spool.close()


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9])
def test_what_is_cut_off_does_not_come_back(tmp_path, length):
    with closing(RowSpool(["a"], tmp_path)) as spool:
        spool.extend([(1,), (2,)])
        spool.extend([(3,), (4,)])
        spool.cut(length)
        assert [row["a"] for row in spool] == [1, 2, 3, 4][:length]
        assert len(spool) == min(length, 4)


def test_the_file_has_no_name(tmp_path):
    spool = RowSpool(["a"], tmp_path)
    spool.extend([(1,)])
    assert list(tmp_path.iterdir()) == []
    spool.close()
    gc.collect()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(SpoolError, match="nowhere"):
        RowSpool(["a"], tmp_path / "nowhere")


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9])
def test_a_column_can_be_read_alone(tmp_path, length):
    with closing(RowSpool(["a", "b", "c"], tmp_path)) as spool:
        spool.extend([(1, "x", None), (2, "y", b"")])
        spool.extend([(3, "z", 1.5)])
        spool.cut(length)
        assert list(spool.values("b")) == ["x", "y", "z"][:length]
        assert [row["b"] for row in spool] == ["x", "y", "z"][:length]


def test_large_rows_are_read_back_few_at_a_time(tmp_path):
    spool = RowSpool(["a", "b"], tmp_path)
    spool.extend((number, CHUNK_BYTES // 4 * "x") for number in range(9))
    spool.extend((number, "x") for number in range(CHUNK_ROWS + 1))
    assert [len(chunk) for chunk in spool.chunks()] == [4, 4, 1, CHUNK_ROWS, 1]
    spool.close()
