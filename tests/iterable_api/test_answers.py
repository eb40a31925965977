"""What each kind of answer means: the table line by line, and the order of its lines."""

import json
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterable_api import answers
from iterable_api.answers import (
    KEY_REFUSED,
    NOT_ITERABLE,
    REDIRECTED,
    RULES,
    UNKNOWN_TYPE,
    Repeat,
    Reply,
    fetch_user_fields,
    judge_failure,
    judge_response,
    parse_object,
    rule_for,
    user_not_found,
)
from iterable_api.transport import Cause, Network, Response, Transport, TransportError
from records.outcomes import CallOutcome, CallStatus, Fault
from sandbox.faults import Fault as Sent

DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN
NEVER, BACKOFF, THROTTLE = Repeat
ROW, FIELD, KEY, PROJECT, ITERABLE, NETWORK = Fault
MISMATCH = "RequestFieldsTypesMismatched"
BLOCKED = "Event name is disallowed from tracking"
HTML = "<html><head><title>Action not found</title></head></html>"
LACKS = "Disabled API key or insufficient privileges"


def says(code, msg="", params=None):
    return json.dumps({"msg": msg, "code": code, "params": params})


def counts(success, failed, **others):
    return json.dumps({"successCount": success, "failCount": failed, **others})


def judge(http_status, body, rows=None):
    return judge_response(Response(http_status, {}, body.encode()), rows)


# For each line of the table, in its order, answers that it decides: the status, the body, and how
# many rows a bulk request had.
# fmt: off
LINES = [
    ((UNAVAILABLE, NEVER, PROJECT), (200, says("Success", BLOCKED)),
     (400, says("BadParams", BLOCKED))),
    ((DELIVERED, NEVER, None), (200, says("Success")), (202, says("Success")),
     (200, counts(3, 0), 3), (200, counts(0, 0), 3), (200, counts(1, 2, code="Success"), 3)),
    ((FORGOTTEN, NEVER, ROW), *((s, says("ForgottenUserError")) for s in (409, 400, 404, 200, 500)),
     (400, says("forgottenUser")), (400, says("ForgottenUserError"), 3)),
    ((UNAVAILABLE, THROTTLE, PROJECT), (429, says("RateLimitExceeded")), (429, "Too many")),
    ((UNAVAILABLE, THROTTLE, PROJECT), *((s, says("RateLimitExceeded")) for s in (200, 400))),
    ((UNAVAILABLE, BACKOFF, ITERABLE), (500, says("GenericError")), (504, says("Success")),
     *((status, HTML) for status in (500, 502, 503, 999)),
     *((status, body) for status in (408, 423, 425) for body in (HTML, says("BadParams")))),
    ((REFUSED, NEVER, ROW), (413, says("BatchTooLarge")), (413, HTML), (413, HTML, 1000),
     (400, says("BatchTooLarge"), 9), (200, says("BatchTooLarge"))),
    ((UNKNOWN, BACKOFF, NETWORK),
     *((200, body) for body in (HTML, "", '"Success"', "[]", "{}", '{"msg":""}')),
     *((200, json.dumps({"code": code})) for code in (7, ["Success"], True, None)),
     (200, HTML, 3), (200, says("Success"), 3), (200, counts(1, 0)), (200, '{"failCount":3}', 3),
     *((200, counts(success, 0), 3) for success in (-1, True, 3.0, "3", None, float("nan")))),
    ((UNAVAILABLE, NEVER, NETWORK), (307, ""), (302, HTML), (301, says("Success"))),
    ((UNAVAILABLE, BACKOFF, NETWORK),
     *((status, HTML) for status in (400, 401, 403, 404, 407, 409, 422, 499)),
     (401, ""), (403, '{"message":"Forbidden"}'), (403, '{"code":1020}'), (404, HTML, 3),
     (400, counts(0, 3), 3)),
    ((UNAVAILABLE, NEVER, PROJECT), (401, says("InvalidJwtPayload")),
     (401, says("JwtUserIdentifiersMismatched")), (400, says("InvalidJwtPayload")),
     (401, says("BadAuthorizationHeader"))),
    ((UNAVAILABLE, NEVER, KEY), (401, says("BadApiKey", LACKS)),
     (401, says("BadApiKey", "no", {"apiKeyType": "ServerSide"}))),
    ((UNAVAILABLE, NEVER, KEY), (401, says("BadApiKey", "Invalid API key", {"ip": "::1"})),
     (401, says("Success", "", {"endpoint": "/x"})), (401, says("Unauthorized")),
     (401, says("BadParams"), 3)),
    ((UNAVAILABLE, NEVER, PROJECT), (403, says("Forbidden")), (403, says("BadApiKey"), 3)),
    ((UNAVAILABLE, NEVER, PROJECT), (400, says("Forbidden")), (200, says("Unauthorized")),
     (400, says("BadApiKey"))),
    ((UNAVAILABLE, NEVER, PROJECT), (400, says("UniqueFieldsLimitExceeded"))),
    ((UNAVAILABLE, NEVER, ITERABLE), (400, says("UnknownEmailError")),
     (400, says("UnknownUserIdError")), (404, says("UserNotFound"))),
    ((UNAVAILABLE, BACKOFF, ITERABLE), (200, says("GenericError")), (400, says("DatabaseError"))),
    ((REFUSED, NEVER, ROW), (409, says("EmailAlreadyExists")), *((400, says(code)) for code in (
        "InvalidEmailAddressError", "InvalidUserIdError", "EmailAlreadyExists",
        "UserIdAlreadyExists", "ExternalKeyConflict"))),
    ((REFUSED, NEVER, FIELD), (409, says("BadParams")), (400, says(MISMATCH)),
     (422, says(MISMATCH), 3), (200, says("BadParams")),
     *((400, says(code)) for code in ("BadJsonBody", "Success", "SomethingNew", "no word")),
     (400, '{"error":"bad","message":"x","code":"error.catalogs.badRequest","data":{}}')),
    ((UNAVAILABLE, NEVER, PROJECT), (404, says("NotFound")),
     *((status, says("BadParams")) for status in (402, 405, 410, 499))),
]
# fmt: on


@pytest.mark.parametrize("number", range(len(RULES)))
def test_each_line_of_the_table_decides_its_answers(number):
    meaning, *examples = LINES[number]
    assert examples
    for http_status, body, *rows in examples:
        answer = judge(http_status, body, *rows)
        outcome = answer.outcome
        found = (outcome.status, answer.repeat, outcome.fault)
        assert (found, outcome.http_status) == (meaning, http_status), body
        message = str(answer.document.get("msg", ""))
        reply = Reply(http_status, answer.document, outcome.code, message, *rows)
        assert RULES.index(rule_for(reply)) == number, body


def test_a_refusal_is_about_the_row_and_all_else_can_be_delivered_later():
    assert len(LINES) == len(RULES)
    for rule in RULES:
        about_row = rule.fault in {ROW, FIELD} and rule.verdict is not FORGOTTEN
        assert (rule.verdict is REFUSED) == about_row
        assert (rule.fault is None) == (rule.verdict is DELIVERED)
        if rule.verdict in {DELIVERED, REFUSED, FORGOTTEN}:
            assert rule.repeat is NEVER
        # Else our own words say what to do.
        assert rule.message or rule.verdict is not UNAVAILABLE or rule.repeat is not NEVER


@pytest.mark.parametrize(
    ("http_status", "body", "message"),
    [
        (401, says("Success", "Invalid API key"), KEY_REFUSED),
        (403, HTML, NOT_ITERABLE.format(403)),
        (302, says("BadParams", "see there"), REDIRECTED),
        # Only a failure has something to say.
        (200, says("Success", "Event with id: 1 tracked."), ""),
        (400, says("BadParams", "x@y.z is bad"), "x@y.z is bad"),
        (400, says("BadParams", "x" * 9999), "x" * 200),
        *((400, says("BadParams", msg), "") for msg in (None, 7, True, [["x"]], {"a": 1})),
    ],
)
def test_a_message_says_what_to_do_or_what_iterable_says(http_status, body, message):
    assert judge(http_status, body).outcome.message == message


@pytest.mark.parametrize(
    ("http_status", "body", "definite", "words"),
    [
        (409, says("ForgottenUserError"), True, "answered 409"),
        (429, "", True, "answered 429"),
        (503, HTML, False, "answered 503"),
        (302, "", False, "answered 302"),
        (403, HTML, False, "answered 403, but not by Iterable"),
    ],
)
def test_an_answer_is_definite_if_iterable_has_decided(http_status, body, definite, words):
    answer = judge(http_status, body)
    assert (answer.definite, answer.cause.words) == (definite, words)


TLS_FAILED = Cause("TLS failed", "check the clock", lasting=True)
BROKEN_OFF = Cause("no answer within 30 s", "wait")


@pytest.mark.parametrize(
    ("problem", "left_machine", "cause", "status", "repeat", "code", "message"),
    [
        *[("Timeout", True, BROKEN_OFF, UNKNOWN, BACKOFF, None, "Timeout: no answer within 30 s")],
        *[("DNS", False, BROKEN_OFF, UNAVAILABLE, BACKOFF, None, "DNS: no answer within 30 s")],
        ("SSL", False, TLS_FAILED, UNAVAILABLE, NEVER, "SSL", "SSL: TLS failed; check the clock"),
    ],
)
def test_without_an_answer_what_has_left_may_have_landed(
    problem, left_machine, cause, status, repeat, code, message
):
    answer = judge_failure(TransportError(problem, left_machine=left_machine, cause=cause))
    assert answer.outcome == CallOutcome(status, None, code, 0, message, NETWORK)
    assert (answer.repeat, answer.cause, answer.definite) == (repeat, cause, False)


@pytest.mark.parametrize("code", ["user x@y.z", "", "x" * 65])
def test_a_code_that_is_no_word_stays_out_of_the_log(code):
    assert str(judge(400, says(code)).outcome) == "refused (client error 400 ?)"


def test_an_unknown_user_has_many_names():
    for code in ("UnknownEmailError", "UserNotFound", "UserIdNotFoundError", "notFoundUserIds"):
        assert user_not_found(CallOutcome(REFUSED, 200, code))
    for other in (None, "?", "NotFound", "invalidEmails", "xUserNotFound"):
        assert not user_not_found(CallOutcome(REFUSED, 400, other))


# --- Fields


@pytest.mark.parametrize(
    ("errors", "fields"),
    [
        ({"on": {"expectedType": "date", "offendingValue": "soon@example.com"}}, [("on", "date")]),
        ("x", []),
        ({"": {"expectedType": "date"}}, []),
        ({"plan": None, "b": {}}, [("plan", "another type"), ("b", "another type")]),
        (
            {f"{n:03}{'f' * 999}": {"expectedType": "t" * 999} for n in range(500)},
            [(f"{n:03}{'f' * 61}", "t" * 64) for n in range(20)],
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_fields_of_another_type_are_named_with_the_type_that_the_project_has(errors, fields):
    answer = judge(400, says(MISMATCH, "Project 1: ...", {"validationErrors": errors}))
    assert list(answer.outcome.fields) == fields


def test_the_types_of_a_projects_fields_come_by_name_or_not_at_all(iterable):
    iterable.change(limits=False)
    fields = {f"field{number}": "string" for number in range(30_000)}
    odd = {"a": None, "b": ["string"], "c": {"type": "string"}, "d": "", "e": "t" * 99}
    with closing(Transport(iterable.url, "key", Network(timeout_s=1.0))) as transport:
        iterable.set_faults(Sent("answer", body=json.dumps({"fields": fields | odd})))
        unknown = dict.fromkeys("abcd", UNKNOWN_TYPE)
        assert fetch_user_fields(transport).field_types == fields | unknown | {"e": "t" * 64}
        for fault, words in (
            (Sent("redirect"), "answered 302"),
            (Sent("answer", body='{"fields": []}'), "answered 200"),
            (Sent("answer", status=400, body='{"fields": {}}'), "answered 400"),
            (Sent("hang"), "no answer within 1 s"),
        ):
            iterable.set_faults(fault)
            answer = fetch_user_fields(transport)
            told = answer.cause.words.removesuffix(", but not by Iterable")
            assert (answer.field_types, told) == (None, words)


@pytest.mark.parametrize("times", [1, 2])
def test_a_limit_that_is_used_up_is_waited_for_once(iterable, monkeypatch, times):
    monkeypatch.setattr(answers, "NEXT_SECOND_S", 0.01)
    iterable.set_faults(Sent("rate_limited", times=times))
    with closing(Transport(iterable.url, "key")) as transport:
        answer = fetch_user_fields(transport)
    assert (answer.field_types is None) == (answer.repeat is Repeat.THROTTLE) == (times == 2)
    assert len(iterable.requests) == 2


# --- Any answer at all


def test_what_is_no_json_object_is_read_as_an_empty_one():
    for content in (b"", b"<html>", b"[1]", b"null", b"\xff", b'{"a":', b'{"a":' * 100_000):
        assert parse_object(content) == {}
    huge = b'{"successCount":' + b"9" * 10_000 + b',"failCount":0}'
    assert judge_response(Response(200, {}, huge), 3).outcome.status is UNKNOWN


def test_half_a_character_in_an_answer_can_still_be_written_down():
    outcome = judge(400, says(MISMATCH, "\ud800", {"validationErrors": {"\udfff": 7}})).outcome
    assert (outcome.message, outcome.fields) == ("?", (("?", "another type"),))


KEYS = st.sampled_from(["code", "msg", "params", "validationErrors", "successCount", "failCount"])
CODES = st.sampled_from(["Success", "BadApiKey", MISMATCH, "GenericError"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | CODES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
BODIES = st.binary() | VALUES.map(json.dumps).map(str.encode)


@given(http_status=st.integers(100, 999), body=BODIES, rows=st.none() | st.integers(1, 5))
def test_any_answer_gets_a_verdict_that_can_be_written_down(http_status, body, rows):
    outcome = judge_response(Response(http_status, {}, body), rows).outcome
    assert len(outcome.message) <= 200
    assert len(outcome.fields) <= 20
    f"{outcome.message}{outcome.fields}{outcome}".encode()
    if outcome.status is DELIVERED and rows is not None:
        document = json.loads(body)
        assert type(document["successCount"]) is type(document["failCount"]) is int
