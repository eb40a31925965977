"""Every row gets one outcome, whatever happens to the others or on the way."""

import threading
from collections import Counter
from functools import partial

import pytest

from delivery import pipeline
from delivery.repeats import LaterRows
from delivery.stopping import Stop
from iterable_api.payloads import Payloads, RowError
from records.delivery_ledger import DeliveryLedger, LedgerError
from records.exit_statuses import StopReason
from records.outcomes import (
    NOT_SENT,
    SUPERSEDED,
    CallOutcome,
    CallStatus,
    Fault,
    RowOutcome,
    RowStatus,
    outcome_of,
)
from records.results_writer import ResultsWriter
from records.row_spool import SpoolError
from tests.rows import CHUNK_ROWS, deliver_rows, make_row

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "InvalidEmailAddressError", 1, fault=Fault.ROW)
KEY_REFUSED = CallOutcome(CallStatus.UNAVAILABLE, 401, "BadApiKey", 1, "unknown", Fault.KEY)
NOT_FOUND = CallOutcome(CallStatus.UNAVAILABLE, 200, "notFoundEmails", 1, "later", Fault.ITERABLE)
ROWS = [make_row(number) for number in range(1, 5)]


@pytest.fixture
def deliver(tmp_path):
    return partial(deliver_rows, tmp_path)


def sender(second_row):
    def process(batch):
        return [outcome(row) for row in batch]

    def outcome(row):
        update = second_row if row.customer_id == 2 else OK
        if isinstance(update, Exception):
            raise update
        return outcome_of(row, row.users_update or update, OK if update is OK else NOT_SENT)

    return process


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_one_rows_failure_does_not_stop_the_others(deliver):
    outcomes = statuses(deliver(ROWS, sender(BAD), Stop()))
    assert outcomes == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.SUCCESSFUL,
        RowStatus.SUCCESSFUL,
    ]


def test_a_refused_key_stops_the_run_and_the_rest_is_not_attempted(deliver):
    stop = Stop()
    outcomes = sorted(deliver(ROWS, sender(KEY_REFUSED), stop))
    assert (stop.reason, stop.detail) == (StopReason.KEY_REFUSED, "unknown")
    assert statuses(outcomes) == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.NOT_ATTEMPTED,
        RowStatus.NOT_ATTEMPTED,
    ]
    assert outcomes[3].email == "user4@example.com"
    assert outcomes[3].users_update == NOT_SENT


def test_a_stop_lets_no_new_row_begin(deliver):
    stop = Stop()

    def process(batch):
        stop.request(StopReason.SIGTERM)
        stop.request(StopReason.SIGINT)
        return sender(OK)(batch)

    rows = [make_row(number) for number in range(3 * CHUNK_ROWS)]
    outcomes = sorted(deliver(rows, process, stop))
    not_attempted = (len(rows) - 1) * [RowStatus.NOT_ATTEMPTED]
    assert statuses(outcomes) == [RowStatus.SUCCESSFUL, *not_attempted]
    assert stop.reason is StopReason.SIGTERM
    assert stop.wait(60)


def test_rows_are_planned_only_as_fast_as_they_are_delivered(deliver, monkeypatch):
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
        return sender(OK)(batch)

    monkeypatch.setattr(DeliveryLedger, "held", counting)
    deliver([make_row(number) for number in range(500)], process, Stop(), workers=3)
    assert max(ahead) <= 3 + 2 * CHUNK_ROWS


def test_rows_come_in_batches(deliver):
    sizes = []

    def process(batch):
        sizes.append(len(batch))
        return sender(OK)(batch)

    assert len(deliver(ROWS, process, Stop(), batch_size=3)) == 4
    assert sizes == [3, 1]


def test_rows_that_need_not_be_sent_have_their_outcome_without_a_thread(deliver):
    def process(batch):
        pytest.fail("nothing to send")

    (outcome,) = deliver([make_row(1, email=None)], process, Stop())
    assert outcome.status is RowStatus.TOTAL_FAILURE


# --- What is raised on the way


def test_a_bug_in_a_worker_is_raised_only_after_every_row_has_its_outcome(deliver, monkeypatch):
    outcomes: list[RowOutcome] = []
    monkeypatch.setattr(ResultsWriter, "add", record_into(outcomes))
    with pytest.raises(ZeroDivisionError):
        deliver(ROWS, sender(ZeroDivisionError()), Stop())
    outcomes.sort()
    assert statuses(outcomes) == [
        RowStatus.SUCCESSFUL,
        RowStatus.TOTAL_FAILURE,
        RowStatus.NOT_ATTEMPTED,
        RowStatus.NOT_ATTEMPTED,
    ]
    assert outcomes[1].users_update.status is CallStatus.UNKNOWN


def record_into(outcomes):
    add = ResultsWriter.add

    def keep(self, some):
        outcomes.extend(some)
        add(self, some)

    return keep


@pytest.mark.parametrize("place", ["held", "forget", "renew", "record"])
@pytest.mark.parametrize("after", [0, 3])
def test_whatever_is_raised_every_row_in_flight_is_recorded(tmp_path, monkeypatch, place, after):
    """An exception in the main thread must not lose what the workers have delivered."""
    calls, real = 0, getattr(DeliveryLedger, place)
    outcomes: list[RowOutcome] = []

    def broken(self, *arguments, **options):
        nonlocal calls
        calls += 1
        if calls == after + 1:
            raise ZeroDivisionError
        return real(self, *arguments, **options)

    monkeypatch.setattr(DeliveryLedger, place, broken)
    monkeypatch.setattr(ResultsWriter, "add", record_into(outcomes))
    rows = [make_row(number) for number in range(500)]
    process, delivered = counting_sender()
    with pytest.raises(ZeroDivisionError):
        deliver_rows(tmp_path, rows, process, Stop(), workers=4)
    ids = Counter(outcome.customer_id for outcome in outcomes)
    lost = {row["customer_id"] for row in rows} - ids.keys()
    assert lost == set()
    assert max(ids.values()) == 1
    recorded = {o.customer_id for o in outcomes if o.status is RowStatus.SUCCESSFUL}
    assert delivered == recorded


def counting_sender():
    delivered: set[int] = set()

    def process(batch):
        delivered.update(row.customer_id for row in batch)
        return sender(OK)(batch)

    return process, delivered


def test_a_full_ledger_stops_the_run_and_every_row_is_told(deliver, monkeypatch):
    def full(self, outcomes, *, sure):
        raise pipeline_error

    pipeline_error = OSError(28, "No space left on device")
    monkeypatch.setattr(DeliveryLedger, "record", full)
    stop = Stop()
    outcomes = deliver([make_row(number) for number in range(50)], sender(OK), stop)
    assert stop.reason is StopReason.NOT_RECORDED
    assert len(outcomes) == 50


# --- Rows of one address


def same_address(*numbers):
    return [make_row(n, email="Same@example.com", first_name=f"Name {n}") for n in numbers]


def keeping(sent, update=lambda row: OK):
    def process(batch):
        for row in batch:
            sent.append((row.customer_id, row.send_user, row.send_event))
        return [
            outcome_of(row, row.users_update or update(row), row.events_track or OK)
            for row in batch
        ]

    return process


@pytest.mark.parametrize("batch_size", [1, 100])
def test_of_two_rows_with_one_address_the_first_is_the_profile(deliver, batch_size):
    sent: list[tuple[int, bool, bool]] = []
    rows = [make_row(7), *same_address(1, 2, 3), make_row(8)]
    outcomes = deliver(rows, keeping(sent), Stop(), batch_size=batch_size, workers=4)
    assert sorted(sent) == [
        (1, True, True),
        (2, False, True),
        (3, False, True),
        (7, True, True),
        (8, True, True),
    ]
    found = {o.customer_id: (o.users_update.status, o.status) for o in outcomes}
    assert found[1] == (CallStatus.DELIVERED, RowStatus.SUCCESSFUL)
    assert found[2] == found[3] == (CallStatus.SUPERSEDED, RowStatus.SUCCESSFUL)


def test_a_second_run_over_rows_with_one_address_sends_nothing(deliver):
    rows = same_address(1, 2)
    deliver(rows, keeping([]), Stop())
    sent: list[tuple[int, bool, bool]] = []
    outcomes = deliver(rows, keeping(sent), Stop())
    assert sent == []
    assert statuses(outcomes) == [RowStatus.UNCHANGED] * 2


def test_if_the_first_rows_profile_is_refused_the_next_one_is_sent(deliver):
    sent: list[tuple[int, bool, bool]] = []
    process = keeping(sent, lambda row: BAD if row.customer_id == 1 else OK)
    outcomes = deliver(same_address(1, 2, 3), process, Stop(), workers=4)
    assert sent == [(1, True, True), (2, True, True), (3, False, True)]
    assert [o.users_update.status for o in outcomes] == ["refused", "delivered", "superseded"]


@pytest.mark.parametrize(("rows", "told"), [(2, "1 row repeats"), (3, "2 rows repeat")])
def test_rows_with_one_address_are_counted_in_one_warning(deliver, warned, rows, told):
    deliver(same_address(*range(rows)), keeping([]), Stop())
    assert warned == [f"{told} an earlier row's address; the first row's profile is sent"]


def test_if_no_body_can_be_made_of_the_first_row_the_next_one_is_sent(deliver, monkeypatch):
    def without_first(self, prepared):
        if prepared.customer_id == 1:
            raise RowError("no body")
        return complete(self, prepared)

    complete = Payloads.complete
    monkeypatch.setattr(Payloads, "complete", without_first)
    sent: list[tuple[int, bool, bool]] = []
    outcomes = deliver(same_address(1, 2, 3), keeping(sent), Stop(), workers=4)
    assert sent == [(2, True, True), (3, False, True)]
    assert [o.users_update.status for o in outcomes] == ["refused", "delivered", "superseded"]


# --- Rows of one event

# An order of three items, of which two are the same.
ONE_EVENT = [
    make_row(1, customer_id=7, page_view_id=17, email="a@example.com", **changes)
    for changes in ({}, {"browser": "Lynx"}, {})
]
OVERWRITES = (
    "page_view_id 17 came before for this customer and time: one event would overwrite the other; "
    "give each row an id of its own"
)


@pytest.mark.parametrize("batch_size", [1, 100])
@pytest.mark.parametrize("run", [1, 2])
def test_of_rows_with_one_event_the_first_wins_in_every_run(deliver, warned, batch_size, run):
    sent: list[tuple[int, bool, bool]] = []
    for _ in range(run):
        sent.clear()
        outcomes = deliver(ONE_EVENT, keeping(sent), Stop(), batch_size=batch_size, workers=4)
    first, *others = sorted(outcomes, key=lambda o: o.events_track.status is CallStatus.REFUSED)
    assert sent == ([(7, True, True)] if run == 1 else [])
    assert first.status is (RowStatus.SUCCESSFUL if run == 1 else RowStatus.UNCHANGED)
    same, other = others
    assert (same.users_update, same.events_track) == (SUPERSEDED, SUPERSEDED)
    assert (other.users_update, other.status) == (SUPERSEDED, RowStatus.PARTIAL_FAILURE)
    refusal = CallOutcome(CallStatus.REFUSED, message=OVERWRITES, fault=Fault.ROW)
    assert other.events_track == refusal
    assert other.refused_for_itself


def test_an_event_that_is_refused_for_another_leaves_its_own_profile(deliver):
    """Two addresses of one customer: each is a user."""
    rows = [ONE_EVENT[0], ONE_EVENT[0] | {"email": "b@example.com"}]
    sent: list[tuple[int, bool, bool]] = []
    outcomes = deliver(rows, keeping(sent), Stop())
    assert sent == [(7, True, True), (7, True, False)]
    assert statuses(outcomes) == [RowStatus.SUCCESSFUL, RowStatus.PARTIAL_FAILURE]
    assert outcomes[1].events_track.message == OVERWRITES


def test_if_the_first_event_does_not_arrive_the_next_row_with_that_content_is_sent(deliver):
    tracks = [BAD, OK]

    def process(batch):
        return [outcome_of(row, row.users_update or OK, tracks.pop(0)) for row in batch]

    outcomes = deliver([ONE_EVENT[0]] * 3, process, Stop(), workers=4)
    assert [o.events_track.status for o in outcomes] == ["refused", "delivered", "superseded"]
    assert statuses(outcomes) == [
        # Of the last one nothing was sent.
        *(RowStatus.PARTIAL_FAILURE, RowStatus.SUCCESSFUL, RowStatus.UNCHANGED)
    ]


# --- Users that Iterable does not know yet


def finding_later(after, sent):
    """Process rows whose events find no user before their turn number *after*."""
    turns: Counter[int] = Counter()

    def process(batch):
        outcomes = []
        for row in batch:
            turns[row.customer_id] += 1
            sent.append((row.customer_id, row.send_user))
            track = OK if turns[row.customer_id] > after else NOT_FOUND
            outcomes.append(outcome_of(row, row.users_update or OK, track))
        return outcomes

    return process


@pytest.mark.parametrize("batch_size", [1, 100])
def test_an_event_that_found_no_user_is_sent_again_later(deliver, monkeypatch, batch_size):
    monkeypatch.setattr(pipeline, "VISIBLE_AFTER_S", 0.05)
    sent: list[tuple[int, bool]] = []
    outcomes = deliver(ROWS, finding_later(1, sent), Stop(), batch_size=batch_size)
    assert statuses(outcomes) == [RowStatus.SUCCESSFUL] * 4
    assert sorted(sent) == [(n, again) for n in range(1, 5) for again in (False, True)]


def test_an_event_that_finds_no_user_the_second_time_either_is_not_the_rows_fault(
    deliver, monkeypatch
):
    monkeypatch.setattr(pipeline, "VISIBLE_AFTER_S", 0.0)
    (outcome,) = deliver(ROWS[:1], finding_later(9, []), Stop())
    assert outcome.status is RowStatus.PARTIAL_FAILURE
    assert outcome.events_track.status is CallStatus.UNAVAILABLE
    # The next run sends the profile again: Iterable does not have it.
    sent: list[tuple[int, bool]] = []
    deliver(ROWS[:1], finding_later(0, sent), Stop())
    assert sent == [(1, True)]


def test_a_stop_ends_the_wait_for_users_to_become_visible(deliver, monkeypatch):
    stop = Stop()
    sent: list[tuple[int, bool]] = []
    inner = finding_later(9, sent)

    def process(batch):
        threading.Timer(0.2, stop.request, [StopReason.SIGTERM]).start()
        return inner(batch)

    (outcome,) = deliver(ROWS[:1], process, stop)
    assert outcome.users_update.status is CallStatus.DELIVERED
    assert outcome.events_track.status is CallStatus.NOT_SENT
    assert sent == [(1, True)]


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
    rows = [*same_address(*range(1, 40)), make_row(50)]
    outcomes = deliver(rows, sender(OK), stop)
    assert stop.reason is StopReason.NOT_RECORDED
    assert sorted(out.customer_id for out in outcomes) == [*range(1, 40), 50]


def test_an_event_to_be_sent_again_has_one_outcome_though_the_ledger_is_full(deliver, monkeypatch):
    def full(self, outcomes, *, sure):
        raise LedgerError("no space")

    monkeypatch.setattr(DeliveryLedger, "record", full)
    stop = Stop()
    outcomes = deliver(ROWS, finding_later(1, []), stop)
    assert stop.reason is StopReason.NOT_RECORDED
    assert sorted(out.customer_id for out in outcomes) == [1, 2, 3, 4]
