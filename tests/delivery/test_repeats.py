"""Which rows have the address, or the event, of a row before them, and what follows from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery import planner
from delivery.planner import Repeats
from iterable_api.mapping import Identity, RowMapping
from iterable_api.payloads import JOB_MAPPING, Payloads
from records.outcomes import (
    NO_EVENT,
    PLANNED,
    SUPERSEDED,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    Fault,
)
from tests.results import BAD, OK
from tests.rows import answered, make_prepared, raw_row, repeats_in, settled, suspects_in

PAYLOADS = Payloads("db")
ONE_EVENT: dict[str, object] = {"customer_id": 1, "page_view_id": 17}


@pytest.fixture(autouse=True)
def _small_map(monkeypatch):
    """Let the map take no time: it need not find a million rows apart."""
    monkeypatch.setattr(planner, "_MAP_BITS", 1 << 20)


def found_in(rows, payloads=PAYLOADS):
    """Return the repeats in *rows*, and those of them that must wait for one before them."""
    found = Repeats(payloads, suspects_in(rows, payloads))
    prepared = [payloads.prepare(row) for row in rows if row[1] is not None]
    return found, [row for row in prepared if found.must_wait(row)]


def again(found, row):
    """Return what becomes of *row* in the next round."""
    found.begin_round()
    assert not found.must_wait(row)
    return row


OTHERS = {"event_time": "2026-01-13 14:30:46"}, {"customer_id": 2}, {"page_view_id": 18}
EVENTS = [ONE_EVENT, *(ONE_EVENT | each for each in OTHERS), ONE_EVENT]
ADDRESSES = ["a@b.com", "b@b.com", "A@b.com", "c@b.com", "B@b.com", " a@b.com", None, None]


@pytest.mark.parametrize(
    ("payloads", "rows", "waiting"),
    [
        # By address, whatever the case or the blanks around it.
        (PAYLOADS, [raw_row(n, email=email) for n, email in enumerate(ADDRESSES)], [2, 4, 5]),
        # By event: another time, customer or view is another one.
        (PAYLOADS, [raw_row(n, email=f"{n}@b.com", **each) for n, each in enumerate(EVENTS)], [4]),
        # Rows without an event repeat none.
        (PAYLOADS, [raw_row(n, customer_id=7, page_view_id=None) for n in range(3)], []),
        # With user ids the address repeats nothing.
        (
            Payloads("db", mapping=RowMapping(JOB_MAPPING.columns, Identity.USER_ID)),
            [raw_row(n, email="a@b.com", customer_id=n % 2) for n in range(3)],
            [2],
        ),
    ],
    ids=["address", "event", "no event", "user id"],
)
def test_the_second_and_later_rows_of_a_user_or_an_event_wait(payloads, rows, waiting):
    prepared = [payloads.prepare(row) for row in rows if row[1] is not None]
    assert found_in(rows, payloads)[1] == [prepared[place] for place in waiting]


def test_rows_that_were_not_looked_through_repeat_nothing():
    row = make_prepared(1)
    repeats = Repeats(PAYLOADS)
    assert not any(repeats.must_wait(each) for each in (row, row))


def test_without_repeats_hardly_any_row_is_looked_at_closely():
    assert len(suspects_in([raw_row(number) for number in range(5000)], PAYLOADS)) < 100


# --- When it is known what became of the first row


def test_a_row_without_an_event_waits_for_its_address_alone():
    rows = [raw_row(n, email="a@example.com", page_view_id=None) for n in (1, 2)]
    found, (second,) = found_in(rows)
    found.note(settled(PAYLOADS.prepare(rows[0]), OK))
    row = again(found, second)
    assert (row.profile.outcome, row.event.outcome) == (SUPERSEDED, NO_EVENT)


@pytest.mark.parametrize("arrived", [OK, UNCHANGED, SUPERSEDED, PLANNED])
def test_a_row_that_comes_twice_is_superseded(arrived):
    found, (second,) = found_in([raw_row(1), raw_row(1)])
    found.note(settled(PAYLOADS.prepare(raw_row(1)), arrived, arrived))
    # Nor does a later one of the same round wait.
    assert not found.must_wait(second)
    assert second == settled(second, SUPERSEDED, SUPERSEDED)


def test_of_an_event_that_did_not_arrive_the_next_row_is_sent():
    found, (second, third) = found_in([raw_row(1)] * 3)
    found.note(settled(second, OK, BAD))
    assert again(found, second) == settled(second, SUPERSEDED)
    found.note(settled(second, SUPERSEDED, OK))
    assert again(found, third).event.outcome is SUPERSEDED


@pytest.mark.parametrize("track", [OK, BAD, None])
def test_another_event_under_the_same_id_is_refused_whatever_became_of_the_first(track):
    rows = [raw_row(1, **ONE_EVENT, browser=browser) for browser in ("Chrome", "Lynx", "Chrome")]
    found, (second, third) = found_in(rows)
    if track is not None:
        found.note(settled(PAYLOADS.prepare(rows[0]), OK, track))
    refusal = again(found, second).event.outcome
    text = (
        "an earlier row has the same page_view_id (17), customer and time, so one event would "
        "overwrite the other; give each row its own page_view_id"
    )
    assert refusal == CallOutcome(CallStatus.REFUSED, message=text, fault=Fault.ROW)
    # It does not become the first.
    found.note(settled(second, SUPERSEDED, refusal))
    assert (again(found, third).event.outcome is SUPERSEDED) == (track is OK)


def test_an_event_that_is_sent_again_is_the_first_of_its_kind():
    """Its row has its bodies, and no values any more."""
    found, (second,) = found_in([raw_row(1), raw_row(1)])
    first = settled(make_prepared(1), OK)
    found.note(settled(first))
    assert again(found, first) == first
    assert found.must_wait(second)


# --- In Query 2's order the first wins

ROWS = st.lists(
    st.builds(
        raw_row,
        st.sampled_from([1, 2]),
        email=st.sampled_from(["a@example.com", "A@example.com", "b@example.com"]),
        page_view_id=st.sampled_from([17, 18]),
        browser=st.sampled_from(["Lynx", "Edge", None]),
    ),
    max_size=10,
)


@given(ROWS, st.sampled_from([8, 1 << 16]), st.integers(1, 4))
def test_iterable_holds_of_each_address_and_event_what_came_first(rows, bits, in_flight):
    """Also when most of them share a place in the map. Everything that is sent arrives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "_MAP_BITS", bits)
        found = repeats_in(rows)
    prepared = [PAYLOADS.prepare(row) for row in rows]
    held: dict[bytes, bytes] = {}
    first = {call.name: call for row in reversed(prepared) for call in (row.profile, row.event)}
    for one in sent_of(prepared, found, in_flight):
        for call in (one.profile, one.event):
            if call.send:
                assert held.setdefault(call.name, call.content) == call.content
        refused = one.event.outcome.status is CallStatus.REFUSED
        assert refused == (first[one.event.name].content != one.event.content)
    assert held == {name: call.content for name, call in first.items()}


def sent_of(rows, found, in_flight):
    """Yield *rows* as they go, round after round; so many are under way at a time."""
    while rows:
        waiting, under_way = [], []
        found.begin_round()
        for row in rows:
            if found.must_wait(row):
                waiting.append(row)
                continue
            yield row
            under_way.append(answered(row, OK, OK))
            if len(under_way) == in_flight:
                found.note(under_way.pop(0))
        for outcome in under_way:
            found.note(outcome)
        rows = waiting
