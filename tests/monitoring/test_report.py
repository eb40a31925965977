"""The report page: what it survives, and how a real browser shows it."""

import html
import re
import stat
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.report import OUTCOMES, what_to_do, write_report
from monitoring.report_history import FILES_READ, _failed_rows, read_history
from records.exit_statuses import RunError
from records.outcomes import CallOutcome, CallStatus, Fault, RowStatus
from tests.monitoring.browser import browser
from tests.monitoring.report_page import NOW, report_text
from tests.results import (
    BAD,
    ENDPOINTS,
    JSON,
    LAST,
    MISTYPED,
    OK,
    damage_second_row,
    delivered,
    ended,
    failing,
    forgotten,
    half_delivered,
    refused,
    save,
    save_daily,
)

HOSTILE = '<script>hacked=1</script><img src=x onerror="hacked=2">@example.com'


def test_every_outcome_is_shown():
    assert {status for status, *_ in OUTCOMES} == set(RowStatus)
    assert len({css_class for *_, css_class in OUTCOMES}) == len(OUTCOMES)


def test_nothing_from_the_data_becomes_markup(tmp_path):
    call = CallOutcome(CallStatus.REFUSED, 400, HOSTILE, 1, HOSTILE, fields=((HOSTILE, HOSTILE),))
    row = ended(HOSTILE, HOSTILE, call, OK)
    endpoints = {HOSTILE: {"requests": 1, "answers": {HOSTILE: 1}, "latency_seconds": {"p50": 0.1}}}
    fields = dict.fromkeys(("error", "job", "version"), HOSTILE)
    summary = {"endpoints": endpoints, "filtered_fields": {HOSTILE: [HOSTILE]}}
    # Half a character has no place in UTF-8.
    rows = [row, ended(2, "\ud800@example.com", call, OK)]
    save(tmp_path, rows=rows, status=4, summary=summary, **fields)
    page = write_report(tmp_path, NOW).read_text()
    assert "?@example.com" in page
    assert "<script" not in page
    assert "<img" not in page
    assert page.count(html.escape(HOSTILE).replace("&quot;", "&#34;")) > 10


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (BAD, "Fix the row in the database: Iterable does not accept it as it is."),
        (replace(BAD, fault=Fault.PROJECT), "Fix what the message names, then run again."),
        (replace(BAD, http_status=429), "Run again: Iterable asked for fewer requests."),
        (replace(BAD, status=CallStatus.UNKNOWN), "Run again: it may have arrived and is sent"),
    ],
)
def test_what_to_do_about_an_error(call, advice):
    assert advice in what_to_do(call)


def test_errors_of_the_last_run_are_counted_by_their_kind_with_a_few_customers_each(tmp_path):
    save(tmp_path, LAST - timedelta(days=1), failing(MISTYPED), 1)
    at_network, of_project = (
        CallOutcome(CallStatus.UNAVAILABLE, 403, None, 1, f"by the {fault}", fault)
        for fault in (Fault.NETWORK, Fault.PROJECT)
    )
    # A message that quotes one row stands beside that row.
    own = [replace(BAD, code="Own", message=f"no such plan: {plan}") for plan in ("a", "b")]
    rows = [
        *refused(12, "new@example.com"),
        *failing(*[at_network] * 4, *[of_project] * 3, *own, MISTYPED),
        *half_delivered(1),
    ]
    path = save(tmp_path, rows=rows, status=1, summary={"endpoints": ENDPOINTS})
    text = report_text(tmp_path)
    assert (
        "Why rows were not delivered 12 rows: BadParams Fix the row in the database: Iterable does "
        "not accept it as it is. users/update, HTTP 400, refused. no such field 0 new@example.com "
        "1 new@example.com 2 new@example.com"
    ) in text
    assert f"9 new@example.com and 2 more, in {path.name} 4 rows: HTTP 403 Run again" in text
    assert "0 a@example.com 1 a@example.com 2 a@example.com 3 a@example.com 3 rows: HTTP" in text
    assert "7 a@example.com no such plan: a 8 a@example.com no such plan: b" in text
    assert "1 row: HTTP 503 Run again" in text
    assert "events/track, unavailable." in text
    assert "refused; the project has plan_type as date." in text
    assert text.count("RequestFieldsTypesMismatched") == 1
    # Of a file with a damaged row, the rows before it are told.
    damage_second_row(path)
    text = report_text(tmp_path)
    assert "1 row: BadParams" in text
    assert f"{path.name} has a damaged row" in text
    assert "users/update 6 100 200 250 500 1,500 200: 5, no answer: 1" in text


def test_a_failed_row_is_read_back_as_it_is(tmp_path):
    rows = [*refused(1, '"outcome": "successful"'), *half_delivered(1), *failing(MISTYPED)]
    path = save(tmp_path, rows=[*delivered(2), *rows, *forgotten(1)], status=1)
    # Rows that did not fail are not even parsed.
    path.write_text(path.read_text().replace('{"customer_id": 0, "email": "user0', "damaged", 1))
    history = read_history(tmp_path, NOW)
    assert [row for error in history.errors for row, _ in error.examples] == rows
    path.unlink()
    assert list(_failed_rows(history.runs[0], history)) == []
    assert history.skipped == {path.name: "cannot be read: No such file or directory"}


def test_only_the_newest_runs_are_read(tmp_path):
    save_daily(tmp_path, [0] * (FILES_READ + 2), count=1)
    text = report_text(tmp_path)
    assert f"{FILES_READ} runs as a table" in text
    assert LAST.date().isoformat() in text


def test_a_file_that_cannot_be_read_is_left_out_and_named(tmp_path):
    (tmp_path / "integration_results_20260302_000000.json").write_bytes(b"[]")
    text = report_text(tmp_path)
    assert "Failing Did it run? None of the results files can be used." in text
    save(tmp_path, rows=delivered(3))
    text = report_text(tmp_path)
    assert "Needs a look" in text
    assert (
        "Newer results files are not counted: integration_results_20260302_000000.json; see" in text
    )
    assert "left out integration_results_20260302_000000.json is no whole results file" in text
    save(tmp_path, LAST + timedelta(days=1), delivered(3))
    assert "Healthy" in report_text(tmp_path, NOW + timedelta(days=1))


def bar(mark, title, *parts):
    """Return the markup of a bar; *parts* are CSS classes and heights from top to bottom."""
    drawn = (
        f'<i style="height:{at}%;background:var(--fill-{css_class})"></i>'
        for css_class, at in parts
    )
    return f'<div class="bar{mark}" title="{title}"> {"".join(drawn) + " " * bool(parts)}</div>'


def test_two_charts_show_a_bar_for_each_run_of_the_whole_job(tmp_path):
    save(tmp_path, LAST, [*delivered(20), *refused(10)], 1, duration_seconds=5400)
    assert 'class="area"' not in write_report(tmp_path, NOW).read_text()
    save(tmp_path, LAST - timedelta(days=1), status=3, error="no", duration_seconds=0)
    save(tmp_path, LAST - timedelta(hours=1), delivered(90), limit=90)
    save(tmp_path, LAST - timedelta(days=200), delivered(90))
    page = " ".join(write_report(tmp_path, NOW).read_text().split())
    assert page.count('class="area"') == 2
    assert page.count('<div class="bar') == 4
    today, before = "Sun 1 Mar 2026, 02:15 UTC: ", "Sat 28 Feb 2026, 02:15 UTC: "
    parts = ("bad", "25.00"), ("good", "50.00")
    assert bar("", f"{today}20 successful, 10 total failures", *parts) in page
    assert bar("", f"{today}90 minutes", ("time", "90.00")) in page
    assert page.count(bar(" failed", f"{before}none")) == 2
    for height, label in ((50, "20"), (100, "40")):
        assert f'<span style="bottom:{height}%">{label}</span>' in page


RUN_FIELDS = ("started_at", "duration_seconds", "sending_seconds", "exit_status", "error", "limit")
SUMMARY_FIELDS = (
    *("total", "successful", "partial_failures", "total_failures", "forgotten", "users_update"),
    *("endpoints", "filtered_fields"),
)


@settings(max_examples=25, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(RUN_FIELDS, JSON)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(SUMMARY_FIELDS, JSON)),
)
def test_whatever_stands_in_a_field_there_is_a_report(tmp_path_factory, run, summary):
    folder = tmp_path_factory.mktemp("odd")
    save(folder, summary=summary, **{"duration_seconds": 1, **run})
    assert "Iterable sync" in report_text(folder)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    path = save(tmp_path, rows=[*delivered(4000), *refused(6000)], status=1)
    write_report(tmp_path)  # what is loaded once
    tracemalloc.start()
    write_report(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def test_the_report_is_its_owners_alone(tmp_path):
    save(tmp_path)
    assert stat.S_IMODE(write_report(tmp_path).stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_results_is_told_what_to_do(tmp_path, name):
    (tmp_path / "integration_results_20260302_000000.json").mkdir()
    with pytest.raises(RunError, match=r"Run python3 main.py first.*RESULTS_DIR"):
        write_report(tmp_path / name)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    results = save(tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"written: Is a directory\. There is no new"):
        write_report(tmp_path)
    assert sorted(tmp_path.iterdir()) == [results, tmp_path / "report.html"]


@pytest.mark.program
def test_a_browser_shows_the_report_on_any_screen_and_runs_nothing_in_it(tmp_path):
    save_daily(tmp_path, [0, 0, 3, 0], summary={"endpoints": ENDPOINTS})
    save(tmp_path, NOW, refused(3, HOSTILE), 1)
    report = write_report(tmp_path, NOW)
    with browser() as page:
        for width, scheme in ((1200, "light"), (360, "dark")):
            page.open(report, width=width, scheme=scheme)
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            charts = page.evaluate(
                "[...document.querySelectorAll('.area')]"
                ".map(each => each.getBoundingClientRect().height)"
            )
            assert min(charts) > 99
        assert (len(charts), page.problems) == (2, [])
        # What would be seen if the page had a script, or asked for anything:
        broken = tmp_path / "broken.html"
        head, _, rest = report.read_text().partition("<main>")
        broken.write_text(f"{head}<script>hacked=1</script><img src='http://127.0.0.1:1/'>{rest}")
        page.open(broken, width=1200)
        assert page.evaluate("typeof hacked") == "undefined"
        assert len(re.findall("violates the following", str(page.problems))) == 2
