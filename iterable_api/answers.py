"""Judges Iterable's answers by one table, ``RULES``: what each means, and whether to retry.

The HTTP status counts first, because Iterable has sent code "Success" with a 401; the body counts
too, because a 2xx can carry a refusal. For another kind of answer, add a line to the table.
"""

import json
import re
import time
from collections.abc import Callable, Container, Iterable
from enum import Enum, auto
from typing import Any, NamedTuple

from iterable_api.endpoints import GET_USER_FIELDS
from iterable_api.transport import BETWEEN, Cause, Response, Transport, TransportError
from records.outcomes import CallOutcome, CallStatus, Fault

# After this time a rate limit of some requests a second admits the next one.
NEXT_SECOND_S = 1.1
MAX_MESSAGE = 200
# Maximum number of fields to keep of those that an answer names.
MAX_FIELDS = 20
MAX_NAME = 64
# The type of a field if the answer does not give it as one word.
UNKNOWN_TYPE = "?"


class Repeat(Enum):
    """Condition for sending the same request again."""

    NEVER = auto()
    BACKOFF = auto()  # after a pause of our own; uses up an attempt
    THROTTLE = auto()  # when the rate limiter permits; uses up no attempt


class Answer(NamedTuple):
    """Result of a request: its outcome, and the JSON object in the answer ({} for none).

    ``repeat`` says whether to retry, ``cause`` describes the answer in words.
    """

    outcome: CallOutcome
    document: dict[str, Any]
    repeat: Repeat = Repeat.NEVER
    cause: Cause = Cause("")

    @property
    def definite(self) -> bool:
        """Whether Iterable itself answered, and with more than a temporary failure."""
        return self.repeat is not Repeat.BACKOFF and self.outcome.fault is not Fault.NETWORK

    @property
    def field_types(self) -> dict[str, str] | None:
        """The type of each profile field, by its name; None if the answer is no list of fields."""
        fields = self.document.get("fields")
        if self.outcome.http_status != 200 or not isinstance(fields, dict):
            return None
        return {name: text_of(kind) or UNKNOWN_TYPE for name, kind in fields.items()}


class Reply(NamedTuple):
    """Iterable's answer as the rules see it.

    ``rows`` is the number of rows in a bulk request, None for a single call.
    """

    http_status: int
    document: dict[str, Any]
    code: str | None = None
    message: str = ""
    rows: int | None = None


class Rule(NamedTuple):
    """One line of the table: the meaning of replies with these HTTP statuses and this shape.

    ``message`` replaces Iterable's own in the results file.
    """

    http_statuses: Container[int]
    shape: Callable[[Reply], bool]
    verdict: CallStatus
    repeat: Repeat
    fault: Fault | None
    message: str = ""


def judge_response(response: Response, rows: int | None = None) -> Answer:
    """Return the meaning of *response*; *rows*: number of rows in a bulk request, else None."""
    document = parse_object(response.content)
    message = text_of(document.get("msg"), MAX_MESSAGE)
    reply = Reply(response.status_code, document, _code_in(document), message, rows)
    rule = rule_for(reply)
    # Only a failure has a message.
    delivered = rule.verdict is CallStatus.DELIVERED
    outcome = CallOutcome(
        rule.verdict,
        reply.http_status,
        reply.code,
        message="" if delivered else rule.message.format(reply.http_status) or message,
        fault=rule.fault,
        fields=_mistyped_fields(reply),
    )
    but = ", but not by Iterable" if rule.message == NOT_ITERABLE else ""
    cause = Cause(f"answered {reply.http_status}{but}", BETWEEN)
    return Answer(outcome, document, rule.repeat, cause)


def judge_failure(error: TransportError) -> Answer:
    """Return the meaning of a request without a complete answer."""
    message, lasting = f"{error.problem}: {error.cause.words}", error.cause.lasting
    if lasting:
        message += f"; {error.cause.advice}"
    outcome = CallOutcome(
        CallStatus.UNKNOWN if error.left_machine else CallStatus.UNAVAILABLE,
        # The code marks a failure that all rows would meet, so that the run can stop.
        code=error.problem if lasting else None,
        message=message,
        fault=Fault.NETWORK,
    )
    return Answer(outcome, {}, Repeat.NEVER if lasting else Repeat.BACKOFF, error.cause)


def fetch_user_fields(transport: Transport) -> Answer:
    """Ask for the profile fields of the project; this changes nothing there.

    An answer 429 is asked once more: runs that follow each other quickly, or another program, use
    up the limit of a second.

    Source: GET /api/users/getFields, https://api.iterable.com/api/docs
    """
    answer = _ask_for_user_fields(transport)
    if answer.repeat is Repeat.THROTTLE:
        time.sleep(NEXT_SECOND_S)
        answer = _ask_for_user_fields(transport)
    return answer


def _ask_for_user_fields(transport: Transport) -> Answer:
    try:
        return judge_response(transport.send(GET_USER_FIELDS))
    except TransportError as error:
        return judge_failure(error)


def rule_for(reply: Reply) -> Rule:
    """Return the first line of the table that *reply* fits."""
    fitting = (rule for rule in RULES if reply.http_status in rule.http_statuses)
    return next(rule for rule in fitting if rule.shape(reply))


# --- Shapes


def code(pattern: str) -> Callable[[Reply | CallOutcome], bool]:
    """Return a shape for a pattern of Iterable's codes, in any case; "" fits a missing code."""
    fits = re.compile(pattern, re.IGNORECASE).fullmatch
    return lambda reply: fits(reply.code or "") is not None


anything = code(".*")
# Whether Iterable does not know a user, perhaps because the user is too new: the code of a single
# call, or the name of a list in bulk.
user_not_found = code(
    "unknown(email|user(id)?)(error)?|(email|user(id)?)notfound(error)?|notfound(emails|userids)"
)


def too_large(reply: Reply | CallOutcome) -> bool:
    """Whether Iterable, or a proxy, finds the request too large."""
    return reply.http_status == 413 or reply.code == "BatchTooLarge"


def taken(reply: Reply) -> bool:
    """Fit a success; for a batch, only with the counts of its rows."""
    success = reply.code == "Success"
    if reply.rows is None:
        return success
    counts = [reply.document.get(name) for name in ("successCount", "failCount")]
    # A bool is an int, too.
    return (success or not reply.code) and all(type(n) is int and n >= 0 for n in counts)


def event_blocked(reply: Reply) -> bool:
    """Fit an event whose name the project blocks, though its code is a success."""
    return reply.code is not None and "disallowed from tracking" in reply.message


def no_permission(reply: Reply) -> bool:
    """Fit a key that Iterable knows."""
    typed = "apiKeyType" in object_in(reply.document.get("params"))
    return typed or "insufficient privileges" in reply.message


# --- The table

DELIVERED, REFUSED, FORGOTTEN = CallStatus.DELIVERED, CallStatus.REFUSED, CallStatus.FORGOTTEN
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN
NEVER, BACKOFF, THROTTLE = Repeat
ROW, FIELD, KEY, PROJECT, ITERABLE, NETWORK = Fault

HTTP_2XX, HTTP_3XX, HTTP_4XX, ANY = range(200, 300), range(300, 400), range(400, 500), range(1000)
# Statuses of temporary faults, whoever reports them.
PASSING = {408, 423, 425, *range(500, 1000)}
# Statuses for which the code decides, and those for which the remaining codes are about values.
CODED, VALUES = {*HTTP_2XX, *HTTP_4XX}, {*HTTP_2XX, 400, 409, 422}

# A proxy's or a firewall's page, or an answer cut short.
FOREIGN = code("")
FORGOTTEN_USER = code(r"forgotten\w*")
BAD_JWT = code("InvalidJwtPayload|JwtUserIdentifiersMismatched|BadAuthorizationHeader")
FORBIDDEN = code("BadApiKey|Forbidden|Unauthorized")
OUT_OF_ORDER = code("GenericError|DatabaseError")
FIELDS_USED_UP = code("UniqueFieldsLimitExceeded")
# The email or userId is malformed, or belongs to another user.
BAD_IDENTITY = code(r"Invalid(EmailAddress|UserId)Error|\w+AlreadyExists|ExternalKeyConflict")

NOT_ITERABLE = (
    "answered {}, but not by Iterable: check the proxy or firewall between this machine and "
    "Iterable, and ITERABLE_API_BASE_URL"
)
REDIRECTED = "redirected, not followed; check ITERABLE_API_BASE_URL"
TOO_LARGE = "the request is too large for Iterable or for a proxy"
KEY_REFUSED = "Iterable refused the API key"
KEY_LACKS = f"{KEY_REFUSED}: it is disabled, or lacks the permission for this call"
KEY_OF_JWT = "the API key requires a JWT for each user: use a server-side key without JWT"
NOT_ALLOWED = "Iterable forbids this call: check what the project and its API key allow"
NO_SUCH_CALL = (
    "Iterable does not know this endpoint: check ITERABLE_API_BASE_URL, or update this program"
)
NAME_BLOCKED = "the project blocks events with this name: allow it in the project's settings"
NO_MORE_FIELDS = "the project has reached Iterable's limit of fields: ask Iterable to raise it"
NOT_YET_KNOWN = "Iterable does not know this user (yet)"
OTHER_IDENTITY = "the project does not identify users in this way: change ITERABLE_IDENTITY"

# The first line that fits decides. Only a reason that can be in the data is a refusal.
# Iterable documents (https://api.iterable.com/api/docs) its success, 401, 409 and a JWT's code.
# Recorded answers, or other clients' code, show the blocked event, 413, 429, 500, 502, 504, the
# page for a 404, a key without permission and refused values; the rest is assumed.
# fmt: off
RULES = (
    #    HTTP       code or shape              means        again     at fault  message
    Rule(CODED,     event_blocked,             UNAVAILABLE, NEVER,    PROJECT,  NAME_BLOCKED),
    Rule(HTTP_2XX,  taken,                     DELIVERED,   NEVER,    None),
    # At the user's own request, and so permanently.
    Rule(ANY,       FORGOTTEN_USER,            FORGOTTEN,   NEVER,    ROW),

    # A 500 may also come at every attempt for one row.
    Rule({429},     anything,                  UNAVAILABLE, THROTTLE, PROJECT),
    Rule(CODED,     code("RateLimitExceeded"), UNAVAILABLE, THROTTLE, PROJECT),
    Rule(PASSING,   anything,                  UNAVAILABLE, BACKOFF,  ITERABLE),
    # Smaller parts of a batch may pass.
    Rule(CODED,     too_large,                 REFUSED,     NEVER,    ROW,      TOO_LARGE),

    # The request may have landed.
    Rule(HTTP_2XX,  code("|Success"),          UNKNOWN,     BACKOFF,  NETWORK,  NOT_ITERABLE),
    Rule(HTTP_3XX,  anything,                  UNAVAILABLE, NEVER,    NETWORK,  REDIRECTED),
    # Also Iterable's own page for a path that it does not have.
    Rule(HTTP_4XX,  FOREIGN,                   UNAVAILABLE, BACKOFF,  NETWORK,  NOT_ITERABLE),

    # From here on Iterable itself has answered. A user's token is not the run's key.
    Rule(CODED,     BAD_JWT,                   UNAVAILABLE, NEVER,    PROJECT,  KEY_OF_JWT),
    Rule({401},     no_permission,             UNAVAILABLE, NEVER,    KEY,      KEY_LACKS),
    Rule({401},     anything,                  UNAVAILABLE, NEVER,    KEY,      KEY_REFUSED),
    Rule({403},     anything,                  UNAVAILABLE, NEVER,    PROJECT,  NOT_ALLOWED),
    Rule(CODED,     FORBIDDEN,                 UNAVAILABLE, NEVER,    PROJECT,  NOT_ALLOWED),
    Rule(CODED,     FIELDS_USED_UP,            UNAVAILABLE, NEVER,    PROJECT,  NO_MORE_FIELDS),
    # The event is sent again later.
    Rule(CODED,     user_not_found,            UNAVAILABLE, NEVER,    ITERABLE, NOT_YET_KNOWN),
    Rule(CODED,     OUT_OF_ORDER,              UNAVAILABLE, BACKOFF,  ITERABLE),

    Rule(CODED,     BAD_IDENTITY,              REFUSED,     NEVER,    ROW),
    # Such as a field with another type in the project. In bulk it refuses the whole batch.
    Rule(VALUES,    anything,                  REFUSED,     NEVER,    FIELD),
    Rule(ANY,       anything,                  UNAVAILABLE, NEVER,    PROJECT,  NO_SUCH_CALL),
)
# fmt: on


# --- Inside a response


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object in *content*, {} if there is none or it cannot be read."""
    try:
        return object_in(json.loads(content))
    except (ValueError, RecursionError):
        return {}


def object_in(value: object) -> dict[str, Any]:
    """Return *value* if it is a JSON object, else {}."""
    return value if isinstance(value, dict) else {}


def text_of(value: object, longest: int = MAX_NAME) -> str:
    """Return *value*, cut to *longest* characters, if it is text, else ""."""
    if not isinstance(value, str):
        return ""
    return value[:longest].encode("utf-8", "replace").decode()


def named_fields(fields: Iterable[tuple[object, str]]) -> tuple[tuple[str, str], ...]:
    """Return the names and kinds of fields for an outcome, cut in number and length."""
    named = [(text_of(name), kind) for name, kind in fields]
    return tuple((name, kind) for name, kind in named if name)[:MAX_FIELDS]


def _code_in(document: dict[str, Any]) -> str | None:
    """Return the answer's code; it goes to the log, so only a plain word is taken."""
    value = document.get("code")
    if not isinstance(value, str):
        return None
    return value if re.fullmatch(r"[\w.]{1,64}", value) else "?"


def _mistyped_fields(reply: Reply) -> tuple[tuple[str, str], ...]:
    """Return the fields that have another type in the project, each with that type."""
    if reply.code != "RequestFieldsTypesMismatched":
        return ()
    errors = object_in(object_in(reply.document.get("params")).get("validationErrors"))
    types = {name: object_in(detail).get("expectedType") for name, detail in errors.items()}
    return named_fields((name, text_of(kind) or "another type") for name, kind in types.items())
