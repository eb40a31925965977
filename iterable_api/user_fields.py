"""Profile fields of a project, which only ``--check`` asks for: the one request that reads."""

import time
from typing import NamedTuple

from iterable_api.answers import parse_object
from iterable_api.backoff import seconds_since
from iterable_api.endpoints import GET_USER_FIELDS
from iterable_api.transport import Transport, TransportError

READ_RETRY_S = 0.5

# Broken before there was an answer: a second try may do better.
_PASSING_PROBLEMS = frozenset({"NewConnectionError", "ConnectionError"})


class UserFields(NamedTuple):
    """The answer to users/getFields: the type of each profile field, by its name.

    ``types`` is None when there is no such answer. Then ``http_status`` says what came instead, or
    ``problem``, the name of an error, why nothing came. ``clock_ahead_s`` is by how many seconds
    this machine's clock is ahead of Iterable's, None if Iterable did not tell the time.
    """

    types: dict[str, str] | None
    http_status: int | None = None
    problem: str = ""
    clock_ahead_s: float | None = None


def fetch_user_fields(api_key: str, base_url: str, timeout_s: float) -> UserFields:
    """Return the profile fields of the project; changes nothing there, asks twice at most.

    *timeout_s* bounds each of the two answers. The second is asked for when the first is a fault
    that may pass.

    Source: GET /api/users/getFields, https://api.iterable.com/api/docs
    """
    transport = Transport(base_url, api_key, timeout_s, connections=1)
    try:
        answer = _ask(transport)
        if _may_pass(answer):
            time.sleep(READ_RETRY_S)
            answer = _ask(transport)
    finally:
        transport.close()
    return answer


def _ask(transport: Transport) -> UserFields:
    try:
        response = transport.get(GET_USER_FIELDS)
    except TransportError as error:
        return UserFields(None, problem=error.problem)
    types = parse_object(response.content).get("fields")
    if response.status_code != 200 or not isinstance(types, dict):
        types = None
    ahead_s = seconds_since(response.headers.get("Date"))
    return UserFields(types, response.status_code, clock_ahead_s=ahead_s)


def _may_pass(answer: UserFields) -> bool:
    status = answer.http_status or 0
    return status == 429 or status >= 500 or answer.problem in _PASSING_PROBLEMS
