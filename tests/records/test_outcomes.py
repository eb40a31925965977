"""What outcomes say of a row, for people."""

import pytest

from delivery.pipeline import not_attempted
from records.outcomes import as_shown, readable, refused_row
from tests.rows import make_prepared, make_row


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\x01\xff", "0x01ff"),
        (bytearray(b"\x00"), "0x00"),
        (b"", "0x"),
        (b"a\nb", "0x610a62"),
        (b"ann@example.com", "ann@example.com"),
        ("Zoë", "Zoë"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_bytes_are_shown_as_text_or_in_hex(value, shown):
    assert as_shown(value) == shown
    assert isinstance(value, bytes | bytearray) or readable(value) is value


@pytest.mark.parametrize(
    "outcome_of_row", [lambda row: refused_row(row, "no"), lambda row: not_attempted([row])[0]]
)
def test_a_row_with_binary_columns_can_be_found_by_what_is_written_of_it(outcome_of_row):
    row = make_row(1, email=b"ann\xff@example.com") | {"customer_id": bytes(range(16))}
    outcome = outcome_of_row(row)
    assert outcome.customer_id == "0x000102030405060708090a0b0c0d0e0f"
    assert outcome.email == "0x616e6eff406578616d706c652e636f6d"


def test_an_id_in_bytes_that_can_be_sent_is_written_as_text():
    assert make_prepared(1, customer_id=b"c-17").customer_id == "c-17"
