"""What a bulk answer says of the rows of its batch, in whatever shape it comes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterable_api.answers import Answer, judge_failure, judge_response, user_not_found
from iterable_api.bulk_answers import (
    blocked,
    blocked_names,
    fail_count,
    failed,
    failure_lists,
    named_failures,
    offending_values,
    unclear,
    unnamed_failure,
)
from iterable_api.transport import Response, TransportError
from records.outcomes import CallOutcome, CallStatus, Fault

DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN
FILTERED = (("plan_type", "filtered out"),)


def taken(**document):
    """Return the answer to a batch that was taken."""
    return Answer(CallOutcome(DELIVERED, 200, attempts=3, fields=FILTERED), document)


def refused(**fields):
    """Return the answer to a batch that was refused for its *fields*."""
    return {"params": {"validationErrors": fields}}


def answered(status, body, rows=3):
    return judge_response(Response(status, {}, json.dumps(body).encode()), rows)


# --- Lists


def test_failures_are_listed_by_name_in_lower_case_wherever_they_stand():
    document = {
        "invalidEmails": ["Ann@Example.com "],
        "disallowedEventNames": ["page_view"],
        "failedUpdates": {
            "invalidEmails": ["bob@example.com"],
            "forgottenEmails": ["Cy@example.com"],
            "notFoundEmails": [],
            "conflictEmails": None,
        },
    }
    assert failure_lists(document) == {
        "invalidEmails": {"ann@example.com", "bob@example.com"},
        "disallowedEventNames": {"page_view"},
        "forgottenEmails": {"cy@example.com"},
    }


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"failedUpdates": None},
        {"failedUpdates": [1]},
        {"failedUpdates": "invalidEmails"},
        {"failedUpdates": {"invalidEmails": 7}},
        {"failedUpdates": {"invalidEmails": [None, 7, ["a@x.com"], {"a@x.com": 1}]}},
        {"invalidEmails": 7, "invalidUserIds": True, "disallowedEventNames": 1.5},
    ],
)
def test_an_answer_may_list_no_failures(document):
    assert failure_lists(document) == {}


@pytest.mark.parametrize("values", ["Ann@x.com", ["Ann@x.com"], {"Ann@x.com": "a reason"}])
def test_a_list_may_come_as_a_text_or_an_object(values):
    assert failure_lists({"invalidEmails": values}) == {"invalidEmails": {"ann@x.com"}}


@pytest.mark.parametrize(
    ("name", "status", "fault"),
    [
        ("invalidEmails", REFUSED, Fault.ROW),
        ("invalidUserIds", REFUSED, Fault.ROW),
        ("invalidDataEmails", REFUSED, Fault.FIELD),
        ("forgottenEmails", FORGOTTEN, Fault.ROW),
        ("notFoundEmails", UNAVAILABLE, Fault.ITERABLE),
        ("notFoundUserIds", UNAVAILABLE, Fault.ITERABLE),
        # One that nobody has heard of yet.
        ("suspendedEmails", REFUSED, Fault.ROW),
    ],
)
def test_a_named_row_has_the_verdict_of_its_list(name, status, fault):
    answer = taken(failedUpdates={name: ["Ann@x.com"]}, failCount=1)
    # A user id has its case.
    key = "userId:Ann@x.com" if name.endswith("UserIds") else "ann@x.com"
    outcome = named_failures(answer)[key]
    assert (outcome.status, outcome.fault, outcome.code) == (status, fault, name)
    assert (outcome.http_status, outcome.attempts, outcome.fields) == (200, 3, ())


def test_an_event_of_an_unknown_user_is_sent_again_later():
    outcome = named_failures(taken(failedUpdates={"notFoundEmails": ["a@x.com"]}))["a@x.com"]
    assert user_not_found(outcome)
    assert "sent again later" in outcome.message


def test_a_row_in_two_lists_has_the_more_final_verdict():
    lists = {"notFoundEmails": ["a@x.com"], "xEmails": ["a@x.com"], "forgottenEmails": ["a@x.com"]}
    assert named_failures(taken(failedUpdates=lists))["a@x.com"].status is FORGOTTEN


def test_a_conflict_names_another_address_than_the_row():
    answer = taken(failedUpdates={"conflictEmails": ["a@x.com"]}, failCount=1)
    assert named_failures(answer) == {}
    outcome = unnamed_failure(answer)
    assert (outcome.status, outcome.fault, outcome.code) == (REFUSED, Fault.ROW, "conflictEmails")


def test_a_failure_that_no_list_names_is_the_row_s():
    outcome = unnamed_failure(taken(failCount=1))
    assert (outcome.status, outcome.fault, outcome.code) == (REFUSED, Fault.ROW, None)
    assert (outcome.message, outcome.fields) == ("counted in failCount, but not listed", ())


def test_a_list_s_name_is_told_only_if_it_is_a_word():
    lists = {"ann@x.com is bad": ["a@x.com"], "ä": ["b@x.com"], "\ud800": ["c@x.com"]}
    outcomes = named_failures(taken(failedUpdates=lists)).values()
    assert {(o.code, o.message) for o in outcomes} == {(None, "listed in a list of failures")}
    assert len(outcomes) == 3


def test_rows_of_which_some_failed_may_have_landed():
    outcome = unclear(taken(), 2, 9)
    assert (outcome.status, outcome.fields) == (UNKNOWN, ())
    assert outcome.message == "2 of 9 rows failed, and Iterable does not say which"


def test_an_event_name_that_the_project_blocks_is_no_row_s_fault():
    answer = taken(disallowedEventNames=["Page_View", 7])
    assert blocked_names(answer.document) == {"page_view"}
    outcome = blocked(answer)
    assert (outcome.status, outcome.fault) == (UNAVAILABLE, Fault.PROJECT)
    assert outcome.code == "disallowedEventNames"
    assert blocked_names(taken().document) == set()


@pytest.mark.parametrize(
    ("value", "count"),
    [(3, 3), (0, 0), (-1, 0), (None, 0), (True, 0), ("3", 0), (3.0, 0), ([3], 0)],
)
def test_only_a_whole_number_counts_failures(value, count):
    assert fail_count({"failCount": value}) == count
    assert fail_count({}) == 0


# --- Refusals and failures of a whole batch


def test_the_offending_values_are_told_by_field():
    document = refused(
        first_name={"expectedType": "date", "offendingValue": "Zoë"},
        candidate={"offendingValue": True},
        plan_type={"offendingValue": 7},
    )
    assert offending_values(document) == {"first_name": "Zoë", "candidate": True, "plan_type": 7}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"params": None},
        {"params": []},
        {"params": {"validationErrors": None}},
        {"params": {"validationErrors": ["first_name"]}},
        refused(first_name="no detail", plan_type=None, candidate=[]),
        refused(first_name={"expectedType": "date"}, plan_type={"offendingValue": None}),
        refused(first_name={"offendingValue": ["a"]}, plan_type={"offendingValue": {"a": 1}}),
    ],
)
def test_an_answer_may_quote_no_value_that_a_row_can_have(document):
    assert offending_values(document) == {}


@pytest.mark.parametrize(
    ("status", "body", "may_be_a_row"),
    [
        (500, {"code": "GenericError"}, True),
        (503, None, True),
        (403, None, True),  # a firewall's page, perhaps for what a row holds
        (200, {"successCount": 0, "failCount": 0}, True),
        (200, None, True),
        (200, {"successCount": 3, "failCount": 0}, False),
        (400, {"code": "BadJsonBody"}, False),
        (401, {"code": "BadApiKey"}, False),
        (403, {"code": "Forbidden"}, False),
        (429, {"code": "RateLimitExceeded"}, False),
    ],
)
def test_one_row_may_be_why_a_batch_was_answered_and_not_settled(status, body, may_be_a_row):
    assert failed(answered(status, body).outcome) is may_be_a_row


def test_no_row_is_why_there_was_no_answer():
    error = TransportError("ReadTimeout", left_machine=True)
    assert not failed(judge_failure(error).outcome)


# --- Any shape

texts = st.sampled_from(["a@x.com", "A@X.com ", "page_view", "", "\ud800"]) | st.text(max_size=5)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["invalidEmails", "forgottenUserIds", "notFoundEmails", "conflictEmails", "invalidDataEmails"]
)
lists = st.dictionaries(names | texts, anything | st.lists(texts, max_size=5), max_size=5)
details = st.dictionaries(texts, anything | st.fixed_dictionaries({"offendingValue": anything}))
documents = st.fixed_dictionaries(
    {},
    optional={
        "successCount": anything,
        "failCount": anything,
        "failedUpdates": anything | lists,
        "invalidEmails": anything,
        "invalidUserIds": anything,
        "disallowedEventNames": anything,
        "filteredOutFields": anything,
        "params": anything | st.fixed_dictionaries({"validationErrors": anything | details}),
        "code": anything,
        "msg": anything,
    },
)


@given(documents)
def test_an_answer_of_any_shape_raises_nothing(document):
    answer = taken(**document)
    named = named_failures(answer)
    emails = [key for key in named if not key.startswith("userId:")]
    assert all(key == key.strip().lower() for key in emails)
    assert DELIVERED not in {outcome.status for outcome in named.values()}
    assert unnamed_failure(answer).status is REFUSED
    assert fail_count(document) >= 0
    assert all(name == name.lower() for name in blocked_names(document))
    assert blocked(answer) == blocked(taken(disallowedEventNames="page_view"))
    for value in offending_values(document).values():
        json.dumps(value).encode("ascii")


def test_a_huge_answer_is_read():
    emails = [f"user{number}@example.com" for number in range(200_000)]
    answer = taken(failedUpdates={"invalidEmails": emails}, failCount=10**30)
    assert len(named_failures(answer)) == 200_000
