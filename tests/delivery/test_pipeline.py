"""Every row gets one outcome, whatever happens to the others or on the way."""

import itertools
import resource
import threading
from collections import Counter
from functools import partial

import pytest

from delivery import pipeline
from delivery.pipeline import LaterRows
from delivery.stopping import Stop
from iterable_api.payloads import Payloads, RowError
from records.delivery_ledger import DeliveryLedger, LedgerError
from records.exit_statuses import StopReason
from records.outcomes import (
    NOT_SENT,
    CallOutcome,
    CallStatus,
    Delivery,
    Fault,
    RowStatus,
)
from records.results_writer import ResultsWriter
from records.row_spool import SpoolError
from tests.rows import (
    CHUNK_ROWS,
    answered,
    deliver_rows,
    in_order,
    make_prepared,
    make_row,
    raw_row,
    settled,
)

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "InvalidEmailAddressError", 1, fault=Fault.ROW)
KEY_REFUSED = CallOutcome(CallStatus.UNAVAILABLE, 401, "BadApiKey", 1, "unknown", Fault.KEY)
NOT_FOUND = CallOutcome(CallStatus.UNAVAILABLE, 200, "notFoundEmails", 1, "later", Fault.ITERABLE)
ROWS = [make_row(number) for number in range(1, 5)]
GOOD, BAD_ROW, NOT_ATTEMPTED = (
    *(RowStatus.SUCCESSFUL, RowStatus.TOTAL_FAILURE, RowStatus.NOT_ATTEMPTED),
)


@pytest.fixture
def deliver(tmp_path):
    return partial(deliver_rows, tmp_path)


@pytest.fixture
def recorded(monkeypatch):
    """Return the outcomes that stand in the results, also those of a run that raised."""
    outcomes: list[Delivery] = []
    add = ResultsWriter.add

    def keep(self, some):
        outcomes.extend(some)
        add(self, some)

    monkeypatch.setattr(ResultsWriter, "add", keep)
    return outcomes


def sender(second_row=OK):
    """Return what delivers rows; *second_row* is how the second one's profile ends."""

    def process(batch):
        return [outcome(row) for row in batch]

    def outcome(row):
        update = second_row if row.customer_id == 2 else OK
        if isinstance(update, Exception):
            raise update
        return answered(row, update, OK if update is OK else NOT_SENT)

    return process


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


@pytest.mark.parametrize("second", [BAD, KEY_REFUSED])
def test_one_rows_failure_stops_no_other_unless_it_is_the_keys(deliver, second):
    stop = Stop()
    outcomes = in_order(deliver(ROWS, sender(second), stop))
    last = GOOD if second is BAD else NOT_ATTEMPTED
    assert statuses(outcomes) == [GOOD, BAD_ROW, last, last]
    if second is KEY_REFUSED:
        assert (stop.reason, stop.detail) == (StopReason.KEY_REFUSED, "unknown")
        assert (outcomes[3].email, outcomes[3].profile.outcome) == ("user4@example.com", NOT_SENT)


def test_a_stop_lets_no_new_row_begin(deliver):
    stop = Stop()

    def process(batch):
        stop.request(StopReason.SIGTERM)
        stop.request(StopReason.SIGINT)
        return sender()(batch)

    rows = [make_row(number) for number in range(3 * CHUNK_ROWS)]
    outcomes = in_order(deliver(rows, process, stop))
    assert statuses(outcomes) == [GOOD, *(len(rows) - 1) * [NOT_ATTEMPTED]]
    assert stop.reason is StopReason.SIGTERM


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
        return sender()(batch)

    monkeypatch.setattr(DeliveryLedger, "held", counting)
    deliver([make_row(number) for number in range(500)], process, Stop(), workers=3)
    assert max(ahead) <= 3 + 16 + 30


# --- What is raised on the way


def test_a_bug_in_a_worker_is_raised_only_after_every_row_has_its_outcome(deliver, recorded):
    with pytest.raises(ZeroDivisionError):
        deliver(ROWS, sender(ZeroDivisionError()), Stop())
    recorded = in_order(recorded)
    assert statuses(recorded) == [GOOD, BAD_ROW, NOT_ATTEMPTED, NOT_ATTEMPTED]
    assert recorded[1].profile.outcome.status is CallStatus.UNKNOWN


@pytest.mark.parametrize("place", ["held", "forget", "renew", "record"])
@pytest.mark.parametrize("after", [0, 3])
def test_whatever_is_raised_every_row_in_flight_is_recorded(
    deliver, monkeypatch, recorded, place, after
):
    """An exception in the main thread must not lose what the workers have delivered."""
    calls, real = 0, getattr(DeliveryLedger, place)
    delivered: set[int] = set()

    def broken(self, *arguments, **options):
        nonlocal calls
        calls += 1
        if calls == after + 1:
            raise ZeroDivisionError
        return real(self, *arguments, **options)

    def process(batch):
        delivered.update(row.customer_id for row in batch)
        return sender()(batch)

    monkeypatch.setattr(pipeline, "GROUP_ROWS", 100)
    monkeypatch.setattr(DeliveryLedger, place, broken)
    with pytest.raises(ZeroDivisionError):
        deliver([make_row(number) for number in range(500)], process, Stop(), workers=4)
    assert sorted(outcome.customer_id for outcome in recorded) == list(range(500))
    assert delivered == {o.customer_id for o in recorded if o.status is GOOD}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), LedgerError("no space")])
@pytest.mark.parametrize("found", [True, False])
def test_a_full_ledger_stops_the_run_and_every_row_has_one_outcome(
    deliver, monkeypatch, error, found
):
    """Also one whose event is to be sent again."""

    def full(self, outcomes, *, sure):
        raise error

    monkeypatch.setattr(pipeline, "VISIBLE_AFTER_S", 0.0)
    monkeypatch.setattr(DeliveryLedger, "record", full)
    stop = Stop()
    outcomes = deliver(ROWS, sender() if found else finding_later(1, []), stop)
    assert stop.reason is StopReason.NOT_RECORDED
    assert sorted(out.customer_id for out in outcomes) == [1, 2, 3, 4]


# --- Rows of one address


def same_address(*numbers):
    return [make_row(n, email="Same@example.com", first_name=f"Name {n}") for n in numbers]


def keeping(sent, update=lambda row: OK):
    def process(batch):
        sent.extend((row.customer_id, row.profile.send, row.event.send) for row in batch)
        return [answered(row, update(row), OK) for row in batch]

    return process


@pytest.mark.parametrize("batch_size", [1, 100])
def test_of_two_rows_with_one_address_the_first_is_the_profile(deliver, batch_size, warned):
    sent: list[tuple[int, bool, bool]] = []
    rows = [make_row(7), *same_address(1, 2, 3), make_row(8)]
    options = {"batch_size": batch_size, "workers": 4}
    outcomes = deliver(rows, keeping(sent), Stop(), **options)
    assert sorted(sent) == [
        *((1, True, True), (2, False, True), (3, False, True), (7, True, True), (8, True, True))
    ]
    found = {o.customer_id: (o.profile.outcome.status, o.status) for o in outcomes}
    assert found[1] == (CallStatus.DELIVERED, GOOD)
    assert found[2] == found[3] == (CallStatus.SUPERSEDED, GOOD)
    told = "2 rows repeat an earlier row's address; the first row's profile is sent"
    assert warned == [told]
    # A second run sends nothing.
    outcomes = deliver(rows, lambda _batch: pytest.fail("sent"), Stop(), **options)
    assert set(statuses(outcomes)) == {RowStatus.UNCHANGED}


@pytest.mark.parametrize("by", ["Iterable", "its values"])
def test_if_the_first_row_of_an_address_is_refused_the_next_one_is_sent(deliver, monkeypatch, by):
    complete = Payloads.complete

    def without_first(self, prepared):
        if prepared.customer_id == 1 and by == "its values":
            raise RowError("no body")
        return complete(self, prepared)

    monkeypatch.setattr(Payloads, "complete", without_first)
    sent: list[tuple[int, bool, bool]] = []
    process = keeping(sent, lambda row: BAD if row.customer_id == 1 else OK)
    outcomes = deliver(same_address(1, 2, 3), process, Stop(), workers=4)
    assert sent[-2:] == [(2, True, True), (3, False, True)]
    assert len(sent) == (3 if by == "Iterable" else 2)
    assert [o.profile.outcome.status for o in outcomes] == ["refused", "delivered", "superseded"]


# --- Rows of one event


# --- Users that Iterable does not know yet


def finding_later(after, sent):
    """Process rows whose events find no user before their turn number *after*."""
    turns: Counter[int] = Counter()

    def process(batch):
        turns.update(row.customer_id for row in batch)
        sent.extend((row.customer_id, row.profile.send) for row in batch)
        return [
            answered(row, OK, OK if turns[row.customer_id] > after else NOT_FOUND) for row in batch
        ]

    return process


@pytest.mark.parametrize("batch_size", [1, 100])
def test_an_event_that_found_no_user_is_sent_again_later(deliver, monkeypatch, batch_size):
    monkeypatch.setattr(pipeline, "VISIBLE_AFTER_S", 0.05)
    extend = LaterRows.extend

    def remembered_first(self, rows):
        assert not rows or recorded_rows >= {row.customer_id for row in rows}
        extend(self, rows)

    def keep(self, outcomes, *, sure):
        recorded_rows.update(outcome.customer_id for outcome in outcomes)
        record(self, outcomes, sure=sure)

    # Or a run that is killed meanwhile would send their profiles again.
    recorded_rows: set[int] = set()
    record = DeliveryLedger.record
    monkeypatch.setattr(LaterRows, "extend", remembered_first)
    monkeypatch.setattr(DeliveryLedger, "record", keep)
    sent: list[tuple[int, bool]] = []
    outcomes = deliver(ROWS, finding_later(1, sent), Stop(), batch_size=batch_size)
    assert statuses(outcomes) == [GOOD] * 4
    assert {o.profile.outcome.status for o in outcomes} == {CallStatus.DELIVERED}
    assert sorted(sent) == [(n, again) for n in range(1, 5) for again in (False, True)]


def test_an_event_that_finds_no_user_the_second_time_either_is_not_the_rows_fault(
    deliver, monkeypatch
):
    monkeypatch.setattr(pipeline, "VISIBLE_AFTER_S", 0.0)
    sent: list[tuple[int, bool]] = []
    (outcome,) = deliver(ROWS[:1], finding_later(9, sent), Stop())
    assert outcome.status is RowStatus.PARTIAL_FAILURE
    assert outcome.event.outcome.status is CallStatus.UNAVAILABLE
    assert sent == [(1, True), (1, False)]
    # The next run sends the profile again: Iterable does not have it.
    sent.clear()
    deliver(ROWS[:1], finding_later(0, sent), Stop())
    assert sent == [(1, True)]


def test_a_stop_ends_the_wait_for_users_to_become_visible(deliver, monkeypatch):
    stop = Stop()
    sent: list[tuple[int, bool]] = []
    wait = stop.wait

    def stopped(seconds):
        threading.Timer(0.05, stop.request, [StopReason.SIGTERM]).start()
        return wait(seconds)

    monkeypatch.setattr(stop, "wait", stopped)
    (outcome,) = deliver(ROWS[:1], finding_later(9, sent), stop)
    assert outcome.profile.outcome.status is CallStatus.DELIVERED
    assert outcome.event.outcome.status is CallStatus.NOT_SENT
    assert sent == [(1, True)]


# --- Rows that come later, on disk


@pytest.mark.parametrize("after", [0, 1])
def test_rows_that_cannot_be_put_aside_have_one_outcome_each(deliver, monkeypatch, after):
    def full(self, rows):
        nonlocal after
        after -= 1
        if after < 0:
            raise SpoolError("no space")
        extend(self, rows)

    extend = LaterRows.extend
    monkeypatch.setattr(LaterRows, "extend", full)
    stop = Stop()
    outcomes = deliver([*same_address(*range(1, 40)), make_row(50)], sender(), stop)
    assert stop.reason is StopReason.NOT_RECORDED
    assert sorted(out.customer_id for out in outcomes) == [*range(1, 40), 50]


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
    later = LaterRows(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(SpoolError):
            list(map(later.extend, ([row] for row in rows)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = len(later)
    assert 0 < kept < 99
    assert rows_of(later) == rows[:kept]
