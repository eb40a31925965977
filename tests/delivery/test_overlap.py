"""Rows that are under way together, against the local Iterable: who waits for whom."""

import json

import pytest

from delivery.stopping import Stop
from iterable_api.payloads import Payloads
from iterable_client import IterableClient
from records.outcomes import RowStatus
from tests.rows import deliver_rows, make_row


@pytest.fixture
def deliver(iterable, tmp_path):
    """Deliver so many rows as a run does; return their outcomes."""

    def deliver(count, stop=None):
        with IterableClient(
            "test-key", iterable.url, payloads=Payloads("db"), rate_share=1.0
        ) as client:
            return deliver_rows(
                tmp_path,
                [make_row(number) for number in range(count)],
                lambda batch: [client.process_prepared(row) for row in batch],
                stop or Stop(),
                workers=50,
            )

    return deliver


def arrivals(iterable, endpoint):
    """Return when the requests to *endpoint* arrived, by email."""
    return {
        json.loads(request.body)["email"]: request.at
        for request in iterable.requests
        if request.path == f"/api/{endpoint}"
    }


def test_other_users_are_sent_while_events_are_under_way(deliver, iterable):
    iterable.change(latency_ms={"events/track": 300})
    deliver(20)
    events = arrivals(iterable, "events/track").values()
    assert len(events) == 20
    # All have left before the first event was answered.
    assert max(arrivals(iterable, "users/update").values()) < min(events) + 0.3
    assert max(events) < min(events) + 0.3


def test_the_event_of_a_row_waits_for_the_answer_to_its_own_user_alone(deliver, iterable):
    iterable.change(latency_ms={"users/update": 60})
    deliver(20)
    users, events = arrivals(iterable, "users/update"), arrivals(iterable, "events/track")
    assert all(events[email] >= users[email] + 0.06 for email in users)
    assert all(events[email] <= users[email] + 0.06 + 0.2 for email in users)


@pytest.mark.parametrize(("rows", "latency_s"), [(3, 0.1), (50, 0.03)])
def test_a_short_run_takes_less_time_than_one_request_after_the_other(
    deliver, iterable, rows, latency_s
):
    iterable.change(latency_ms=1000 * latency_s)
    outcomes = deliver(rows)
    assert {outcome.status for outcome in outcomes} == {RowStatus.SUCCESSFUL}
    last_answer = max(arrivals(iterable, "events/track").values()) + latency_s
    assert last_answer - min(arrivals(iterable, "users/update").values()) < rows * 2 * latency_s
