"""Judgement of Iterable's answers: what each means and whether to repeat, in one table, ``RULES``.

Status first, because Iterable has been seen to send code "Success" with a 401; the body too,
because a 2xx can carry a refusal. Another kind of answer takes another line of the table.
"""

import json
import re
from collections.abc import Callable, Container
from enum import Enum, StrEnum, auto
from typing import Any, NamedTuple

from iterable_api.transport import Response, TransportError
from records.outcomes import CallOutcome, CallStatus

MAX_MESSAGE = 200


class Repeat(Enum):
    """Condition for sending the same request again."""

    NEVER = auto()
    BACKOFF = auto()  # after a pause of our own; uses up an attempt
    THROTTLE = auto()  # when the rate limiter permits; uses up no attempt


class Fault(StrEnum):
    """Place to look for what went wrong."""

    ROW = auto()
    KEY = auto()  # no request with this key can succeed
    PROJECT = auto()  # its settings, its limits, and who else uses them
    ITERABLE = auto()
    NETWORK = auto()  # what lies between, or another server than Iterable's


class Evidence(StrEnum):
    """Grounds for a rule: how it is known that Iterable answers so and means this."""

    OFFICIAL = auto()  # Iterable's documentation
    SEEN = auto()  # a recorded answer, or what another client's code or tests rely on
    ASSUMED = auto()  # nobody says


class Answer(NamedTuple):
    """Result of a request: its outcome, and the JSON object in the answer ({} for none).

    ``repeat`` tells whether to send it again, ``fault`` where to look, None if all is well.
    """

    outcome: CallOutcome
    document: dict[str, Any]
    repeat: Repeat = Repeat.NEVER
    fault: Fault | None = None


class Reply(NamedTuple):
    """Reply as the rules look at it; ``http_status`` is None if there was no answer."""

    http_status: int | None
    document: dict[str, Any]
    code: str | None = None
    message: str = ""
    left_machine: bool = True


class Rule(NamedTuple):
    """One line of the table: what replies of these HTTP statuses and of this shape mean.

    ``shape`` is a code of Iterable's, or else a question to ask of the reply. ``message`` is for
    the results file, in place of Iterable's own.
    """

    http_statuses: Container[int | None]
    shape: str | Callable[[Reply], bool]
    verdict: CallStatus
    repeat: Repeat
    fault: Fault | None
    evidence: Evidence
    message: str = ""

    def fits(self, reply: Reply) -> bool:
        """Whether this line is about replies such as *reply*."""
        if reply.http_status not in self.http_statuses:
            return False
        return reply.code == self.shape if isinstance(self.shape, str) else self.shape(reply)


def judge_response(response: Response) -> Answer:
    """Return what *response* means."""
    document = parse_object(response.content)
    message = str(document.get("msg") or "")[:MAX_MESSAGE]
    return _judge(Reply(response.status_code, document, _code_in(document), message))


def judge_failure(error: TransportError) -> Answer:
    """Return what it means that a request got no whole answer."""
    return _judge(Reply(None, {}, message=error.problem, left_machine=error.left_machine))


def rule_for(reply: Reply) -> Rule:
    """Return the first line of the table that *reply* fits."""
    return next(rule for rule in RULES if rule.fits(reply))


def _judge(reply: Reply) -> Answer:
    rule = rule_for(reply)
    # Only a failure has something to say.
    delivered = rule.verdict is CallStatus.DELIVERED
    message = "" if delivered else rule.message or reply.message
    outcome = CallOutcome(rule.verdict, reply.http_status, reply.code, message=message)
    return Answer(outcome, reply.document, rule.repeat, rule.fault)


# --- Shapes


def anything(_: Reply) -> bool:
    """Fit any reply."""
    return True


def no_code(reply: Reply) -> bool:
    """Fit a reply outside Iterable's envelope: a proxy's page, or an answer cut short."""
    return reply.code is None


def counts(reply: Reply) -> bool:
    """Fit a bulk endpoint's reply, which has counts in place of a code."""
    return reply.code is None and isinstance(reply.document.get("failCount"), int)


def event_blocked(reply: Reply) -> bool:
    """Fit what is a success by its code, but the project's settings block the event's name."""
    return reply.code == "Success" and "is disallowed from tracking" in reply.message


def request_left(reply: Reply) -> bool:
    """Fit a request that may have reached Iterable, whatever came back."""
    return reply.left_machine


# --- The table

DELIVERED, REFUSED = CallStatus.DELIVERED, CallStatus.REFUSED
UNAVAILABLE, UNKNOWN = CallStatus.UNAVAILABLE, CallStatus.UNKNOWN
NEVER, BACKOFF, THROTTLE = Repeat
ROW, KEY, PROJECT, ITERABLE, NETWORK = Fault
OFFICIAL, SEEN, ASSUMED = Evidence

NO_ANSWER = {None}
HTTP_2XX, HTTP_3XX, HTTP_4XX = range(200, 300), range(300, 400), range(400, 500)
HTTP_5XX, ANY_STATUS = range(500, 1000), range(1000)
REDIRECTED = "redirected, not followed; check ITERABLE_API_BASE_URL"

# The first line that fits decides.
# Source: the endpoints' responses, https://api.iterable.com/api/docs; else see Evidence.
# fmt: off
RULES = (
    # HTTP         code or shape                   means        again     at fault  evidence
    Rule(HTTP_2XX, event_blocked,                  REFUSED,     NEVER,    PROJECT,  SEEN),
    Rule(HTTP_2XX, "Success",                      DELIVERED,   NEVER,    None,     OFFICIAL),
    Rule(HTTP_2XX, counts,                         DELIVERED,   NEVER,    None,     OFFICIAL),
    # The request may have landed.
    Rule(HTTP_2XX, no_code,                        UNKNOWN,     BACKOFF,  NETWORK,  ASSUMED),
    # A passing fault of the service, not a verdict on the row.
    Rule(HTTP_2XX, "GenericError",                 UNAVAILABLE, BACKOFF,  ITERABLE, ASSUMED),
    Rule(HTTP_2XX, "RateLimitExceeded",            UNAVAILABLE, BACKOFF,  PROJECT,  ASSUMED),
    Rule(HTTP_2XX, anything,                       REFUSED,     NEVER,    ROW,      ASSUMED),

    Rule(HTTP_3XX, anything,                       REFUSED,     NEVER,    NETWORK,  ASSUMED,
         REDIRECTED),

    Rule({400},    "InvalidEmailAddressError",     REFUSED,     NEVER,    ROW,      SEEN),
    Rule({400},    "BadJsonBody",                  REFUSED,     NEVER,    ROW,      SEEN),
    # The project holds a field as another type. In bulk one row's refuses the whole batch.
    Rule({400},    "RequestFieldsTypesMismatched", REFUSED,     NEVER,    ROW,      SEEN),
    Rule({400},    "UniqueFieldsLimitExceeded",    REFUSED,     NEVER,    PROJECT,  ASSUMED),
    Rule({401},    anything,                       REFUSED,     NEVER,    KEY,      OFFICIAL),
    # Iterable's page for a path that it does not have, or another server's.
    Rule({404},    anything,                       REFUSED,     NEVER,    NETWORK,  SEEN),
    # The user was forgotten, or the email or userId belongs to another.
    Rule({409},    anything,                       REFUSED,     NEVER,    ROW,      OFFICIAL),
    # Of a batch, smaller parts may pass.
    Rule({413},    anything,                       REFUSED,     NEVER,    ROW,      SEEN),
    Rule({429},    anything,                       UNAVAILABLE, THROTTLE, PROJECT,  SEEN),
    Rule(HTTP_4XX, anything,                       REFUSED,     NEVER,    ROW,      ASSUMED),

    # May also come at every try for one row.
    Rule({500},    "GenericError",                 UNAVAILABLE, BACKOFF,  ITERABLE, SEEN),
    Rule({502, 504}, anything,                     UNAVAILABLE, BACKOFF,  ITERABLE, SEEN),
    Rule(HTTP_5XX, anything,                       UNAVAILABLE, BACKOFF,  ITERABLE, ASSUMED),

    Rule(NO_ANSWER, request_left,                  UNKNOWN,     BACKOFF,  NETWORK,  ASSUMED),
    Rule(NO_ANSWER, anything,                      UNAVAILABLE, BACKOFF,  NETWORK,  ASSUMED),
    # 1xx, which is no answer.
    Rule(ANY_STATUS, anything,                     REFUSED,     NEVER,    NETWORK,  ASSUMED),
)
# fmt: on


# --- Inside an answer


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object that *content* is, {} if it is none."""
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def failure_lists(document: dict[str, Any]) -> dict[str, set[str]]:
    """Return the non-empty lists of failures of a bulk answer, by name, in lower case.

    Source: the responses of users/bulkUpdate and events/trackBulk, https://api.iterable.com/api/docs
    """
    listed = document.get("failedUpdates")
    lists = dict(listed) if isinstance(listed, dict) else {}
    for name in ("invalidEmails", "invalidUserIds", "disallowedEventNames"):
        # The first two stand here in older answers, besides or instead.
        lists[name] = [*(lists.get(name) or ()), *(document.get(name) or ())]
    return {
        name: {str(value).strip().lower() for value in values}
        for name, values in lists.items()
        if isinstance(values, list) and values
    }


def mismatches(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    """Return the fields that had the wrong type, each with what the answer says of it."""
    params = answer.document.get("params")
    errors = params.get("validationErrors") if isinstance(params, dict) else None
    found = errors.items() if isinstance(errors, dict) else ()
    return [(str(field), detail) for field, detail in found if isinstance(detail, dict)]


def _code_in(document: dict[str, Any]) -> str | None:
    """Return the answer's code. It goes to the log, so anything but a plain word stays out."""
    value = document.get("code")
    if value is None:
        return None
    return value if isinstance(value, str) and re.fullmatch(r"[\w.]{1,64}", value) else "?"
