"""The report page: what it survives, and how a real browser shows it."""

import html
import re
import stat
import tracemalloc
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.report import OUTCOMES, ReportError, what_to_do, write_report
from monitoring.report_history import ErrorGroup
from records import results_reader
from records.exit_statuses import ExitStatus, RunError
from records.outcomes import (
    ARRIVED,
    COUNTERS,
    NOT_SENT,
    CallOutcome,
    CallStatus,
    Fault,
    RowOutcome,
)
from tests.monitoring.browser import browser
from tests.monitoring.report_page import report_text, write_report_at
from tests.results import (
    BAD,
    ENDPOINTS,
    JSON,
    LAST,
    MISTYPED,
    OK,
    delivered,
    failing,
    forgotten,
    refused,
    save,
    save_daily,
)

# Of calls with such a status no row has failed.
ALL_IS_WELL = {*ARRIVED, CallStatus.FORGOTTEN, CallStatus.PLANNED}
HOSTILE = '<script>hacked=1</script><img src=x onerror="hacked=2">@example.com'


def test_every_outcome_is_shown():
    assert {status for status, *_ in OUTCOMES} == set(COUNTERS)
    assert len({css_class for *_, css_class in OUTCOMES}) == len(OUTCOMES)


def test_the_requests_of_the_last_run_are_told_by_endpoint(tmp_path):
    save(tmp_path, rows=delivered(3), summary={"endpoints": ENDPOINTS})
    assert "users/update 6 100 200 250 500 1,500 200: 5, no answer: 1" in report_text(tmp_path)


def test_nothing_from_the_data_becomes_markup(tmp_path):
    call = CallOutcome(CallStatus.REFUSED, 400, HOSTILE, 1, HOSTILE, fields=((HOSTILE, HOSTILE),))
    row = RowOutcome(HOSTILE, HOSTILE, call, OK)
    endpoints = {HOSTILE: {"requests": 1, "answers": {HOSTILE: 1}, "latency_seconds": {"p50": 0.1}}}
    fields = dict.fromkeys(("error", "mode", "version"), HOSTILE)
    summary = {"endpoints": endpoints, "filtered_fields": {HOSTILE: [HOSTILE]}}
    save(tmp_path, rows=[row], status=4, summary=summary, **fields)
    page = write_report_at(tmp_path).read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert page.count(html.escape(HOSTILE).replace("&quot;", "&#34;")) > 10


def test_forgotten_rows_have_a_colour_and_a_column_and_are_not_undelivered(tmp_path):
    save(tmp_path, LAST - timedelta(days=1), [*delivered(8), *refused(1)], 1)
    save(tmp_path, rows=[*delivered(8), *forgotten(2)])
    page = write_report_at(tmp_path).read_text()
    assert '<path class="bars fill-forgotten"' in page
    assert "8 successful, 2 forgotten on request" in page
    assert ".fill-forgotten { fill:" in page
    undelivered = page.partition("<h3>Rows not delivered")[2].partition("</figure>")[0]
    assert "1 total failures" in undelivered
    assert "forgotten" not in undelivered
    text = report_text(tmp_path)
    assert "Rows Successful Forgotten on request Total failures Duration" in text


@pytest.mark.parametrize("status", [each for each in CallStatus if each not in ALL_IS_WELL])
@pytest.mark.parametrize("fault", ["", *Fault])
@pytest.mark.parametrize("http_status", [None, 400, 429, 503])
def test_the_row_is_to_be_fixed_only_where_the_reason_lies_in_it(status, fault, http_status):
    advice = what_to_do(ErrorGroup("label", "users/update", status, http_status, fault, (), LAST))
    assert advice
    of_a_row = status is CallStatus.REFUSED and fault is Fault.ROW and http_status != 429
    assert ("Fix the row" in advice) == of_a_row


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (
            CallOutcome(CallStatus.UNAVAILABLE, 401, "JwtError", 1, "a JWT key", Fault.KEY),
            "1 row: JwtError Fix what the message names, then run again. users/update, HTTP 401, "
            "unavailable. New in the last run. a JWT key 0 a@example.com",
        ),
        (
            CallOutcome(CallStatus.UNAVAILABLE, 403, None, 1, "not permitted", Fault.PROJECT),
            "1 row: HTTP 403 Fix what the message names, then run again. users/update, unavail",
        ),
        (
            CallOutcome(CallStatus.UNAVAILABLE, 403, None, 1, "<html>", Fault.NETWORK),
            "Find out what answers in Iterable's place (a proxy, a firewall?), then run again.",
        ),
        (
            CallOutcome(CallStatus.UNAVAILABLE, 400, "UserNotFound", 1, "", Fault.ITERABLE),
            "1 row: UserNotFound Run again: Iterable needed more time.",
        ),
        (
            CallOutcome(CallStatus.UNAVAILABLE, None, None, 5, "refused", Fault.NETWORK),
            "1 row: refused Run again: Iterable, or the way to it, was down. users",
        ),
        (
            CallOutcome(CallStatus.UNAVAILABLE, 429, None, 5, "", Fault.PROJECT),
            "Run again: Iterable asked for fewer requests.",
        ),
        (
            CallOutcome(CallStatus.UNKNOWN, None, None, 5, "timeout", Fault.NETWORK),
            "Run again: it may have arrived, and is sent once more.",
        ),
        (
            MISTYPED,
            "Iterable cannot change the type of a field: send it under another name "
            "(iterable_api/payloads.py), or ask Iterable. users/update, HTTP 400, refused; the "
            "project has plan_type as date.",
        ),
        (
            replace(MISTYPED, fields=()),
            "Fix the value in the database: the project does not take it in this field.",
        ),
        (BAD, "Fix the row in the database: Iterable will not take it as it is."),
        # As earlier versions wrote it.
        (
            CallOutcome(CallStatus.REFUSED, 403, "Forbidden", 1, "no permission"),
            "1 row: Forbidden Fix what the message names, then run again. users/update, HTTP 403",
        ),
    ],
)
def test_an_error_is_told_with_what_to_do_about_it(tmp_path, call, advice):
    save(tmp_path, rows=failing(call), status=1)
    assert advice in report_text(tmp_path)


def test_an_event_that_the_run_did_not_come_to_is_to_be_sent_again(tmp_path):
    save(tmp_path, rows=[RowOutcome(1, "a@example.com", OK, NOT_SENT)], status=4)
    text = report_text(tmp_path)
    assert "Run again: the run ended before it was sent. events/track, not sent." in text


def test_half_a_character_does_not_stop_the_report(tmp_path):
    save(tmp_path, rows=refused(1, "\ud800@example.com"), status=1)
    assert "?@example.com" in report_text(tmp_path)


RUN_FIELDS = ("started_at", "duration_seconds", "sending_seconds", "exit_status", "error", "limit")
SUMMARY_FIELDS = (
    *("total", "successful", "partial_failures", "total_failures", "forgotten", "users_update"),
    *("endpoints", "filtered_fields"),
)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(RUN_FIELDS, JSON)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(SUMMARY_FIELDS, JSON)),
)
def test_whatever_stands_in_a_field_there_is_a_report(tmp_path_factory, run, summary):
    folder = tmp_path_factory.mktemp("odd")
    save(folder, summary=summary, **{"duration_seconds": 1, **run})
    assert "Iterable sync" in report_text(folder)


def peak_memory(folder):
    """Return the most memory that the report on *folder* took, in bytes."""
    write_report(folder)  # what is loaded once
    tracemalloc.start()
    try:
        write_report(folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(results_reader, "WHOLE_FILE_BYTES", 100_000)
    (tmp_path / "few").mkdir()
    save(tmp_path / "few", rows=[*delivered(500), *refused(500)], status=1)
    path = save(tmp_path, rows=[*delivered(5000), *refused(5000)], status=1)
    assert path.stat().st_size > 3_000_000
    assert peak_memory(tmp_path) < peak_memory(tmp_path / "few") + 100_000


def test_the_report_is_private_and_replaced_as_a_whole(tmp_path):
    results = save(tmp_path)
    old = tmp_path / "report.html"
    old.write_text("old")
    old.chmod(0o644)
    assert write_report(tmp_path) == old
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [results, old]
    assert "1 run as a table" in old.read_text()


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_results_is_told_what_to_do(tmp_path, name):
    (tmp_path / "integration_results_20260302_000000.json").mkdir()
    (tmp_path / "integration_results_old.json").touch()
    with pytest.raises(ReportError, match=r"Run python3 main.py first.*RESULTS_DIR"):
        write_report(tmp_path / name)


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match=r"read: Not a directory\. Check RESULTS_DIR"):
        write_report(tmp_path / "file")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    results = save(tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(
        ReportError, match=r"written: Is a directory. There is no new report; check"
    ):
        write_report(tmp_path)
    assert sorted(tmp_path.iterdir()) == [results, tmp_path / "report.html"]


def test_a_report_that_fails_is_one_of_the_errors_that_end_a_run():
    assert issubclass(ReportError, RunError)
    assert ReportError.status is ExitStatus.USAGE


# The contrast of each text with what is behind it, and the text. Source: WCAG 2.2, 1.4.3 (AA: 4.5).
CONTRASTS = """
const channels = colour => colour.match(/[\\d.]+/g).map(Number);
const luminance = colour => channels(colour).slice(0, 3).map(each => each / 255)
    .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
const behind = element => {
    const colour = getComputedStyle(element).backgroundColor, around = element.parentElement;
    return channels(colour)[3] === 0 && around ? behind(around) : colour;
};
[...document.body.querySelectorAll("*")]
    .filter(each => !each.closest("svg"))
    .filter(each => [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .map(each => {
        const both = [getComputedStyle(each).color, behind(each)].map(luminance).map(x => x + 0.05);
        return [Math.max(...both) / Math.min(...both), each.textContent.slice(0, 40)];
    })
"""


def test_what_is_drawn_is_also_told(tmp_path):
    save_daily(tmp_path, [0, 0, 3, 0])
    page = write_report_at(tmp_path).read_text()
    assert '<html lang="en">' in page
    headings = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    drawn = re.findall(r"<(?:svg|div)[^>]*(?:viewBox|role=\"img\")[^>]*>", page)
    assert len(drawn) > 4
    assert all("aria-label=" in each or "aria-hidden" in each or "key" in each for each in drawn)


@pytest.mark.program
def test_a_browser_shows_the_report_on_any_screen_and_runs_nothing_in_it(tmp_path):
    save_daily(tmp_path, [0, 0, 3, 0], summary={"endpoints": ENDPOINTS})
    bad = CallOutcome(CallStatus.REFUSED, 400, HOSTILE, 1, HOSTILE)
    save(
        tmp_path,
        LAST + timedelta(hours=1),
        [RowOutcome(1, HOSTILE, bad, NOT_SENT)],
        1,
        error=HOSTILE,
    )
    report = write_report_at(tmp_path)
    grounds = set()
    with browser() as page:
        for width, scheme in ((1200, "light"), (1200, "dark"), (360, "light"), (360, "dark")):
            page.open(report, width=width, scheme=scheme)
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("typeof hacked") == "undefined"
            sizes = page.evaluate(
                "[...document.querySelectorAll('svg')].map(each => each.getBoundingClientRect())"
                ".map(box => Math.min(box.width, box.height))"
            )
            assert len(sizes) > 5
            assert min(sizes) > 9
            contrasts = page.evaluate(CONTRASTS)
            assert len(contrasts) > 50
            assert min(contrasts)[0] >= 4.5, min(contrasts)
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2
        assert page.problems == []
        # What would be seen if the page had a script, or asked for anything:
        broken = tmp_path / "broken.html"
        head, _, rest = report.read_text().partition("<main>")
        broken.write_text(f"{head}<script>hacked=1</script><img src='http://127.0.0.1:1/'>{rest}")
        page.open(broken, width=1200)
        assert page.evaluate("typeof hacked") == "undefined"
        assert len(re.findall("violates the following", str(page.problems))) == 2
