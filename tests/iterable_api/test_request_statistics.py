"""What was sent and answered, counted by endpoint."""

from iterable_api.request_statistics import RequestStatistics


def test_answers_are_counted_by_status_and_what_is_missing_too():
    statistics = RequestStatistics()
    for status in (200, 200, 429, None):
        statistics.sent("users/update")
        if status:
            statistics.answered("users/update", status, 0.1)
    statistics.sent("events/track")
    found = statistics.to_json()
    assert found["users/update"]["requests"] == 4
    assert found["users/update"]["answers"] == {"200": 2, "429": 1, "no answer": 1}
    assert found["events/track"] == {
        "requests": 1,
        "answers": {"no answer": 1},
        "latency_seconds": {},
    }


def test_quantiles_are_of_the_requests_that_were_answered():
    statistics = RequestStatistics()
    for number in range(1, 101):
        statistics.sent("users/update")
        statistics.answered("users/update", 200, number / 1000)
    assert statistics.to_json()["users/update"]["latency_seconds"] == {
        "p50": 0.050,
        "p90": 0.090,
        "p95": 0.095,
        "p99": 0.099,
        "max": 0.100,
    }
