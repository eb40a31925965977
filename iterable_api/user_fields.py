"""Profile fields of a project: the request that reads."""

import time
from typing import NamedTuple

from iterable_api.answers import (
    MAX_TYPE_NAME,
    Answer,
    Repeat,
    judge_failure,
    judge_response,
    text_of,
)
from iterable_api.backoff import seconds_since
from iterable_api.endpoints import GET_USER_FIELDS
from iterable_api.transport import Transport, TransportError
from records.outcomes import Fault

READ_RETRY_S = 0.5
# Of a field whose type the answer does not tell in a word.
UNKNOWN_TYPE = "?"

# Broken before there was an answer: a second try may do better.
_PASSING_PROBLEMS = frozenset({"NewConnectionError", "ConnectionError"})


class UserFields(NamedTuple):
    """The answer to users/getFields: the type of each profile field, by its name.

    ``types`` is None when there is no such answer; ``answer`` says what came instead.
    ``clock_ahead_s`` is by how many seconds this machine's clock is ahead of Iterable's, None if
    Iterable did not tell the time.
    """

    types: dict[str, str] | None
    answer: Answer
    clock_ahead_s: float | None = None


def fetch_user_fields(transport: Transport) -> UserFields:
    """Return the profile fields of the project; changes nothing there, asks twice at most.

    The second time is when the first answer is a fault that may pass.

    Source: GET /api/users/getFields, https://api.iterable.com/api/docs
    """
    fields = _ask(transport)
    if fields.types is None and _may_pass(fields.answer):
        time.sleep(READ_RETRY_S)
        fields = _ask(transport)
    return fields


def _ask(transport: Transport) -> UserFields:
    try:
        response = transport.get(GET_USER_FIELDS)
    except TransportError as error:
        return UserFields(None, judge_failure(error))
    answer = judge_response(response)
    ahead_s = seconds_since(response.headers.get("Date"))
    types = answer.document.get("fields")
    if response.status_code != 200 or not isinstance(types, dict):
        return UserFields(None, answer, ahead_s)
    named = {name: text_of(kind, MAX_TYPE_NAME) or UNKNOWN_TYPE for name, kind in types.items()}
    return UserFields(named, answer, ahead_s)


def _may_pass(answer: Answer) -> bool:
    if answer.outcome.http_status is None:
        return answer.outcome.message.partition(":")[0] in _PASSING_PROBLEMS
    return answer.repeat is Repeat.THROTTLE or answer.outcome.fault is Fault.ITERABLE
