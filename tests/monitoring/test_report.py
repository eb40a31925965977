"""The report: what it says of a job, what it survives, and how a real browser shows it."""

import html
import json
import os
import re
import stat
import tracemalloc
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configuration.command_line import ExitStatus
from monitoring.report import (
    ENDINGS,
    FAILED_ROWS_SHOWN,
    RUNS_SHOWN,
    ReportError,
    duration,
    write_report,
)
from monitoring.report_charts import RunAxis, lines, stacked_bars
from records import results_reader
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, RowOutcome
from records.results_reader import WHOLE_FILE_BYTES, read_failed_rows, read_run
from records.results_writer import ResultsWriter, Run
from tests.monitoring.browser import browser, find_browser

NOW = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)
LAST = datetime(2026, 3, 1, 2, 15, tzinfo=UTC)
OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1, "no such field")
DOWN = CallOutcome(CallStatus.UNAVAILABLE, 503, None, 5)
HOSTILE = '<script>hacked=1</script><img src=x onerror="hacked=2">@example.com'
LATENCY = {"p50": 0.1, "p90": 0.2, "p95": 0.25, "p99": 0.5, "max": 1.5}
ENDPOINTS = {
    "users/update": {
        "requests": 6,
        "answers": {"200": 5, "no answer": 1},
        "latency_seconds": LATENCY,
    }
}


def delivered(count):
    return [RowOutcome(i, f"user{i}@example.com", OK, OK) for i in range(count)]


def refused(count, email="user@example.com"):
    return [RowOutcome(i, email, BAD, NOT_SENT) for i in range(count)]


def save(folder, begun=LAST, rows=(), status=0, summary=None, **run):
    """Write a results file; *summary* and *run* replace fields that no writer would set so."""
    with ResultsWriter(folder, begun) as results:
        results.add(rows)
        record = Run(version="1.0.0", started_at=begun, rows_read=len(rows))
        results.finish(record, status)
    head, mark, tail = results.path.read_text().partition('\n],\n"summary": ')
    end = json.loads('{"summary": ' + tail)
    end["summary"].update(summary or {})
    end["run"].update(run)
    end = (
        f'{json.dumps(end["summary"], indent=2)},\n"run": {json.dumps(end["run"], indent=2)}\n}}\n'
    )
    results.path.write_text(head + mark + end)
    return results.path


def save_daily(folder, statuses, count=100, **run):
    """Write a run for each exit status, one a day, the last of them at LAST."""
    for days, status in enumerate(reversed(statuses)):
        save(folder, LAST - timedelta(days=days), delivered(count), status, **run)


def report_text(folder, now=NOW):
    """Return what a reader of the report on *folder* sees, in one line."""
    page = write_report(folder, now=now).read_text()
    page = re.sub(r"<(style|title|desc)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_healthy_job_is_said_to_be_so(tmp_path):
    save_daily(tmp_path, [0, 1, 0, 0, 0])
    text = report_text(tmp_path)
    assert "Healthy The last run delivered every row: 100 of 100 (exit status 0)." in text
    assert "Last run 3 h 45 min ago 2026-03-01 02:15 Last success 3 h 45 min ago" in text
    assert "Streak 3 runs succeeded Rhythm every 24 h" in text
    assert "Written 2026-03-01 06:00 UTC. All times are UTC." in text


def test_a_failing_job_says_since_when_and_why(tmp_path):
    save_daily(tmp_path, [0, 0, 0, 0, 3, 3], error="the server is gone; check DB_HOST")
    text = report_text(tmp_path)
    assert "Failing The last run failed at the database; nothing was sent (exit status 3)." in text
    assert "the server is gone; check DB_HOST No success for 2 d 3 h" in text
    assert "Last success 2 d 3 h ago 2026-02-27 02:15 Streak 2 runs did not succeed" in text


def test_rows_that_were_not_delivered_need_a_look(tmp_path):
    save(tmp_path, rows=[*delivered(7), *refused(2)], status=1)
    text = report_text(tmp_path)
    assert "Needs a look The last run finished; 2 of 9 rows were not delivered" in text


def test_a_job_that_no_longer_runs_is_not_healthy(tmp_path):
    save_daily(tmp_path, [0] * 5)
    assert "Healthy" in report_text(tmp_path, LAST + timedelta(hours=47))
    text = report_text(tmp_path, LAST + timedelta(hours=49))
    assert "Failing" in text
    assert "No run for 2 d 1 h; it usually runs every 24 h" in text


def test_runs_by_hand_have_no_rhythm_to_miss(tmp_path):
    for minutes in (0, 1, 7, 9, 55, 57):
        save(tmp_path, LAST + timedelta(minutes=minutes), delivered(9))
    text = report_text(tmp_path, LAST + timedelta(days=9))
    assert "Healthy" in text
    assert "Rhythm" not in text


def test_a_job_of_working_days_is_not_missed_on_sunday(tmp_path):
    friday = datetime(2026, 2, 27, 2, 15, tzinfo=UTC)
    for days in range(25):
        if (friday - timedelta(days=days)).weekday() < 5:
            save(tmp_path, friday - timedelta(days=days), delivered(9))
    assert "Rhythm every 24 h" in report_text(tmp_path, friday + timedelta(days=2.9))
    assert "Healthy" in report_text(tmp_path, friday + timedelta(days=2.9))
    assert "Failing" in report_text(tmp_path, friday + timedelta(days=4))


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (99, "Rows: 99 is less than half of the usual 200"),
        (100, ""),
        (400, ""),
        (401, "Rows: 401 is more than double the usual 200"),
    ],
)
def test_an_unusual_number_of_rows_is_noticed(tmp_path, rows, note):
    for days in range(1, 4):
        save(tmp_path, LAST - timedelta(days=days), delivered(200))
    save(tmp_path, rows=delivered(rows))
    text = report_text(tmp_path)
    assert ("unusual" in text) == bool(note)
    assert ("Needs a look" in text) == bool(note)
    assert note in text


def test_a_slow_run_is_noticed(tmp_path):
    for days in range(1, 4):
        save(tmp_path, LAST - timedelta(days=days), delivered(9), duration_seconds=60)
    save(tmp_path, rows=delivered(9), duration_seconds=130)
    text = report_text(tmp_path)
    assert "Duration: 2 min 10 s is more than double the usual 1 min" in text
    assert "Rate: 0.069 rows/s is less than half of the usual 0.15 rows/s" in text


def test_few_runs_are_not_called_usual(tmp_path):
    save(tmp_path, LAST - timedelta(days=1), delivered(100))
    save(tmp_path, rows=delivered(1))
    text = report_text(tmp_path)
    assert "too few runs to say what is usual" in text
    assert "Healthy" in text


@pytest.mark.parametrize("trial", [{"dry_run": True}, {"limit": 1}])
def test_trials_are_shown_and_not_judged(tmp_path, trial):
    save(tmp_path, rows=delivered(5), status=1, **trial)
    assert "Not in use yet" in report_text(tmp_path)
    save(tmp_path, LAST - timedelta(days=1), delivered(5))
    text = report_text(tmp_path)
    assert "Healthy The last run delivered every row: 5 of 5" in text
    assert "2 runs as a table" in text


def test_a_dry_run_of_an_older_file_has_planned_rows(tmp_path):
    path = save(tmp_path, summary={"total": 7}, dry_run=True)
    assert read_run(path).counts["planned"] == 7


@pytest.mark.parametrize("status", ExitStatus)
def test_every_exit_status_is_explained(tmp_path, status):
    save(tmp_path, status=status)
    text = report_text(tmp_path)
    assert f"(exit status {int(status)})" in text
    assert status in ENDINGS


@pytest.mark.parametrize("status", [99, None, "0"])
def test_an_unknown_exit_status_is_not_taken_for_success(tmp_path, status):
    save(tmp_path, exit_status=status)
    assert "Failing The last run ended in a way this report does not know" in report_text(tmp_path)


def test_errors_are_counted_by_code_with_a_few_customers_each(tmp_path):
    save(tmp_path, LAST - timedelta(days=1), refused(10, "old@example.com"), 1)
    partial = [RowOutcome(50, "half@example.com", OK, DOWN)]
    save(tmp_path, rows=[*refused(2, "new@example.com"), *partial], status=1)
    text = report_text(tmp_path)
    assert (
        "BadParams users/update, HTTP 400, refused: mend the row: Iterable will not take it as it "
        "is 2 12 2 2026-03-01 0 new@example.com 1 new@example.com 2 old@example.com HTTP 503"
    ) in text
    assert "HTTP 503 events/track, unavailable: run again" in text
    assert "50 half@example.com partial failure events/track unavailable 503" in text


def test_of_many_failed_rows_the_first_are_shown_and_the_rest_counted(tmp_path):
    path = save(tmp_path, rows=refused(FAILED_ROWS_SHOWN + 50), status=1)
    text = report_text(tmp_path)
    assert text.count("total failure users/update") == FAILED_ROWS_SHOWN
    assert f"And 50 more: all of them are in {path.name}" in text


def test_latencies_are_shown_per_endpoint(tmp_path):
    save(tmp_path, rows=delivered(3), summary={"endpoints": ENDPOINTS})
    save(tmp_path, LAST - timedelta(days=1), delivered(3))  # as older versions wrote it
    text = report_text(tmp_path)
    assert "Latency of users/update ms p50 p95 p99" in text
    assert "users/update 6 100 200 250 500 1,500 200: 5, no answer: 1" in text


def test_only_the_newest_runs_are_read_and_the_page_says_so(tmp_path):
    save_daily(tmp_path, [0] * (RUNS_SHOWN + 5), count=1)
    text = report_text(tmp_path)
    assert f"Shows the newest {RUNS_SHOWN} of {RUNS_SHOWN + 5} results files." in text
    assert f"{RUNS_SHOWN} runs as a table" in text


def test_nothing_from_the_data_becomes_markup(tmp_path):
    row = RowOutcome(
        HOSTILE, HOSTILE, CallOutcome(CallStatus.REFUSED, 400, HOSTILE, 1, HOSTILE), OK
    )
    endpoints = {HOSTILE: {"requests": 1, "answers": {HOSTILE: 1}, "latency_seconds": LATENCY}}
    fields = dict.fromkeys(("error", "mode", "version"), HOSTILE)
    save(tmp_path, rows=[row], status=4, summary={"endpoints": endpoints}, **fields)
    (tmp_path / "integration_results_<script>.json").write_text("{}")
    page = write_report(tmp_path, now=NOW).read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert page.count(html.escape(HOSTILE).replace("&quot;", "&#34;")) > 10


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a whole JSON document"),
        (b'{\n"schema_version": 1,\n"results": [\n{"customer_id"', "was it cut off?"),
        (b"\x00\xff\xfe", "not a whole JSON document"),
        (b"[" * 100_000, "not a whole JSON document"),
        (b"[]", "is not a results file"),
        (b'{"schema_version": 1}', "it has no run"),
        (b'{"schema_version": 2, "run": {}, "summary": {}}', "has schema_version 2"),
        (b'{"run": {}, "summary": {}}', "has schema_version None"),
        (b'{"schema_version": 1, "run": {}, "summary": {}}', "not a whole JSON document of ours"),
        (b'{"x": "' + b"x" * WHOLE_FILE_BYTES, "is large, and cut off or not laid out"),
    ],
)
def test_a_file_that_cannot_be_read_is_left_out_and_named(tmp_path, content, reason):
    (tmp_path / "integration_results_20260302_000000.json").write_bytes(content)
    text = report_text(tmp_path)
    assert "Unreadable None of the results files can be read" in text
    save(tmp_path, rows=delivered(3))
    text = report_text(tmp_path)
    assert "Healthy" in text
    assert re.search(
        f"left out integration_results_20260302_000000.json.*{re.escape(reason)}", text
    )


def test_a_damaged_row_is_named_and_its_run_still_counts(tmp_path):
    path = save(tmp_path, rows=[*refused(2), *delivered(1)], status=1)
    lines_ = path.read_text().splitlines(keepends=True)
    lines_[4] = lines_[4][:90] + "\n"
    path.write_text("".join(lines_))
    text = report_text(tmp_path)
    assert "2 of 3 rows were not delivered" in text
    assert f"{path.name} has a damaged row" in text


def test_a_file_in_another_layout_says_the_same(tmp_path):
    rows = [*delivered(2), *refused(3), RowOutcome(9, "half@example.com", OK, DOWN)]
    path = save(tmp_path, rows=rows, status=1, summary={"endpoints": ENDPOINTS})
    run, failed = read_run(path), list(read_failed_rows(path))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    assert read_run(path) == run
    assert list(read_failed_rows(path)) == failed
    assert [row.outcome for row in failed] == ["total_failure"] * 3 + ["partial_failure"]


def test_an_email_that_quotes_a_field_hides_no_failure(tmp_path):
    path = save(tmp_path, rows=refused(1, '"outcome": "successful"'), status=1)
    assert [row.email for row in read_failed_rows(path)] == ['"outcome": "successful"']


def test_half_a_character_does_not_stop_the_report(tmp_path):
    save(tmp_path, rows=refused(1, "\ud800@example.com"), status=1)
    assert "?@example.com" in report_text(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
RUN_FIELDS = ("started_at", "duration_seconds", "sending_seconds", "exit_status", "error", "limit")
SUMMARY_FIELDS = ("total", "successful", "partial_failures", "total_failures", "endpoints")


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
    write_report(folder, now=NOW)  # what is loaded once
    tracemalloc.start()
    try:
        write_report(folder, now=NOW)
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
    assert write_report(tmp_path, now=NOW) == old
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [results, old]
    elsewhere = tmp_path / "status.html"
    assert write_report(tmp_path, elsewhere, now=NOW) == elsewhere
    assert elsewhere.read_text() == old.read_text()


def test_a_folder_without_results_is_told_what_to_do(tmp_path):
    (tmp_path / "integration_results_x.json").mkdir()
    with pytest.raises(ReportError, match=r"Run python3 main.py first.*RESULTS_DIR"):
        write_report(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    save(tmp_path)
    with pytest.raises(ReportError, match=r"nowhere/report.html cannot be written: No such file"):
        write_report(tmp_path, tmp_path / "nowhere" / "report.html")


DAYS = [LAST + timedelta(days=n) for n in range(4)]


def test_bars_stand_on_each_other_and_reach_the_top_of_a_round_scale():
    groups = [("good", "g", [10, 0, 20, 40]), ("lost", "b", [10, 0, 0, 0]), ("never", "n", [0] * 4)]
    chart = stacked_bars(RunAxis(DAYS), "name", "Rows", groups)
    assert [tick.label for tick in chart.y_ticks] == ["0", "10", "20", "30", "40"]
    bars = [re.findall(r"M\S+ (\S+)h\S+v-([\d.]+)", series.path) for series in chart.series]
    assert bars == [
        [("100.000", "25.000"), ("100.000", "50.000"), ("100.000", "100.000")],
        [("75.000", "25.000")],
    ]
    assert chart.slots[0].text == "2026-03-01 02:15 UTC: 10 good, 10 lost"


def test_one_failed_row_of_a_million_is_seen():
    groups = [("good", "g", [999_999]), ("lost", "b", [1])]
    chart = stacked_bars(RunAxis(DAYS[:1]), "name", "Rows", groups)
    assert re.search(r"v-1.500h", chart.series[1].path)


def test_a_line_is_broken_where_nothing_was_measured():
    chart = lines(RunAxis(DAYS), "name", "Rate", "rows/s", [("rate", "c", [4, 8, None, 2])])
    assert chart is not None
    assert re.sub(r"[ML](\S+) ", r" ", chart.series[0].path).split() == [
        "50.000",
        "0.000",
        "75.000",
    ]
    assert chart.series[0].path.count("M") == 2
    assert chart.description.endswith("rate: 2 to 8 rows/s, last 2.")
    assert lines(RunAxis(DAYS), "name", "Rate", "rows/s", [("rate", "c", [None] * 4)]) is None


@pytest.mark.parametrize("count", [1, 2, 5, 30, 90])
@pytest.mark.parametrize("hours", [0.01, 24, 24 * 30])
def test_dates_on_an_axis_never_touch(count, hours):
    ticks = RunAxis([LAST + timedelta(hours=hours * n) for n in range(count)]).ticks()
    assert ticks
    assert all(after.at - before.at > 15 for before, after in pairwise(ticks))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600 * 25, "1 d 1 h")],
)
def test_durations_are_told_in_two_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.program
def test_a_browser_shows_the_report_on_any_screen_and_runs_nothing_in_it(tmp_path):
    program = find_browser()
    if program is None:
        reason = "NO BROWSER TEST: no chromium on the PATH; on Debian, apt-get install chromium"
        (pytest.fail if os.environ.get("EXPECT_BROWSER") else pytest.skip)(reason)
    save_daily(tmp_path, [0, 0, 3, 0], summary={"endpoints": ENDPOINTS})
    bad = CallOutcome(CallStatus.REFUSED, 400, HOSTILE, 1, HOSTILE)
    save(
        tmp_path,
        LAST + timedelta(hours=1),
        [RowOutcome(1, HOSTILE, bad, NOT_SENT)],
        1,
        error=HOSTILE,
    )
    report = write_report(tmp_path, now=NOW)
    grounds = set()
    with browser(program) as page:
        for width, scheme in ((1200, "light"), (1200, "dark"), (360, "light"), (360, "dark")):
            page.open(report, width=width, scheme=scheme)
            page.evaluate("document.querySelector('details').open = true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("typeof hacked") == "undefined"
            sizes = page.evaluate(
                "[...document.querySelectorAll('svg')].map(each => each.getBoundingClientRect())"
                ".map(box => Math.min(box.width, box.height))"
            )
            assert len(sizes) > 10
            assert min(sizes) > 9
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
