"""How a row ends, and what outcomes say of it for people."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.outcomes import Call, CallOutcome, CallStatus, Delivery, RowStatus
from tests.results import ended


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
    assert ended(1, "a@example.com", *calls).status is status


@given(st.binary(min_size=16, max_size=16).filter(any))
def test_an_events_id_is_the_uuid_of_version_5_that_its_name_in_the_ledger_makes(name):
    row = Delivery(1, "a@example.com", event=Call("events/track", name))
    assert row.event_id == str(uuid.UUID(bytes=name, version=5))
