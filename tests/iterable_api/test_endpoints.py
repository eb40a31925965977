"""What was sent and answered, counted by endpoint."""

from iterable_api.endpoints import RequestStatistics


def test_answers_are_counted_by_status_and_latency_and_what_is_missing_too():
    statistics = RequestStatistics()
    statistics.sent("users/update")
    for number in range(1, 101):
        statistics.sent("users/update")
        statistics.answered("users/update", 200 if number < 99 else 429, number / 1000)
    statistics.sent("events/track")
    for seconds in (0.001, 0.002, 0.003):
        statistics.sent("users/bulkUpdate")
        statistics.answered("users/bulkUpdate", 200, seconds)
    missing = {"requests": 1, "answers": {"no answer": 1}, "latency_seconds": {}}
    quantiles = {"p50": 0.050, "p90": 0.090, "p95": 0.095, "p99": 0.099, "max": 0.100}
    found = statistics.to_json()
    assert found.pop("users/bulkUpdate")["latency_seconds"]["p50"] == 0.002
    assert found == {
        "events/track": missing,
        "users/update": {
            "requests": 101,
            "answers": {"200": 98, "429": 2, "no answer": 1},
            "latency_seconds": quantiles,
        },
    }
