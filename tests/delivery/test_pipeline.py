"""Every row gets one outcome, whatever happens to the others or on the way."""

import itertools
import resource
from collections import Counter
from contextlib import nullcontext, suppress

import pytest

from delivery import pipeline
from delivery.bulk import BatchLimit
from delivery.pipeline import LaterRows, Pipeline
from delivery.recorder import Recorder, RefusalWatch
from delivery.stopping import Stop
from delivery.worker_pool import WorkerPool
from iterable_api.payloads import Payloads
from records.delivery_ledger import DeliveryLedger, LedgerError
from records.exit_statuses import RunError, StopReason
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, Delivery, Fault, RowStatus
from records.results_files import ResultsWriter
from records.row_spool import SpoolError
from records.run import RunOptions, RunRecord
from tests.results import BAD, MISTYPED, OK
from tests.rows import (
    CHUNK_ROWS,
    answered,
    chunks_of,
    in_order,
    make_planner,
    make_prepared,
    no_waits,
    open_ledger,
    project_fields,
    raw_row,
    repeats_in,
    settled,
)

KEY_REFUSED = CallOutcome(CallStatus.UNAVAILABLE, 401, "BadApiKey", 1, "unknown", Fault.KEY)
NOT_FOUND = CallOutcome(CallStatus.UNAVAILABLE, 200, "notFoundEmails", 1, "later", Fault.ITERABLE)
ROWS = [raw_row(number) for number in range(1, 5)]
GOOD, BAD_ROW, NOT_ATTEMPTED = (
    *(RowStatus.SUCCESSFUL, RowStatus.TOTAL_FAILURE, RowStatus.NOT_ATTEMPTED),
)


@pytest.fixture
def stop():
    return Stop()


@pytest.fixture
def recorder(tmp_path, stop):
    """Yield the recorder of a run with its files in a folder."""
    run = RunRecord(RunOptions(), "1.0.0")
    with (
        open_ledger(tmp_path / "state.sqlite3") as ledger,
        ResultsWriter(tmp_path, run.started_at) as results,
    ):
        yield Recorder(run, stop, ledger, project_fields(ledger, run), results)


@pytest.fixture
def recorded(recorder, monkeypatch):
    """Return the rows in the results, also those of a run that raised."""
    rows: list[Delivery] = []

    def keep(some):
        rows.extend(some)
        ResultsWriter.add(recorder.results, some)

    monkeypatch.setattr(recorder.results, "add", keep)
    return rows


@pytest.fixture
def deliver(recorder, recorded, tmp_path):
    """Return what delivers rows as a run does, by default one after another."""

    def deliver(rows, process, *, workers=1, batch_size=1):
        """Return *rows* with their outcomes; *process* makes their calls."""
        recorded.clear()
        recorder.begin(len(rows), {})
        in_batches = process if batch_size > 1 else None
        pool = WorkerPool(recorder.stop, process, in_batches, workers, no_waits)
        planner = make_planner(recorder.ledger, repeats_in(rows), fields=recorder.fields)
        Pipeline(planner, pool, recorder, BatchLimit(batch_size), tmp_path).deliver(chunks_of(rows))
        return in_order(recorded)

    return deliver


def send(batch):
    for row in batch:
        answered(row, OK, OK)


def statuses(rows):
    return [row.status for row in rows]


@pytest.mark.parametrize(
    ("second", "status", "last"),
    [
        (BAD, "refused", GOOD),
        (KEY_REFUSED, "unavailable", NOT_ATTEMPTED),
        (ZeroDivisionError(), "unknown", NOT_ATTEMPTED),
    ],
)
def test_one_rows_failure_stops_no_other_row_unless_it_is_the_keys_or_a_bug(
    deliver, stop, recorded, second, status, last
):
    """A bug is raised, but only once every row has its outcome."""
    is_bug = isinstance(second, Exception)

    def process(batch):
        (row,) = batch
        if row.customer_id == 2 and is_bug:
            raise second
        answered(row, *((second, NOT_SENT) if row.customer_id == 2 else (OK, OK)))

    with pytest.raises(ZeroDivisionError) if is_bug else nullcontext():
        deliver(ROWS, process)
    rows = in_order(recorded)
    assert statuses(rows) == [GOOD, BAD_ROW, last, last]
    assert rows[1].profile.outcome.status == status
    if second is KEY_REFUSED:
        assert (stop.reason, stop.detail) == (StopReason.KEY_REFUSED, "unknown")
        assert (rows[3].email, rows[3].profile.outcome) == ("user4@example.com", NOT_SENT)


def test_a_stop_lets_no_new_row_begin(deliver, stop):
    def process(batch):
        stop.request(StopReason.SIGTERM)
        stop.request(StopReason.SIGINT)
        send(batch)

    rows = deliver([raw_row(number) for number in range(3 * CHUNK_ROWS)], process)
    assert statuses(rows) == [GOOD, *[NOT_ATTEMPTED] * (3 * CHUNK_ROWS - 1)]
    assert stop.reason is StopReason.SIGTERM


def test_bad_values_stop_no_run_of_which_iterable_holds_a_row(deliver, recorder, stop):
    deliver(ROWS, send)
    recorder.refusals = RefusalWatch(stop)  # of another run

    def process(batch):
        for row in batch:
            answered(row, MISTYPED, OK)

    rows = deliver([*ROWS, *(raw_row(number) for number in range(5, 55))], process)
    assert statuses(rows) == [RowStatus.UNCHANGED] * 4 + [BAD_ROW] * 50


def test_rows_are_planned_only_as_fast_as_they_are_delivered(deliver, monkeypatch):
    monkeypatch.setattr(pipeline, "GROUP_ROWS", 30)
    planned, returned, ahead = 0, 0, []
    held = DeliveryLedger.held

    def counting(self, rows):
        nonlocal planned
        planned += len(rows)
        return held(self, rows)

    def process(batch):
        nonlocal returned
        ahead.append(planned - returned)
        returned += 1
        send(batch)

    monkeypatch.setattr(DeliveryLedger, "held", counting)
    deliver([raw_row(number) for number in range(500)], process, workers=3)
    assert max(ahead) <= 3 + 16 + 30


# --- What fails on the way


@pytest.mark.parametrize("error", [ZeroDivisionError(), LedgerError("no space"), OSError(28, "no")])
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize(
    ("owner", "method"),
    [(DeliveryLedger, name) for name in ("held", "forget", "renew", "record")]
    + [(LaterRows, "extend"), (ResultsWriter, "add")],
)
def test_whatever_fails_each_row_has_one_outcome_and_what_was_delivered_is_recorded(
    deliver, recorded, stop, monkeypatch, owner, method, after, error
):
    """Rows in flight too, those that wait for another row, and events that are sent again."""
    calls, real, delivered = itertools.count(), getattr(owner, method), set()

    def failing(self, *arguments, **options):
        if next(calls) >= after:
            raise error
        return real(self, *arguments, **options)

    def process(batch):
        for row in batch:
            is_new = row.profile.send and row.customer_id % 10 == 1
            answered(row, OK, NOT_FOUND if is_new else OK)
            if not is_new:
                delivered.add(row.customer_id)

    monkeypatch.setattr(pipeline, "GROUP_ROWS", 50)
    monkeypatch.setattr(pipeline, "VISIBLE_AFTER_S", 0.0)
    monkeypatch.setattr(owner, method, failing)
    rows = [raw_row(n, email=f"{n // 2 if n < 20 else n}@example.com") for n in range(200)]
    with suppress(ZeroDivisionError):
        deliver(rows, process, workers=4)
        assert stop.reason is StopReason.NOT_RECORDED
    assert stop.requested
    assert [row.customer_id for row in in_order(recorded)] == list(range(200))
    assert delivered == {row.customer_id for row in recorded if row.status is GOOD}


def test_too_little_room_is_found_before_anything_is_sent(recorder):
    with pytest.raises(RunError, match=r"RESULTS_DIR: .* free"):
        recorder.begin(10**12, {})
    assert recorder.run.rows_read == 0


# --- Rows of one address


def same_address(*numbers):
    return [raw_row(n, email="Same@example.com", first_name=f"Name {n}") for n in numbers]


def keeping(sent, refused=()):
    """Return what sends rows, and notes in *sent* which of their calls."""

    def process(batch):
        for row in batch:
            sent.append((row.customer_id, row.profile.send, row.event.send))
            answered(row, BAD if row.customer_id in refused else OK, OK)

    return process


@pytest.mark.parametrize("batch_size", [1, 100])
def test_of_two_rows_with_one_address_the_first_is_the_profile(deliver, batch_size, warned):
    sent: list[tuple[int, bool, bool]] = []
    rows = [raw_row(7), *same_address(1, 2, 3), raw_row(8)]
    options = {"batch_size": batch_size, "workers": 4}
    first, *others = deliver(rows, keeping(sent), **options)[:3]
    assert sorted(sent) == [
        *((1, True, True), (2, False, True), (3, False, True), (7, True, True), (8, True, True))
    ]
    assert (first.profile.outcome, first.status) == (OK, GOOD)
    assert [(r.profile.outcome.status, r.status) for r in others] == [("superseded", GOOD)] * 2
    assert warned == ["2 rows repeat an earlier row's address; the first row's profile is sent"]
    # A second run sends nothing.
    rows = deliver(rows, lambda _batch: pytest.fail("sent"), **options)
    assert set(statuses(rows)) == {RowStatus.UNCHANGED}


@pytest.mark.parametrize("by_iterable", [True, False])
def test_if_the_first_row_of_an_address_is_refused_the_next_one_is_sent(deliver, by_iterable):
    sent: list[tuple[int, bool, bool]] = []
    rows = same_address(1, 2, 3)
    if not by_iterable:  # no body can be made of it
        rows[0] = raw_row(1, email="same@example.com", first_name=b"\xff")
    rows = deliver(rows, keeping(sent, {1}), workers=4)
    assert sent[-2:] == [(2, True, True), (3, False, True)]
    assert len(sent) == (3 if by_iterable else 2)
    assert [r.profile.outcome.status for r in rows] == ["refused", "delivered", "superseded"]


# --- Users that Iterable does not know yet


def finding_later(after, sent):
    """Return what sends rows; their events find no user before their turn number *after*."""
    turns: Counter[int] = Counter()

    def process(batch):
        for row in batch:
            turns[row.customer_id] += 1
            sent.append((row.customer_id, row.profile.send))
            answered(row, OK, OK if turns[row.customer_id] > after else NOT_FOUND)

    return process


def test_an_event_that_found_no_user_is_sent_again_later(deliver, recorder, monkeypatch):
    monkeypatch.setattr(pipeline, "VISIBLE_AFTER_S", 0.05)
    extend = LaterRows.extend
    sent: list[tuple[int, bool]] = []

    def keep(self, rows):
        # Or a run that is killed meanwhile would send their profiles again.
        assert all(profile.same for profile, _ in recorder.ledger.held(rows))
        extend(self, rows)

    monkeypatch.setattr(LaterRows, "extend", keep)
    rows = deliver(ROWS, finding_later(1, sent))
    assert statuses(rows) == [GOOD] * 4
    assert {row.profile.outcome for row in rows} == {OK}
    assert sorted(sent) == [(n, again) for n in range(1, 5) for again in (False, True)]


def test_an_event_that_finds_no_user_the_second_time_either_is_not_the_rows_fault(
    deliver, monkeypatch
):
    monkeypatch.setattr(pipeline, "VISIBLE_AFTER_S", 0.0)
    sent: list[tuple[int, bool]] = []
    (row,) = deliver(ROWS[:1], finding_later(9, sent))
    assert row.status is RowStatus.PARTIAL_FAILURE
    assert row.event.outcome == NOT_FOUND
    # The next run sends the profile again: Iterable does not have it.
    deliver(ROWS[:1], finding_later(0, sent))
    assert sent == [(1, True), (1, False), (1, True)]


def test_a_stop_ends_the_wait_for_users_to_become_visible(deliver, stop, monkeypatch):
    monkeypatch.setattr(stop, "wait", lambda _seconds: stop.request(StopReason.SIGTERM))
    sent: list[tuple[int, bool]] = []
    (row,) = deliver(ROWS[:1], finding_later(9, sent))
    assert (row.profile.outcome, row.event.outcome, sent) == (OK, NOT_SENT, [(1, True)])


# --- Rows that come later, on disk


def rows_of(later):
    """Return the rows of the next round."""
    return list(itertools.chain.from_iterable(later.next_round()))


def test_rows_come_back_as_they_were_and_in_their_order(tmp_path):
    rows = [settled(make_prepared(n), OK) for n in range(4)]
    # One without its bodies.
    rows.append(Payloads("db").prepare(raw_row(5, first_name=None)))
    later = LaterRows(tmp_path)
    later.extend(rows[:3])
    first = later.next_round()
    assert next(first) == rows[:3]
    # What is put aside during a round comes in the next.
    later.extend(rows[3:])
    assert list(first) == []
    assert rows_of(later) == rows[3:]
    assert (len(later), rows_of(later)) == (0, [])


def test_of_rows_that_a_full_disk_does_not_take_the_earlier_ones_come_back(tmp_path):
    rows = [make_prepared(n) for n in range(99)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    later, attempts = LaterRows(tmp_path), itertools.count()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(SpoolError):
            list(map(later.extend, ([rows[number]] for number in attempts)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    taken = next(attempts) - 1
    assert taken > 0
    assert rows_of(later) == rows[:taken]
