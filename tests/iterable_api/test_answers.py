"""What each kind of answer means: the table line by line, and the order of its lines."""

import json

import pytest

from iterable_api.answers import (
    RULES,
    Answer,
    Evidence,
    Fault,
    Repeat,
    Reply,
    failure_lists,
    judge_failure,
    judge_response,
    mismatches,
    parse_object,
    rule_for,
)
from iterable_api.transport import Response, TransportError
from records.outcomes import CallOutcome, CallStatus

DELIVERED, REFUSED = CallStatus.DELIVERED, CallStatus.REFUSED
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN
NEVER, BACKOFF, THROTTLE = Repeat
ROW, KEY, PROJECT, ITERABLE, NETWORK = Fault
BLOCKED = "Event name is disallowed from tracking"
REDIRECTED = "redirected, not followed; check ITERABLE_API_BASE_URL"
HTML = "<html><head><title>Action not found</title></head></html>"


def envelope(code, msg="", params=None):
    return json.dumps({"msg": msg, "code": code, "params": params})


def judge(http_status, body):
    return judge_response(Response(http_status, {}, body.encode()))


# For each line of the table, in its order, answers that it decides.
LINES = [
    ((REFUSED, NEVER, PROJECT), (200, envelope("Success", BLOCKED))),
    ((DELIVERED, NEVER, None), (200, envelope("Success")), (202, envelope("Success"))),
    ((DELIVERED, NEVER, None), (200, '{"successCount":1,"failCount":0}'), (200, '{"failCount":3}')),
    (
        (UNKNOWN, BACKOFF, NETWORK),
        *((200, body) for body in (HTML, "", '"Success"', "[]", '{"successCount":1}')),
        (200, '{"failCount":"3"}'),
    ),
    ((UNAVAILABLE, BACKOFF, ITERABLE), (200, envelope("GenericError"))),
    ((UNAVAILABLE, BACKOFF, PROJECT), (200, envelope("RateLimitExceeded"))),
    ((REFUSED, NEVER, ROW), (200, envelope("BadParams")), (200, envelope("no word"))),
    ((REFUSED, NEVER, NETWORK), (307, ""), (302, HTML), (301, envelope("Success"))),
    ((REFUSED, NEVER, ROW), (400, envelope("InvalidEmailAddressError"))),
    ((REFUSED, NEVER, ROW), (400, envelope("BadJsonBody", "[/api/x] Invalid JSON body"))),
    ((REFUSED, NEVER, ROW), (400, envelope("RequestFieldsTypesMismatched"))),
    ((REFUSED, NEVER, PROJECT), (400, envelope("UniqueFieldsLimitExceeded"))),
    (
        (REFUSED, NEVER, KEY),
        *((401, envelope(code)) for code in ("BadApiKey", "Success", "InvalidJwtPayload")),
        (401, HTML),
    ),
    ((REFUSED, NEVER, NETWORK), (404, HTML)),
    ((REFUSED, NEVER, ROW), (409, envelope("ForgottenUserError")), (409, "")),
    ((REFUSED, NEVER, ROW), (413, envelope("BatchTooLarge")), (413, HTML)),
    ((UNAVAILABLE, THROTTLE, PROJECT), (429, envelope("RateLimitExceeded")), (429, "Too many")),
    (
        (REFUSED, NEVER, ROW),
        *((400, envelope(code)) for code in ("Success", "BadParams", "UnknownUserIdError")),
        *((status, "") for status in (403, 405, 408, 415, 499)),
        (400, '{"error":"bad","message":"x","code":"error.catalogs.badRequest","data":{}}'),
    ),
    ((UNAVAILABLE, BACKOFF, ITERABLE), (500, envelope("GenericError"))),
    ((UNAVAILABLE, BACKOFF, ITERABLE), (502, HTML), (504, envelope("Success"))),
    ((UNAVAILABLE, BACKOFF, ITERABLE), (500, HTML), (503, ""), (599, ""), (999, "")),
    ((UNKNOWN, BACKOFF, NETWORK), TransportError("ReadTimeout", left_machine=True)),
    ((UNAVAILABLE, BACKOFF, NETWORK), TransportError("SSLError", left_machine=False)),
    ((REFUSED, NEVER, NETWORK), (103, "")),
]


def cases():
    for number, (meaning, *examples) in enumerate(LINES):
        for example in examples:
            yield pytest.param(number, meaning, example, id=f"{number}-{example!s:.50}")


@pytest.mark.parametrize(("number", "meaning", "example"), list(cases()))
def test_each_line_of_the_table_decides_its_answers(number, meaning, example):
    failed = isinstance(example, TransportError)
    answer = judge_failure(example) if failed else judge(*example)
    status, repeat, fault = meaning
    assert (answer.outcome.status, answer.repeat, answer.fault) == (status, repeat, fault)
    assert answer.outcome.http_status == (None if failed else example[0])
    reply = Reply(
        answer.outcome.http_status,
        answer.document,
        answer.outcome.code,
        str(answer.document.get("msg", "")),
        left_machine=not failed or example.left_machine,
    )
    assert RULES.index(rule_for(reply)) == number


def test_no_line_of_the_table_is_without_an_example():
    assert len(LINES) == len(RULES)
    assert all(len(line) > 1 for line in LINES)


def test_every_http_status_and_no_answer_at_all_has_its_line():
    for status in (None, *range(1000)):
        assert rule_for(Reply(status, {})).evidence in Evidence


def test_what_is_not_final_is_repeated():
    for rule in RULES:
        final = rule.verdict in {DELIVERED, REFUSED}
        assert (rule.repeat is NEVER) == final


def test_only_a_failure_has_something_to_say():
    assert judge(200, envelope("Success", "Event with id: 1 tracked.")).outcome.message == ""
    assert judge(200, envelope("Success", BLOCKED)).outcome.message == BLOCKED
    assert judge(400, envelope("BadParams", "x@y.z is bad")).outcome.message == "x@y.z is bad"
    assert judge(302, envelope("BadParams", "see there")).outcome.message == REDIRECTED
    failure = judge_failure(TransportError("ReadTimeout", left_machine=True))
    assert failure.outcome.message == "ReadTimeout"


def test_a_long_message_is_cut():
    assert len(judge(400, envelope("BadParams", "x" * 9999)).outcome.message) == 200


@pytest.mark.parametrize("code", ["user x@y.z", "", "x" * 65, 7, ["BadParams"], True])
def test_a_code_that_is_no_word_stays_out_of_the_log(code):
    assert str(judge(400, envelope(code)).outcome) == "refused (client error 400 ?)"


@pytest.mark.parametrize("content", [b"", b"<html>", b"[1]", b'"x"', b"null", b"\xff", b'{"a":'])
def test_what_is_no_json_object_is_read_as_an_empty_one(content):
    assert parse_object(content) == {}


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


@pytest.mark.parametrize("document", [{}, {"failedUpdates": None}, {"failedUpdates": [1]}])
def test_an_answer_may_list_no_failures(document):
    assert failure_lists(document) == {}


def mismatches_in(params):
    refusal = CallOutcome(REFUSED, 400, "RequestFieldsTypesMismatched")
    return mismatches(Answer(refusal, {"params": params}))


def test_the_fields_of_a_wrong_type_are_named():
    detail = {"expectedType": "date", "offendingValue": "soon"}
    assert mismatches_in({"validationErrors": {"signupDate": detail}}) == [("signupDate", detail)]


@pytest.mark.parametrize(
    "params",
    [None, [], {}, {"validationErrors": None}, {"validationErrors": {"plan": "no detail"}}],
)
def test_an_answer_may_name_no_field(params):
    assert mismatches_in(params) == []
