"""Rows on disk: they come back as they were, and nothing stays behind."""

import gc
from contextlib import closing
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.columns import Column, Kind
from records.row_spool import CHUNK_BYTES, CHUNK_ROWS, RowSpool, SpoolError

COLUMNS = [
    Column("a", Kind.INTEGER),
    Column("b"),
    Column("c", Kind.MOMENT),
    Column("d", Kind.DATE),
    Column("e", Kind.DECIMAL),
]
ROWS = [
    (b"1", "👩‍👩‍👧\n".encode(), None, b"2026-01-13", b"1.50"),
    (b"18446744073709551615", b"\xff", b"2026-01-13 14:30:45", b"0000-00-00", None),
    (b"-7", b"", b"2026-01-13 14:30:45.5", None, b"0"),
]
SHOWN = [
    (1, "👩‍👩‍👧\n", None, date(2026, 1, 13), "1.50"),
    (2**64 - 1, "0xff", datetime(2026, 1, 13, 14, 30, 45), "0000-00-00", None),  # noqa: DTZ001
    (-7, "", datetime(2026, 1, 13, 14, 30, 45, 500_000), None, "0"),  # noqa: DTZ001
]


def texts(*values):
    """Return rows of one text each."""
    return [(value,) for value in values]


def test_people_get_numbers_texts_and_dates_by_the_names_of_the_columns(tmp_path):
    with closing(RowSpool(COLUMNS, tmp_path)) as spool:
        assert spool.columns == tuple(COLUMNS)
        assert list(spool) == []
        spool.extend(ROWS)
        expected = [dict(zip("abcde", row, strict=True)) for row in SHOWN]
        assert list(spool) == expected
        assert list(spool) == expected


@given(st.lists(st.tuples(st.none() | st.binary(), st.none() | st.binary())))
def test_bytes_null_and_empty_come_back_as_they_were(rows):
    with closing(RowSpool([Column("a"), Column("b")])) as spool:
        spool.extend(rows)
        assert [row for chunk in spool.chunks() for row in chunk] == rows


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9])
def test_what_is_cut_off_does_not_come_back(tmp_path, length):
    with closing(RowSpool([Column("a")], tmp_path)) as spool:
        spool.extend(texts(b"1", b"2"))
        spool.extend(texts(b"3", b"4"))
        spool.cut(length)
        assert [row["a"] for row in spool] == ["1", "2", "3", "4"][:length]
        assert len(spool) == sum(map(len, spool.chunks())) == min(length, 4)


def test_the_file_has_no_name(tmp_path):
    spool = RowSpool([Column("a")], tmp_path)
    spool.extend(texts(b"1"))
    assert list(tmp_path.iterdir()) == []
    spool.close()
    gc.collect()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(SpoolError, match="nowhere"):
        RowSpool([Column("a")], tmp_path / "nowhere")


def test_large_rows_are_read_back_few_at_a_time(tmp_path):
    spool = RowSpool([Column("a"), Column("b")], tmp_path)
    spool.extend((b"%d" % number, CHUNK_BYTES // 4 * b"x") for number in range(9))
    spool.extend((None, b"x") for number in range(CHUNK_ROWS + 1))
    assert [len(chunk) for chunk in spool.chunks()] == [4, 4, 1, CHUNK_ROWS, 1]
    spool.close()
