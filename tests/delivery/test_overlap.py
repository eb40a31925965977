"""Rows that are under way together, against the local Iterable: who waits for whom."""

import json

import pytest

from delivery.stopping import Stop
from iterable_api.payloads import Payloads
from iterable_client import IterableClient
from records.outcomes import RowStatus, outcome_of
from tests.rows import deliver_rows, make_row


@pytest.fixture
def arrivals(iterable, tmp_path):
    """Deliver 20 rows as a run does; return when the requests arrived, by call and email."""

    def arrivals(**latency_ms):
        iterable.change(latency_ms={name.replace("_", "/"): ms for name, ms in latency_ms.items()})
        with IterableClient(
            "test-key", iterable.url, payloads=Payloads("db"), rate_share=1.0
        ) as client:
            outcomes = deliver_rows(
                tmp_path,
                map(make_row, range(20)),
                lambda batch: [outcome_of(client.process_prepared(row)) for row in batch],
                Stop(),
                workers=50,
            )
        assert {outcome.status for outcome in outcomes} == {RowStatus.SUCCESSFUL}
        return [
            {
                json.loads(request.body)["email"]: request.at
                for request in iterable.requests
                if request.path == f"/api/{endpoint}"
            }
            for endpoint in ("users/update", "events/track")
        ]

    return arrivals


def test_other_users_are_sent_while_events_are_under_way(arrivals):
    users, events = arrivals(events_track=1000)
    assert len(users) == len(events) == 20
    # All have left before the first event was answered.
    assert max([*users.values(), *events.values()]) < min(events.values()) + 1


def test_the_event_of_a_row_waits_for_the_answer_to_its_own_user_alone(arrivals):
    users, events = arrivals(users_update=60)
    assert all(events[email] >= users[email] + 0.06 for email in users)
