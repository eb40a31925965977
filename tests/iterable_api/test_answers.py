"""What each kind of answer means: the table line by line, and the order of its lines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterable_api.answers import (
    RULES,
    Repeat,
    Reply,
    judge_failure,
    judge_response,
    parse_object,
    rule_for,
    too_large,
    user_not_found,
)
from iterable_api.transport import Cause, Response, TransportError
from records.outcomes import CallOutcome, CallStatus, Fault

DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN
NEVER, BACKOFF, THROTTLE = Repeat
ROW, FIELD, KEY, PROJECT, ITERABLE, NETWORK = Fault
BLOCKED = "Event name is disallowed from tracking"
REDIRECTED = "redirected, not followed; check ITERABLE_API_BASE_URL"
HTML = "<html><head><title>Action not found</title></head></html>"
LACKS = "Disabled API key or insufficient privileges"


def envelope(code, msg="", params=None):
    return json.dumps({"msg": msg, "code": code, "params": params})


def counts(success, failed, **others):
    return json.dumps({"successCount": success, "failCount": failed, **others})


def judge(http_status, body, rows=None):
    return judge_response(Response(http_status, {}, body.encode()), rows)


# For each line of the table, in its order, answers that it decides: the status, the body, and how
# many rows a bulk request had.
LINES = [
    (
        (UNAVAILABLE, NEVER, PROJECT),
        (200, envelope("Success", BLOCKED)),
        (400, envelope("BadParams", BLOCKED)),
    ),
    (
        (DELIVERED, NEVER, None),
        (200, envelope("Success")),
        (202, envelope("Success")),
        (200, counts(3, 0), 3),
        (200, counts(0, 0), 3),
        (200, counts(1, 2, code="Success"), 3),
    ),
    (
        (FORGOTTEN, NEVER, ROW),
        *((status, envelope("ForgottenUserError")) for status in (409, 400, 404, 410, 200, 500)),
        (400, envelope("forgottenUser")),
        (400, envelope("ForgottenUserError"), 3),
    ),
    ((UNAVAILABLE, THROTTLE, PROJECT), (429, envelope("RateLimitExceeded")), (429, "Too many")),
    ((UNAVAILABLE, THROTTLE, PROJECT), *((s, envelope("RateLimitExceeded")) for s in (200, 400))),
    (
        (UNAVAILABLE, BACKOFF, ITERABLE),
        (500, envelope("GenericError")),
        (504, envelope("Success")),
        *((status, HTML) for status in (500, 502, 503, 599, 999)),
        *((status, body) for status in (408, 423, 425) for body in (HTML, envelope("BadParams"))),
    ),
    (
        (REFUSED, NEVER, ROW),
        *((413, envelope("BatchTooLarge")), (413, HTML), (413, HTML, 1000)),
        *((400, envelope("BatchTooLarge"), 9), (200, envelope("BatchTooLarge"))),
    ),
    (
        (UNKNOWN, BACKOFF, NETWORK),
        *((200, body) for body in (HTML, "", '"Success"', "[]", "{}", '{"msg":""}')),
        *((200, json.dumps({"code": code})) for code in (7, ["Success"], True, None)),
        (200, HTML, 3),
        (200, envelope("Success"), 3),
        *((200, counts(success, 0), 3) for success in (-1, True, 3.0, "3", None, float("nan"))),
        (200, counts(1, 0)),
        (200, '{"failCount":3}', 3),
        (200, '{"successCount":1}'),
    ),
    ((UNAVAILABLE, NEVER, NETWORK), (307, ""), (302, HTML), (301, envelope("Success"))),
    (
        (UNAVAILABLE, BACKOFF, NETWORK),
        *((status, HTML) for status in (400, 401, 403, 404, 405, 407, 409, 410, 422, 451, 499)),
        (401, ""),
        (403, '{"message":"Forbidden"}'),
        (403, '{"code":1020}'),
        (404, HTML, 3),
        (400, counts(0, 3), 3),
    ),
    (
        (UNAVAILABLE, NEVER, PROJECT),
        (401, envelope("InvalidJwtPayload")),
        (401, envelope("JwtUserIdentifiersMismatched")),
        (400, envelope("InvalidJwtPayload")),
        (401, envelope("BadAuthorizationHeader")),
    ),
    (
        (UNAVAILABLE, NEVER, KEY),
        (401, envelope("BadApiKey", LACKS)),
        (401, envelope("BadApiKey", "no", {"apiKeyType": "ServerSide"})),
    ),
    (
        (UNAVAILABLE, NEVER, KEY),
        (401, envelope("BadApiKey", "Invalid API key", {"ip": "::1"})),
        (401, envelope("Success", "", {"endpoint": "/api/x"})),
        (401, envelope("Unauthorized")),
        (401, envelope("BadParams"), 3),
    ),
    ((UNAVAILABLE, NEVER, PROJECT), (403, envelope("Forbidden")), (403, envelope("BadApiKey"), 3)),
    ((UNAVAILABLE, NEVER, KEY), (400, envelope("BadApiKey")), (200, envelope("BadApiKey"))),
    ((UNAVAILABLE, NEVER, PROJECT), (400, envelope("Forbidden")), (200, envelope("Unauthorized"))),
    ((UNAVAILABLE, NEVER, PROJECT), (400, envelope("UniqueFieldsLimitExceeded"))),
    (
        (UNAVAILABLE, NEVER, ITERABLE),
        (400, envelope("UnknownEmailError")),
        (400, envelope("UnknownUserIdError")),
        (404, envelope("UserNotFound")),
    ),
    (
        (UNAVAILABLE, BACKOFF, ITERABLE),
        (200, envelope("GenericError")),
        (400, envelope("DatabaseError")),
    ),
    (
        (REFUSED, NEVER, ROW),
        *((400, envelope(code)) for code in ("InvalidEmailAddressError", "InvalidUserIdError")),
    ),
    (
        (REFUSED, NEVER, ROW),
        *((400, envelope(code)) for code in ("EmailAlreadyExists", "ExternalKeyConflict")),
        (409, envelope("EmailAlreadyExists")),
    ),
    ((REFUSED, NEVER, ROW), (409, envelope("BadParams"))),
    (
        (REFUSED, NEVER, FIELD),
        (400, envelope("RequestFieldsTypesMismatched")),
        (422, envelope("RequestFieldsTypesMismatched"), 3),
        (400, envelope("BadJsonBody", "[/api/x] Invalid JSON body")),
        *((400, envelope(code)) for code in ("Success", "BadParams", "SomethingNew")),
        (200, envelope("BadParams")),
        (200, envelope("no word")),
        (422, envelope("BadParams"), 3),
        (400, '{"error":"bad","message":"x","code":"error.catalogs.badRequest","data":{}}'),
    ),
    (
        (UNAVAILABLE, NEVER, PROJECT),
        (404, envelope("NotFound")),
        *((status, envelope("BadParams")) for status in (402, 405, 406, 410, 415, 499)),
    ),
    ((UNKNOWN, BACKOFF, NETWORK), (103, ""), (101, "")),
]


def cases():
    for number, (meaning, *examples) in enumerate(LINES):
        for example in examples:
            yield pytest.param(number, meaning, example, id=f"{number}-{example!s:.50}")


@pytest.mark.parametrize(("number", "meaning", "example"), list(cases()))
def test_each_line_of_the_table_decides_its_answers(number, meaning, example):
    http_status, _, *rows = example
    answer = judge(*example)
    outcome = answer.outcome
    assert (outcome.status, answer.repeat, outcome.fault) == meaning
    assert outcome.http_status == http_status
    message = str(answer.document.get("msg", ""))
    reply = Reply(http_status, answer.document, outcome.code, message, *rows)
    assert RULES.index(rule_for(reply)) == number


def test_no_line_of_the_table_is_without_an_example():
    assert len(LINES) == len(RULES)
    assert all(len(line) > 1 for line in LINES)


def test_every_http_status_has_its_line():
    for status in range(1000):
        for rows in (None, 3):
            assert rule_for(Reply(status, {}, rows=rows)) in RULES


def test_a_refusal_is_about_the_row_and_all_else_can_be_delivered_later():
    for rule in RULES:
        assert (rule.verdict is REFUSED) == (
            rule.fault in {ROW, FIELD} and rule.verdict is not FORGOTTEN
        )
        assert (rule.fault is None) == (rule.verdict is DELIVERED)
        if rule.verdict in {DELIVERED, REFUSED, FORGOTTEN}:
            assert rule.repeat is NEVER


def test_what_is_not_the_rows_fault_and_not_repeated_says_in_our_words_what_to_mend():
    for rule in RULES:
        if rule.verdict is UNAVAILABLE and rule.repeat is NEVER:
            assert rule.message


@pytest.mark.parametrize(
    ("http_status", "body", "message"),
    [
        (401, envelope("BadApiKey", "Invalid API key"), "Iterable does not accept this API key"),
        (401, envelope("Success", "Invalid API key"), "Iterable does not accept this API key"),
        (
            401,
            envelope("BadApiKey", LACKS, {"apiKeyType": "ServerSide"}),
            "the API key is disabled, or lacks the permission for this call",
        ),
        (
            401,
            envelope("InvalidJwtPayload"),
            "the API key asks for a JWT of each user: use a server-side key without JWT",
        ),
        (
            403,
            HTML,
            "answered 403, but not by Iterable: check what stands between (proxy, firewall) and "
            "ITERABLE_API_BASE_URL",
        ),
        (302, envelope("BadParams", "see there"), REDIRECTED),
        (
            200,
            envelope("Success", BLOCKED),
            "the project blocks events of this name: allow it in the project's settings",
        ),
    ],
)
def test_a_message_says_what_to_mend(http_status, body, message):
    assert judge(http_status, body).outcome.message == message


def test_only_one_users_token_is_not_the_runs_key():
    assert judge(401, envelope("BadApiKey")).outcome.key_refused
    assert not judge(401, envelope("InvalidJwtPayload")).outcome.key_refused
    assert not judge(401, HTML).outcome.key_refused


@pytest.mark.parametrize(
    ("http_status", "body", "rows", "definite"),
    [
        (200, envelope("Success"), None, True),
        (400, envelope("BadParams"), None, True),
        (409, envelope("ForgottenUserError"), None, True),
        (401, envelope("BadApiKey"), None, True),
        (429, "", None, True),
        (500, envelope("GenericError"), None, False),
        (503, HTML, None, False),
        (408, HTML, None, False),
        (302, "", None, False),
        (403, HTML, None, False),
        (200, HTML, None, False),
    ],
)
def test_an_answer_is_definite_if_iterable_has_decided(http_status, body, rows, definite):
    assert judge(http_status, body, rows).definite is definite


@pytest.mark.parametrize(
    ("http_status", "body", "rows", "words"),
    [
        (503, HTML, None, "answered 503"),
        (403, HTML, None, "answered 403, but not by Iterable"),
    ],
)
def test_what_came_back_is_told_in_words(http_status, body, rows, words):
    assert judge(http_status, body, rows).cause.words == words


def test_a_failed_connection_is_told_by_its_name_and_in_words():
    error = TransportError(
        "ReadTimeout", left_machine=True, cause=Cause("no answer within 30 s", "wait")
    )
    answer = judge_failure(error)
    assert answer.outcome.message == "ReadTimeout: no answer within 30 s"
    assert answer.cause == error.cause
    assert not answer.definite


TLS_FAILED = Cause("TLS failed", "check the clock", lasting=True)


@pytest.mark.parametrize(
    ("error", "status", "repeat", "code"),
    [
        (TransportError("ReadTimeout", left_machine=True), UNKNOWN, BACKOFF, None),
        (TransportError("SSLError", left_machine=False), UNAVAILABLE, BACKOFF, None),
        (
            TransportError("SSLError", left_machine=False, cause=TLS_FAILED),
            *(UNAVAILABLE, NEVER, "SSLError"),
        ),
    ],
)
def test_without_an_answer_what_has_left_may_have_landed(error, status, repeat, code):
    answer = judge_failure(error)
    outcome = answer.outcome
    assert (outcome.status, answer.repeat, outcome.fault) == (status, repeat, NETWORK)
    assert (outcome.http_status, outcome.code) == (None, code)
    assert ("check the clock" in outcome.message) == (repeat is NEVER)


def test_only_a_failure_has_something_to_say():
    assert judge(200, envelope("Success", "Event with id: 1 tracked.")).outcome.message == ""
    assert judge(400, envelope("BadParams", "x@y.z is bad")).outcome.message == "x@y.z is bad"


def test_a_long_message_is_cut():
    assert len(judge(400, envelope("BadParams", "x" * 9999)).outcome.message) == 200


@pytest.mark.parametrize("msg", [None, 7, 1.5, True, [["x"]], {"a": 1}])
def test_a_message_that_is_no_text_is_left_out(msg):
    assert judge(400, envelope("BadParams", msg)).outcome.message == ""


@pytest.mark.parametrize("code", ["user x@y.z", "", "x" * 65])
def test_a_code_that_is_no_word_stays_out_of_the_log(code):
    assert str(judge(400, envelope(code)).outcome) == "refused (client error 400 ?)"


@pytest.mark.parametrize(
    "code",
    [
        "UnknownEmailError",
        "UnknownUserIdError",
        "UserNotFound",
        "UserIdNotFoundError",
        "notFoundEmails",
        "notFoundUserIds",
    ],
)
def test_an_unknown_user_has_many_names(code):
    assert user_not_found(CallOutcome(REFUSED, 200, code))


@pytest.mark.parametrize("code", [None, "?", "NotFound", "invalidEmails", "xUserNotFound"])
def test_not_every_code_is_about_an_unknown_user(code):
    assert not user_not_found(CallOutcome(REFUSED, 400, code))


def test_too_large_has_two_spellings():
    assert too_large(judge(413, HTML, 3).outcome)
    assert too_large(judge(400, envelope("BatchTooLarge"), 3).outcome)
    assert not too_large(judge(400, envelope("BadParams"), 3).outcome)


# --- Fields


def mismatch(errors):
    return envelope("RequestFieldsTypesMismatched", "Project 1: ...", {"validationErrors": errors})


def test_fields_of_another_type_are_named_with_the_type_that_the_project_has():
    detail = {"expectedType": "date", "offendingValue": "soon@example.com"}
    outcome = judge(400, mismatch({"signupDate": detail, "age": {"expectedType": "long"}})).outcome
    assert outcome.fields == (("signupDate", "date"), ("age", "long"))


@pytest.mark.parametrize("errors", [None, [], "x", {}, {"": {"expectedType": "date"}}])
def test_an_answer_may_name_no_field(errors):
    assert judge(400, mismatch(errors)).outcome.fields == ()


@pytest.mark.parametrize(
    "detail", [None, "x", [], {}, {"expectedType": None}, {"expectedType": [[]]}]
)
def test_a_field_may_have_no_type(detail):
    assert judge(400, mismatch({"plan": detail})).outcome.fields == (("plan", "another type"),)


def test_long_and_many_fields_are_cut():
    errors = {f"{n:03}{'f' * 999}": {"expectedType": "t" * 999} for n in range(500)}
    fields = judge(400, mismatch(errors)).outcome.fields
    assert len(fields) == 20
    assert {(len(name), len(kind)) for name, kind in fields} == {(64, 20)}


# --- Any answer at all


@pytest.mark.parametrize("content", [b"", b"<html>", b"[1]", b'"x"', b"null", b"\xff", b'{"a":'])
def test_what_is_no_json_object_is_read_as_an_empty_one(content):
    assert parse_object(content) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"code":' * 400 + b"1" + b"}" * 400,
        b'{"msg":' + b"[" * 900 + b"]" * 900 + b',"code":"BadParams"}',
        b'{"successCount":' + b"9" * 10_000 + b',"failCount":0}',
        b'{"successCount":1e999,"failCount":0}',
        b'{"code":"Success","code":"BadParams"}',
        b'{"code":"\xff"}',
        '{"code":"Success"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"code":"Success"}',
    ],
    ids=lambda content: f"{content[:20]!r}",
)
@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("http_status", [200, 400, 401, 409, 500])
def test_no_answer_raises_however_it_is_made(content, rows, http_status):
    outcome = judge_response(Response(http_status, {}, content), rows).outcome
    assert isinstance(outcome.status, CallStatus)


def test_half_a_character_in_an_answer_can_still_be_written_down():
    body = '{"code":"RequestFieldsTypesMismatched","msg":"\\ud800","params":{"validationErrors":'
    outcome = judge(400, body + '{"\\udfff":{"expectedType":"\\ud801"}}}}').outcome
    assert (outcome.message, outcome.fields) == ("?", (("?", "?"),))


KEYS = st.sampled_from(
    [
        *("code", "msg", "params", "validationErrors", "expectedType", "successCount", "failCount"),
        *("failedUpdates", "filteredOutFields", "noOpEmails", "disallowedEventNames", "fields"),
    ]
)
CODES = st.sampled_from(["Success", "BadApiKey", "RequestFieldsTypesMismatched", "GenericError"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | CODES
VALUES = st.recursive(
    SCALARS,
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
