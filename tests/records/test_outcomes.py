"""How a row ends, and what outcomes say of it for people."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterable_api.mapping import RowMapping
from records.columns import JOB_COLUMNS, Column, Kind
from records.outcomes import (
    CallOutcome,
    CallStatus,
    RowOutcome,
    RowStatus,
    refused_row,
    row_not_attempted,
)
from tests.rows import make_prepared, make_row


@pytest.mark.parametrize(
    ("update", "track", "status"),
    [
        ("delivered", "delivered", RowStatus.SUCCESSFUL),
        ("unchanged", "delivered", RowStatus.SUCCESSFUL),
        ("delivered", "no_event", RowStatus.SUCCESSFUL),
        ("delivered", "not_sent", RowStatus.PARTIAL_FAILURE),
        ("superseded", "unknown", RowStatus.PARTIAL_FAILURE),
        ("refused", "not_sent", RowStatus.TOTAL_FAILURE),
        ("superseded", "no_event", RowStatus.UNCHANGED),
        ("delivered", "forgotten", RowStatus.FORGOTTEN),
        ("not_sent", "not_sent", RowStatus.NOT_ATTEMPTED),
        ("unchanged", "not_sent", RowStatus.NOT_ATTEMPTED),
        ("unchanged", "planned", RowStatus.PLANNED),
    ],
)
def test_the_status_of_a_row_follows_from_its_two_calls(update, track, status):
    calls = CallOutcome(CallStatus(update)), CallOutcome(CallStatus(track))
    assert RowOutcome(1, "a@example.com", *calls).status is status


def names_of(**values):
    """Return the names of a row whose ``customer_id`` is BINARY."""
    kinds = {"customer_id": Kind.BINARY}
    mapping = RowMapping([Column(name, kinds.get(name, Kind.TEXT)) for name in JOB_COLUMNS])
    return mapping.names_of(mapping.row_of(make_row(1, **values)))


@pytest.mark.parametrize("outcome_of", [lambda names: refused_row(names, "no"), row_not_attempted])
def test_a_row_with_binary_columns_can_be_found_by_what_is_written_of_it(outcome_of):
    outcome = outcome_of(names_of(customer_id=bytes(range(16)), email=b"ann\xff@example.com"))
    assert outcome.customer_id == "0x000102030405060708090a0b0c0d0e0f"
    assert outcome.email == "0x616e6eff406578616d706c652e636f6d"


def test_an_id_in_bytes_that_is_text_is_written_as_text():
    assert names_of(customer_id=b"c-17").customer_id == "c-17"
    assert make_prepared(1, customer_id=b"c-17").customer_id == "c-17"


@pytest.mark.parametrize("customer_id", [17, "17", b"17", b"00017"])
def test_the_id_of_an_integer_column_is_a_number(customer_id):
    assert make_prepared(1, customer_id=customer_id).customer_id == 17
    assert make_prepared(1, customer_id=None).customer_id is None


@given(st.binary(min_size=16, max_size=16))
def test_an_events_id_is_the_uuid_of_version_5_that_its_name_in_the_ledger_makes(name):
    prepared = make_prepared()._replace(event_name=name)
    assert prepared.event_id == str(uuid.UUID(bytes=name, version=5))
