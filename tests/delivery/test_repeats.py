"""Which rows have the address, or the event, of a row before them, and what follows from it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery import planner
from delivery.planner import Repeats
from iterable_api.mapping import Identity, RowMapping
from iterable_api.payloads import JOB_MAPPING, Payloads
from records.outcomes import (
    NO_EVENT,
    NOT_SENT,
    PLANNED,
    SUPERSEDED,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    Fault,
    outcome_of,
)
from tests.rows import answered, make_prepared, raw_row, repeats_in, suspects_in

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
PAYLOADS = Payloads("db")
ONE_EVENT = {"customer_id": 1, "page_view_id": 17}


def prepared_of(rows):
    return [PAYLOADS.prepare(row) for row in rows]


def found_in(rows, payloads=PAYLOADS):
    """Return the repeats in *rows*, and those of them that must wait for one before them."""
    found = Repeats(payloads, suspects_in(rows, payloads))
    prepared = [payloads.prepare(row) for row in rows if row[1] is not None]
    return found, [row for row in prepared if found.turn_of(row) is None]


def again(found, row):
    """Return what becomes of *row* in the next round."""
    found.begin_round()
    return found.turn_of(row)


def of_address(name, number):
    return raw_row(number, email=f"{name}@example.com")


def test_the_second_and_later_rows_of_an_address_wait():
    names = [*(f"user{n}" for n in range(50)), "a", "b", "A", "c", "B", " a"]
    rows = [of_address(name, number) for number, name in enumerate(names)]
    _, waiting = found_in([*rows, raw_row(99, email=None)])
    assert [row.key[0] for row in waiting] == ["a", "b", "a"]


def test_rows_without_an_event_wait_for_their_address_alone():
    rows = [
        raw_row(number, email=f"{name}@example.com", customer_id=7, page_view_id=None)
        for number, name in enumerate("abab")
    ]
    found, waiting = found_in(rows)
    assert [row.email[0] for row in waiting] == ["a", "b"]
    found.note(outcome_of(PAYLOADS.prepare(rows[0]), OK, NO_EVENT))
    row = again(found, waiting[0])
    assert (row.profile.outcome, row.event.outcome) == (SUPERSEDED, NO_EVENT)


def test_the_second_and_later_rows_of_an_event_wait():
    rows = [
        raw_row(1, **ONE_EVENT),
        # Another time, customer or view is another event.
        raw_row(2, **ONE_EVENT | {"event_time": "2026-01-13 14:30:46"}),
        raw_row(3, **ONE_EVENT | {"customer_id": 2}),
        raw_row(4, **ONE_EVENT | {"page_view_id": 18}),
        raw_row(5, **ONE_EVENT),
    ]
    _, waiting = found_in(rows)
    assert [row.email for row in waiting] == ["user5@example.com"]


def test_events_with_names_of_their_own_are_no_repeats():
    columns = [*JOB_MAPPING.columns, JOB_MAPPING.columns[2]._replace(name="event_name")]
    payloads = Payloads("db", mapping=RowMapping(columns))
    names = (b"order", b"refund", None, b"order")
    rows = [(*raw_row(n, email=f"{n}@example.com", **ONE_EVENT), b) for n, b in enumerate(names)]
    _, waiting = found_in(rows, payloads)
    assert [row.email for row in waiting] == ["3@example.com"]


def test_with_user_ids_the_address_repeats_nothing():
    columns = [*JOB_MAPPING.columns, JOB_MAPPING.columns[1]._replace(name="user_id")]
    payloads = Payloads("db", mapping=RowMapping(columns, Identity.USER_ID))
    ids = [b"u1", b"U1", b"u2", b"u1"]
    rows = [(*raw_row(n, email="a@example.com"), id_) for n, id_ in enumerate(ids)]
    _, waiting = found_in(rows, payloads)
    assert [row.customer_id for row in waiting] == [3]


def test_without_repeats_hardly_any_row_is_looked_at_closely():
    found, waiting = found_in([raw_row(number) for number in range(20_000)])
    assert waiting == []
    assert len(found._rounds) < 50


def test_rows_that_were_not_looked_through_repeat_nothing():
    row = make_prepared(1)
    assert [Repeats(PAYLOADS).turn_of(row)] * 2 == [row] * 2


# --- When it is known what became of the first row


def test_what_became_of_the_profile_is_known_when_the_next_row_comes():
    rows = [of_address("a", 1), of_address("a", 2), of_address("a", 3)]
    found, (second, third) = found_in(rows)
    found.note(outcome_of(prepared_of(rows)[0], BAD, NOT_SENT))
    # Nothing stands for the second: it is sent, and the third waits for that.
    assert again(found, second) == second
    assert found.turn_of(third) is None
    found.note(outcome_of(second, OK, OK))
    assert again(found, third) == third.knowing(users_update=SUPERSEDED)


@pytest.mark.parametrize("arrived", [OK, UNCHANGED, SUPERSEDED, PLANNED])
def test_a_row_that_comes_twice_is_superseded(arrived):
    found, (second,) = found_in([raw_row(1), raw_row(1)])
    found.note(outcome_of(prepared_of([raw_row(1)])[0], arrived, arrived))
    both = second.knowing(users_update=SUPERSEDED, events_track=SUPERSEDED)
    # Nor does a later one of the same round wait.
    assert found.turn_of(second) == both


def test_of_an_event_that_did_not_arrive_the_next_row_is_sent():
    found, (second, third) = found_in([raw_row(1)] * 3)
    found.note(outcome_of(second, OK, BAD))
    assert again(found, second) == second.knowing(users_update=SUPERSEDED)
    found.note(outcome_of(second, SUPERSEDED, OK))
    assert again(found, third).event.outcome is SUPERSEDED


@pytest.mark.parametrize("track", [OK, BAD, None])
def test_another_event_under_the_same_id_is_refused_whatever_became_of_the_first(track):
    rows = [raw_row(1, **ONE_EVENT), raw_row(1, **ONE_EVENT, browser="Lynx")]
    found, (second,) = found_in(rows)
    if track is not None:
        found.note(outcome_of(prepared_of(rows)[0], OK, track))
    refusal = again(found, second).event.outcome
    assert (refusal.status, refusal.fault) == (CallStatus.REFUSED, Fault.ROW)
    assert (refusal.attempts, refusal.http_status) == (0, None)
    assert refusal.message == (
        "page_view_id 17 came before for this customer and time: one event would overwrite the "
        "other; give each row an id of its own"
    )


def test_what_is_refused_does_not_become_the_first():
    rows = [raw_row(1, **ONE_EVENT, browser=browser) for browser in ("Lynx", "Edge", "Lynx")]
    found, (second, third) = found_in(rows)
    found.note(outcome_of(prepared_of(rows)[0], OK, OK))
    found.note(outcome_of(second, SUPERSEDED, again(found, second).event.outcome))
    assert again(found, third).event.outcome is SUPERSEDED


def test_an_event_that_is_sent_again_is_the_first_of_its_kind():
    """Its row has its bodies, and no values any more."""
    found, (second,) = found_in([raw_row(1), raw_row(1)])
    first = make_prepared(1).knowing(users_update=OK)
    found.note(outcome_of(first))
    assert again(found, first) == first
    assert found.turn_of(second) is None


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


@settings(deadline=None, max_examples=100)
@given(ROWS, st.sampled_from([8, 1 << 16]), st.integers(1, 4))
def test_iterable_holds_of_each_address_and_event_what_came_first(rows, bits, in_flight):
    """Also when most of them share a place in the map. Everything that is sent arrives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "_MAP_BITS", bits)
        found = repeats_in(rows)
    prepared = prepared_of(rows)
    profiles: dict[str, bytes] = {}
    events: dict[bytes, bytes] = {}
    for one in sent_of(prepared, found, in_flight):
        if one.profile.send:
            assert profiles.setdefault(one.key, one.profile.content) == one.profile.content
        if one.event.send:
            assert events.setdefault(one.event.name, one.event.content) == one.event.content
        first = next(each for each in prepared if each.event.name == one.event.name)
        refused = one.event.outcome.status is CallStatus.REFUSED
        assert refused == (first.event.content != one.event.content)
    for row in reversed(prepared):
        first = next(each for each in prepared if each.key == row.key)
        assert profiles[row.key] == first.profile.content
        first = next(each for each in prepared if each.event.name == row.event.name)
        assert events[row.event.name] == first.event.content


def sent_of(rows, found, in_flight):
    """Yield *rows* as they go, round after round; so many are under way at a time."""
    while rows:
        waiting, under_way = [], []
        found.begin_round()
        for row in rows:
            one = found.turn_of(row)
            if one is None:
                waiting.append(row)
                continue
            yield one
            under_way.append(answered(one, OK, OK))
            if len(under_way) == in_flight:
                found.note(under_way.pop(0))
        for outcome in under_way:
            found.note(outcome)
        rows = waiting
