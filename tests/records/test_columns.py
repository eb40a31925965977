"""Columns: which kind one is by the protocol, and how its values are shown to people."""

import pytest

from records.columns import Column, Kind, columns_of

NO_CHARACTERS, UTF8 = 63, 45


@pytest.mark.parametrize(
    ("number", "charset", "column"),
    [
        # Those that MariaDB does not have, or not so; a test of the connection has the others.
        (6, NO_CHARACTERS, Column("x", Kind.NULL)),
        (242, NO_CHARACTERS, Column("x", Kind.OTHER)),
        (245, NO_CHARACTERS, Column("x", Kind.JSON)),
        # Only of long text is it known that it is compared by bytes.
        (252, UTF8, Column("x", Kind.TEXT, by_bytes=True)),
        (254, UTF8, Column("x", Kind.TEXT)),
        (252, NO_CHARACTERS, Column("x", Kind.BINARY)),
    ],
)
def test_the_protocol_tells_a_columns_kind(number, charset, column):
    assert columns_of([("x", number, *5 * [None], 128, charset)]) == [column]


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (Kind.INTEGER, b"-7", -7),
        (Kind.INTEGER, b"18446744073709551615", 2**64 - 1),
        (Kind.INTEGER, b"C-17", "C-17"),
        (Kind.TINYINT, b"1", 1),
        (Kind.DECIMAL, b"7", "7"),
        (Kind.TEXT, "Zoë\n".encode(), "Zoë\n"),
        (Kind.TEXT, b"ann\xff", "0x616e6eff"),
        (Kind.BINARY, b"a\nb", "0x610a62"),
        (Kind.BINARY, b"ann@example.com", "ann@example.com"),
        (Kind.BIT, b"\x05", "0x05"),
        (Kind.OTHER, b"\x00\x01", "0x0001"),
        (Kind.BINARY, None, None),
    ],
)
def test_people_see_a_number_a_text_or_bytes_in_hex(kind, value, shown):
    found = Column("x", kind).shown(value)
    assert (found, type(found)) == (shown, type(shown))
