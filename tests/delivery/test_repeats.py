"""Which rows have the address, or the event, of a row before them, and what follows from it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery import repeats
from delivery.repeats import Repeats
from iterable_api.mapping import Identity, RowMapping
from iterable_api.payloads import JOB_MAPPING, Payloads
from records.outcomes import (
    NOT_SENT,
    PLANNED,
    SUPERSEDED,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    Fault,
    outcome_of,
    refused_row,
)
from tests.rows import make_prepared, raw_row, repeats_in

OK = CallOutcome(CallStatus.DELIVERED, 200, "Success", 1)
BAD = CallOutcome(CallStatus.REFUSED, 400, "BadParams", 1)
PAYLOADS = Payloads("db")
ONE_EVENT = {"customer_id": 1, "page_view_id": 17}


def prepared_of(rows):
    return [PAYLOADS.prepare(row) for row in rows]


def of_address(name, number):
    return raw_row(number, email=f"{name}@example.com")


def test_the_second_and_later_rows_of_an_address_are_repeats():
    names = [*(f"user{n}" for n in range(50)), "a", "b", "A", "c", "B", " a"]
    rows = [of_address(name, number) for number, name in enumerate(names)]
    found = repeats_in([*rows, raw_row(99, email=None)])
    assert [row.key[0] for row in prepared_of(rows) if found.is_repeat(row)] == ["a", "b", "a"]
    assert found.count == 3


def test_the_second_and_later_rows_of_an_event_are_repeats():
    rows = [
        raw_row(1, **ONE_EVENT),
        # Another time, customer or view is another event.
        raw_row(2, **ONE_EVENT | {"event_time": "2026-01-13 14:30:46"}),
        raw_row(3, **ONE_EVENT | {"customer_id": 2}),
        raw_row(4, **ONE_EVENT | {"page_view_id": 18}),
        raw_row(5, **ONE_EVENT),
    ]
    found = repeats_in(rows)
    assert [found.is_repeat(row) for row in prepared_of(rows)] == [False] * 4 + [True]
    # The number of repeated addresses.
    assert found.count == 0


def test_events_with_names_of_their_own_are_no_repeats():
    columns = [*JOB_MAPPING.columns, JOB_MAPPING.columns[2]._replace(name="event_name")]
    payloads = Payloads("db", mapping=RowMapping(columns))
    rows = [(*raw_row(1), name) for name in (b"order", b"refund", None, b"order")]
    places = payloads.suspect_places()
    found = Repeats(payloads, payloads.suspects([[row[p] for p in places] for row in rows]))
    prepared = [payloads.prepare(row) for row in rows]
    for row in prepared:
        found.is_repeat(row)
    found.note(outcome_of(prepared[0], OK, OK))
    tracks = [found.less_repeated(row).events_track for row in prepared[1:]]
    assert tracks == [None, None, SUPERSEDED]


def test_with_user_ids_the_address_repeats_nothing():
    columns = [*JOB_MAPPING.columns, JOB_MAPPING.columns[1]._replace(name="user_id")]
    payloads = Payloads("db", mapping=RowMapping(columns, Identity.USER_ID))
    ids = [b"u1", b"U1", b"u2", b"u1"]
    rows = [(*raw_row(n, email="a@example.com"), id_) for n, id_ in enumerate(ids)]
    places = payloads.suspect_places()
    found = Repeats(payloads, payloads.suspects([[row[p] for p in places] for row in rows]))
    assert [found.is_repeat(payloads.prepare(row)) for row in rows] == [False] * 3 + [True]


def test_without_repeats_hardly_any_row_is_looked_at_closely():
    rows = [raw_row(number) for number in range(20_000)]
    found = repeats_in(rows)
    assert not any(map(found.is_repeat, prepared_of(rows)))
    assert len(found._profiles) + len(found._events_seen) < 100


def seen(*rows):
    """Return the repeats among prepared *rows*, when all of them were noted."""
    found = repeats_in([row.row for row in rows])
    for row in rows:
        found.is_repeat(row)
    return found


def test_what_became_of_the_profile_is_known_when_the_second_row_comes():
    first, second, third, other = prepared_of(
        [of_address("a", 1), of_address("a", 2), of_address("a", 3), raw_row(4)]
    )
    found = seen(first, second, third, other)
    assert found.must_wait(second)
    assert not found.must_wait(other)
    found.note(outcome_of(first, BAD, NOT_SENT))
    assert found.must_wait(second)
    # Nothing stands for it: it is sent.
    assert found.less_repeated(second) == second
    found.note(outcome_of(second, OK, OK))
    assert not found.must_wait(third)
    assert found.less_repeated(third) == third._replace(users_update=SUPERSEDED)


@pytest.mark.parametrize("arrived", [OK, UNCHANGED, SUPERSEDED, PLANNED])
def test_a_row_that_comes_twice_is_superseded(arrived):
    first, second = prepared_of([raw_row(1), raw_row(1)])
    found = seen(first, second)
    assert found.must_wait(second)
    found.note(outcome_of(first, arrived, arrived))
    assert not found.must_wait(second)
    both = second._replace(users_update=SUPERSEDED, events_track=SUPERSEDED)
    assert found.less_repeated(second) == both


def test_of_an_event_that_did_not_arrive_the_next_row_is_sent():
    first, second, third = prepared_of([raw_row(1)] * 3)
    found = seen(first, second, third)
    found.note(outcome_of(first, OK, BAD))
    assert found.must_wait(second)
    assert found.less_repeated(second) == second._replace(users_update=SUPERSEDED)
    found.note(outcome_of(second, SUPERSEDED, OK))
    assert found.less_repeated(third).events_track is SUPERSEDED


@pytest.mark.parametrize("track", [OK, BAD, None])
def test_another_event_under_the_same_id_is_refused_whatever_became_of_the_first(track):
    rows = [raw_row(1, **ONE_EVENT), raw_row(1, **ONE_EVENT, browser="Lynx")]
    first, second = prepared_of(rows)
    found = seen(first, second)
    if track is not None:
        found.note(outcome_of(first, OK, track))
    refusal = found.less_repeated(second).events_track
    assert refusal is not None
    assert (refusal.status, refusal.fault) == (CallStatus.REFUSED, Fault.ROW)
    assert (refusal.attempts, refusal.http_status) == (0, None)
    assert refusal.message == (
        "page_view_id 17 came before for this customer and time: one event would overwrite the "
        "other; give each row an id of its own"
    )


def test_what_is_refused_does_not_become_the_first():
    first, second, third = prepared_of(
        [raw_row(1, **ONE_EVENT, browser=browser) for browser in ("Lynx", "Edge", "Lynx")]
    )
    found = seen(first, second, third)
    found.note(outcome_of(first, OK, OK))
    found.note(outcome_of(second, SUPERSEDED, found.less_repeated(second).events_track))
    assert found.less_repeated(third).events_track is SUPERSEDED


def test_a_first_row_without_a_body_stands_for_none():
    first, second = prepared_of([of_address("a", 1), of_address("a", 2)])
    found = seen(first, second)
    found.note(refused_row(JOB_MAPPING.names_of(first.row), "no body"))
    assert found.less_repeated(second) == second


def test_what_is_presumed_to_arrive_stands_for_what_comes_later():
    first, second, other = prepared_of([raw_row(1), raw_row(1), raw_row(2)])
    found = seen(first, second, other)
    found.presume_arrived(first)
    found.presume_arrived(other)
    row = found.less_repeated(second)
    assert (row.users_update, row.events_track) == (SUPERSEDED, SUPERSEDED)


def test_rows_that_were_not_looked_through_repeat_nothing():
    found = Repeats(PAYLOADS)
    row = make_prepared(1)
    assert found.less_repeated(row) == row
    found.note(outcome_of(row, OK, OK))


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
@given(ROWS, st.sampled_from([8, 1 << 16]))
def test_iterable_holds_of_each_address_and_event_what_came_first(rows, bits):
    """Also when most of them share a place in the map. Everything that is sent arrives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "_MAP_BITS", bits)
        found = repeats_in(rows)
        profiles: dict[str, bytes] = {}
        events: dict[bytes, bytes] = {}
        prepared = prepared_of(rows)
        kept = [(found.is_repeat(row), row) for row in prepared]
        # As in a run: first the others, then the repeats.
        for is_repeat, row in sorted(kept, key=lambda pair: pair[0]):
            one = found.less_repeated(row) if is_repeat else row
            if one.send_user:
                assert profiles.setdefault(one.key, one.user_content) == one.user_content
            if one.send_event:
                assert events.setdefault(one.event_name, one.event_content) == one.event_content
            outcome = outcome_of(one, one.users_update or OK, one.events_track or OK)
            found.note(outcome)
            first = next(each for each in prepared if each.event_name == one.event_name)
            refused = outcome.events_track.status is CallStatus.REFUSED
            assert refused == (first.event_content != one.event_content)
    for row in reversed(prepared):
        first = next(each for each in prepared if each.key == row.key)
        assert profiles[row.key] == first.user_content
        first = next(each for each in prepared if each.event_name == row.event_name)
        assert events[row.event_name] == first.event_content
