"""Rows on disk: they come back as they were, and nothing stays behind."""

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.columns import Column, Kind
from records.row_spool import CHUNK_BYTES, CHUNK_ROWS, RowSpool, SpoolError

COLUMNS = [Column("a", Kind.INTEGER), Column("b")]


def test_people_get_numbers_and_texts_by_the_names_of_the_columns(tmp_path):
    with closing(RowSpool(COLUMNS, tmp_path)) as spool:
        assert (spool.columns, list(spool)) == (tuple(COLUMNS), [])
        spool.extend([(b"18446744073709551615", "👩‍👩‍👧\n".encode()), (None, b"")])
        expected = [{"a": 2**64 - 1, "b": "👩‍👩‍👧\n"}, {"a": None, "b": ""}]
        assert list(spool) == list(spool) == expected
        # The file has no name.
        assert list(tmp_path.iterdir()) == []


@given(st.lists(st.tuples(st.none() | st.binary(), st.none() | st.binary())))
def test_bytes_null_and_empty_come_back_as_they_were(rows):
    with closing(RowSpool(COLUMNS)) as spool:
        spool.extend(rows)
        assert [row for chunk in spool.chunks() for row in chunk] == rows


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9])
def test_what_is_cut_off_does_not_come_back(tmp_path, length):
    with closing(RowSpool([Column("a")], tmp_path)) as spool:
        spool.extend([(b"1",), (b"2",)])
        spool.extend([(b"3",), (b"4",)])
        spool.cut(length)
        assert [row["a"] for row in spool] == ["1", "2", "3", "4"][:length]
        assert len(spool) == sum(map(len, spool.chunks())) == min(length, 4)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(SpoolError, match="nowhere"):
        RowSpool([Column("a")], tmp_path / "nowhere")


def test_a_full_disk_is_noticed_at_once():
    with closing(RowSpool([Column("a")])) as spool:
        spool._file.close()
        spool._file = Path("/dev/full").open("wb")  # noqa: SIM115 - closed with the spool
        with pytest.raises(SpoolError, match="No space left"):
            spool.extend([(b"1",)])


def test_large_rows_are_read_back_few_at_a_time(tmp_path):
    with closing(RowSpool(COLUMNS, tmp_path)) as spool:
        spool.extend((b"%d" % number, CHUNK_BYTES // 4 * b"x") for number in range(9))
        spool.extend((None, b"x") for number in range(CHUNK_ROWS + 1))
        assert [len(chunk) for chunk in spool.chunks()] == [4, 4, 1, CHUNK_ROWS, 1]
