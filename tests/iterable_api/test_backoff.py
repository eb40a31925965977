"""How long a client waits before it repeats a request."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from iterable_api.backoff import backoff_s, retry_after_s, seconds_since, sleep


def http_date(**ahead):
    return format_datetime(datetime.now(UTC) + timedelta(**ahead))


def test_backoff_doubles_with_full_jitter_up_to_32_seconds():
    for attempt, longest in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 32), (5000, 32)]:
        waits = [backoff_s(attempt) for _ in range(300)]
        assert 0 <= min(waits) < longest / 4
        assert longest * 3 / 4 < max(waits) <= longest


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("soon", None),
        ("", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("-5", 0.0),
        ("86400", 60.0),
        ("nan", 60.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("2200000000 JAN 0:0 0", None),
        pytest.param(http_date(days=1), 60.0, id="tomorrow"),
    ],
)
def test_retry_after_is_read_and_capped(header, seconds):
    assert retry_after_s(header) == seconds


def test_retry_after_as_a_date_counts_from_now():
    assert retry_after_s(http_date(seconds=30)) == pytest.approx(30, abs=2)


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_the_age_of_a_date_is_negative_in_the_future(ahead_s):
    assert seconds_since(http_date(seconds=ahead_s)) == pytest.approx(-ahead_s, abs=2)


@pytest.mark.parametrize(
    "header", [None, "", "noon", "Wed, 21 Oct 2015 07:28:00", "2200000000 JAN 0:0 0"]
)
def test_a_date_that_cannot_be_read_has_no_age(header):
    assert seconds_since(header) is None


def test_a_sleep_asks_for_no_stop():
    assert sleep(0) is False
