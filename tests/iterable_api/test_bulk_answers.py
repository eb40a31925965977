"""What a bulk answer says of the rows of its batch, in whatever shape it comes."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iterable_api.answers import NOT_YET_KNOWN, judge_response, user_not_found
from iterable_api.bulk_answers import calls_of
from iterable_api.transport import Response
from records.outcomes import NOT_SENT, CallStatus, Fault

DELIVERED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN, OPEN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN, CallStatus.NOT_SENT
KEYS = ["a@x.com", "b@x.com", "c@x.com", "userId:A1"]
BODY = b'{"eventName": "Page_View", "dataFields": {"plan_type": "pro", "at": {"home": 1}}}'


def told(document, name="events", keys=KEYS, bodies=None):
    """Return the outcomes of the rows with these keys; the answer accounts for them."""
    answer = judge_response(Response(200, {}, json.dumps(document).encode()), len(keys))
    assert answer.outcome.status is DELIVERED
    return calls_of(answer, name, keys, bodies or [BODY] * len(keys))


def statuses(document, name="events", **options):
    return [call.status for call in told(document, name, **options)]


def counts(successes, failures, **lists):
    return {"successCount": successes, "failCount": failures, "failedUpdates": lists}


@pytest.mark.parametrize(
    ("lists", "places"),
    [
        ({}, []),
        ({"invalidEmails": ["A@x.com "]}, [0]),
        ({"invalidUserIds": ["A1"]}, [3]),
        # A list may be new.
        ({"suspendedEmails": ["c@x.com"]}, [2]),
        ({"invalidEmails": ["a@x.com"], "invalidDataEmails": ["c@x.com"]}, [0, 2]),
        ({"invalidEmails": ["a@x.com"], "notFoundEmails": ["a@x.com"]}, [0]),
    ],
)
@pytest.mark.parametrize("name", ["users", "events"])
def test_rows_that_are_listed_as_failed_are_open_and_the_others_delivered(lists, places, name):
    found = statuses(counts(4 - len(places), len(places), **lists), name)
    assert found == [OPEN if place in places else DELIVERED for place in range(4)]


@pytest.mark.parametrize(("name", "key"), [("Emails", KEYS[0]), ("UserIds", KEYS[3])])
def test_the_forgotten_stay_so_and_an_event_whose_user_is_not_found_waits(name, key):
    place, listed = KEYS.index(key), [key.removeprefix("userId:")]
    lists = {f"invalid{name}": listed, f"forgotten{name}": listed, f"notFound{name}": listed}
    call = told(counts(3, 1, **lists))[place]
    assert (call.status, call.fault, call.code) == (FORGOTTEN, Fault.ROW, f"forgotten{name}")
    document = counts(3, 1, **{f"notFound{name}": listed})
    call = told(document)[place]
    assert (call.status, call.fault, call.code) == (UNAVAILABLE, Fault.ITERABLE, f"notFound{name}")
    assert (call.http_status, call.message, user_not_found(call)) == (200, NOT_YET_KNOWN, True)
    # A single call settles the profile.
    assert told(document, "users")[place] is NOT_SENT


A_NAMED = [OPEN, UNKNOWN, UNKNOWN, UNKNOWN]


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (counts(0, 0), [UNKNOWN] * 4),
        (counts(3, 0), [UNKNOWN] * 4),
        (counts(4, 1), [UNKNOWN] * 4),
        (counts(9, 0), [UNKNOWN] * 4),
        ({**counts(3, 1), "noOpEmails": ["a@x.com"]}, [UNKNOWN] * 4),
        (counts(3, 1), [UNKNOWN] * 4),
        (counts(0, 4), [UNKNOWN] * 4),
        # Older answers have a list beside failedUpdates.
        ({**counts(3, 1), "invalidEmails": ["a@x.com"]}, [UNKNOWN] * 4),
        (counts(2, 2, invalidEmails=["a@x.com"]), A_NAMED),
        # It counts more rows than there are.
        (counts(4, 1, invalidEmails=["a@x.com"]), A_NAMED),
        # It names the address that stands in the way.
        (counts(3, 1, conflictEmails=["a@x.com"]), [UNKNOWN] * 4),
        (counts(3, 1, invalidEmails=["other@x.com"]), [UNKNOWN] * 4),
        (counts(3, 1, invalidEmails="b@x.com"), [UNKNOWN] * 4),
        (counts(3, 1, invalidEmails=7, invalidUserIds=[None, 7, ["a@x.com"]]), [UNKNOWN] * 4),
    ],
)
def test_failures_that_are_counted_and_not_named_leave_all_open_that_are_not_named(document, found):
    assert statuses(document) == found


@pytest.mark.parametrize("successes", [3, 4])
def test_rows_that_change_nothing_need_not_be_counted(successes):
    assert statuses({**counts(successes, 0), "noOpEmails": ["a@x.com"]}) == [DELIVERED] * 4


@pytest.mark.parametrize("counted", [0, 2])
def test_events_of_a_blocked_name_are_open_whether_they_are_counted_or_not(counted):
    bodies = [BODY, b'{"eventName": "other"}'] * 2
    document = {**counts(2, counted), "disallowedEventNames": ["page_view", 7]}
    assert statuses(document, bodies=bodies) == [OPEN, DELIVERED] * 2
    # One of the others failed, too.
    document = {**counts(1, counted + 1), "disallowedEventNames": ["page_view"]}
    assert statuses(document, bodies=bodies) == [OPEN, UNKNOWN] * 2


def test_fields_that_are_left_out_are_told_of_the_rows_that_have_them():
    document = {**counts(4, 0), "filteredOutFields": ["plan_type", "at.home", "age", 7]}
    first, *others = [
        call.fields for call in told(document, bodies=[BODY, b'{"dataFields":{}}'] * 2)
    ]
    assert first == (("plan_type", "filtered out"), ("at.home", "filtered out"))
    assert others == [(), first, ()]


texts = st.sampled_from(["a@x.com", "A@X.com ", "page_view", "\ud800"]) | st.text(max_size=5)
anything = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["invalidEmails", "forgottenUserIds", "notFoundEmails", "conflictEmails"])
lists = st.dictionaries(names | texts, anything | st.lists(texts, max_size=5), max_size=5)
others = ("invalidEmails", "disallowedEventNames", "filteredOutFields", "msg")
documents = st.fixed_dictionaries(
    {"successCount": st.integers(0, 4)},
    optional={"failedUpdates": anything | lists} | dict.fromkeys(others, anything),
)


@given(documents, st.sampled_from(["users", "events"]))
@example({"successCount": 0, "failedUpdates": {"\n": ["a@x.com"]}}, "users")
def test_of_an_answer_of_any_shape_no_more_rows_are_delivered_than_it_counts(document, name):
    document["failCount"] = 4 - document["successCount"]
    found = statuses(document, name)
    assert found.count(DELIVERED) <= document["successCount"]
    assert set(found) <= {DELIVERED, FORGOTTEN, UNAVAILABLE, OPEN, UNKNOWN}
    assert UNAVAILABLE not in found or name == "events"
