"""What a run says at its end: what happened, what it means for the data, what to do."""

import logging
from pathlib import Path

import pytest

from monitoring.console import key_advice, log_end, stop_advice
from records.exit_statuses import StopReason
from tests.results import delivered, filtered, finished_run, not_attempted, refused

US, EU = "https://api.iterable.com", "https://api.eu.iterable.com"


def end_of(rows, caplog, advice=""):
    """Return the warnings and errors at the end of a run over *rows*."""
    with caplog.at_level(logging.WARNING):
        log_end(finished_run(rows), Path("results.json"), advice)
    return [record.getMessage() for record in caplog.records]


def test_a_run_that_is_well_warns_of_nothing(caplog):
    assert end_of(delivered(3), caplog) == []


def test_rows_that_were_not_delivered_are_counted_and_their_reasons_found(caplog):
    assert end_of([*delivered(3), *refused(2)], caplog) == [
        "2 of 5 rows were not delivered. Fix what results.json names for each, then run again"
    ]


def test_fields_that_were_left_out_say_what_became_of_the_rest(caplog):
    assert end_of(filtered(1), caplog) == [
        "The project takes no new fields: Iterable left candidate, plan_type out of users/update. "
        "The rest has arrived. Create the fields in Iterable; then profiles that lack some are "
        "sent once more"
    ]


def test_a_run_that_was_stopped_says_how_many_rows_it_did_not_come_to(caplog):
    assert end_of([*delivered(1), *not_attempted(4)], caplog, "The advice") == [
        "Not attempted: 4 of 5 users; nothing of theirs was sent",
        "The advice",
    ]


@pytest.mark.parametrize(
    ("reason", "detail", "happened"),
    [
        (StopReason.OUTAGE, "no definite answer", "Iterable seems to be down: no definite answer"),
        (StopReason.DEADLINE, "", "MAX_RUNTIME_SECONDS is over"),
        (StopReason.SIGINT, "", "Stopped by a signal"),
        (StopReason.SIGTERM, "", "Stopped by a signal"),
    ],
)
def test_a_stop_says_what_happened_then_what_it_means_then_what_to_do(reason, detail, happened):
    assert stop_advice(reason, detail, US) == (
        f"{happened}. No more rows were sent. Run again to send the rest"
    )


@pytest.mark.parametrize(("url", "other"), [(US, EU), (EU, US)])
def test_a_refused_key_names_the_other_data_centre(url, other):
    said = stop_advice(StopReason.KEY_REFUSED, "the key is disabled", url)
    begin = "the key is disabled. No more rows were sent. Check ITERABLE_API_KEY"
    assert said.startswith(begin)
    assert said.endswith(f"needs {other}")
    assert "that project's data centre" in key_advice("http://localhost:1")


def test_other_reasons_bring_their_own_words():
    assert stop_advice(StopReason.ROW_COUNT, "Query 2 returned 3 rows", US) == (
        "Query 2 returned 3 rows"
    )
    assert stop_advice(None, "", US) == ""
