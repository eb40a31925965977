"""What was sent and answered, counted by endpoint."""

from iterable_api.endpoints import RequestStatistics


def test_answers_are_counted_by_status_and_latency_and_what_is_missing_too():
    statistics = RequestStatistics()
    statistics.sent("users/update")
    for number in range(1, 101):
        statistics.sent("users/update")
        statistics.answered("users/update", 200 if number < 99 else 429, number / 1000)
    statistics.sent("events/track")
    statistics.sent("users/bulkUpdate")
    statistics.answered("users/bulkUpdate", 200, 0.002)
    quantiles = {"p50": 0.050, "p90": 0.090, "p95": 0.095, "p99": 0.099, "max": 0.100}
    found = {name: [*each.values()] for name, each in statistics.to_json().items()}
    assert found == {
        "users/update": [101, {"200": 98, "429": 2, "no answer": 1}, quantiles],
        "events/track": [1, {"no answer": 1}, {}],
        "users/bulkUpdate": [1, {"200": 1}, dict.fromkeys(quantiles, 0.002)],
    }
