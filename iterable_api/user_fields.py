"""Profile fields of a project: the request that reads."""

from typing import NamedTuple

from iterable_api.answers import Answer, judge_failure, judge_response, text_of
from iterable_api.endpoints import GET_USER_FIELDS
from iterable_api.transport import Transport, TransportError

# Of a field whose type the answer does not tell in a word.
UNKNOWN_TYPE = "?"


class UserFields(NamedTuple):
    """The answer to users/getFields: the type of each profile field, by its name.

    ``types`` is None when there is no such answer; ``answer`` says what came instead.
    """

    types: dict[str, str] | None
    answer: Answer


def fetch_user_fields(transport: Transport) -> UserFields:
    """Return the profile fields of the project; changes nothing there.

    Source: GET /api/users/getFields, https://api.iterable.com/api/docs
    """
    try:
        response = transport.send(GET_USER_FIELDS)
    except TransportError as error:
        return UserFields(None, judge_failure(error))
    answer = judge_response(response)
    types = answer.document.get("fields")
    if response.status_code != 200 or not isinstance(types, dict):
        return UserFields(None, answer)
    named = {name: text_of(kind) or UNKNOWN_TYPE for name, kind in types.items()}
    return UserFields(named, answer)
