"""Iterable's limits, held over any second (row 27)."""

import pytest

from sandbox.endpoints import ENDPOINTS
from sandbox.rate_limits import LIMITS_PER_S, RateLimits
from tests.sandbox.conftest import example


@pytest.mark.parametrize(
    ("endpoint", "scale"),
    [
        ("users/update", 0.02),
        ("events/track", 0.005),
        ("users/bulkUpdate", 2),
        ("events/trackBulk", 1),
    ],
)
def test_the_request_over_the_limit_is_a_429(client, endpoint, scale):
    client.iterable.change(limit_scale=scale)
    answers = [client.post(endpoint, example(endpoint)) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert answers[-1].json()["code"] == "RateLimitExceeded"
    assert "Retry-After" not in answers[-1].headers
    assert client.iterable.stats["peak_per_s"] == {endpoint: 10}


def test_limits_are_per_key_can_be_switched_off_and_can_name_a_delay(client):
    client.iterable.change(limit_scale=0.2, retry_after=3)
    batches = [client.update_all().status_code for _ in range(2)]
    assert batches == [200, 429]
    assert client.update_all().headers["Retry-After"] == "3"
    other = client.post("users/bulkUpdate", {"users": []}, headers={"Api-Key": "other"})
    assert other.status_code == 200
    client.iterable.change(limits=False)
    assert client.update_all().status_code == 200


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_second_holds_more_than_the_limit_wherever_it_begins(endpoint):
    times: list[float] = []
    now = [0.0]
    limits = RateLimits(clock=lambda: now[0])
    for step in range(6000):
        now[0] = step * 0.00041
        if limits.accept("key", endpoint):
            times.append(now[0])
    limit = LIMITS_PER_S[endpoint]
    assert all(b - a >= 1.0 for a, b in zip(times, times[limit:], strict=False))
    assert len(times) >= 2 * limit


def test_what_another_client_takes_is_missing_from_the_limit():
    limits = RateLimits(other_clients={"users/update": 250})
    assert limits.capacity("users/update") == 250
    limits.limit_scale = 0.1
    assert (limits.capacity("users/update"), limits.capacity("users/bulkUpdate")) == (0, 1)
