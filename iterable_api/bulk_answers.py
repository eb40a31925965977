"""Reads the outcome of each row from the answer to a batch.

Iterable names failed rows by email or user id, without a reason. Any part of an answer may be
missing or malformed: it is then ignored, and nothing here raises.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from iterable_api.answers import Answer, judge_response, named_fields, object_in, user_not_found
from iterable_api.payloads import user_id_key
from iterable_api.transport import Response
from records.outcomes import NOT_SENT, CallOutcome, CallStatus

# Source: the responses of users/bulkUpdate and events/trackBulk, https://api.iterable.com/api/docs
_BLOCKED = "disallowedEventNames"
# Lists that do not name rows, but event names, or emails and user ids that are taken.
_NOT_OF_ROWS = {"conflictEmails", "conflictUserIds", _BLOCKED}
_UNCLEAR = "some rows of the batch failed, and Iterable does not say which"


def calls_of(
    answer: Answer, name: str, keys: Sequence[str], bodies: Sequence[bytes]
) -> list[CallOutcome]:
    """Return the outcome of each row of an accepted batch; *name* is "users" or "events".

    An open row is ``NOT_SENT`` if it failed, ``UNKNOWN`` if Iterable may have applied it.
    """
    failed = _failed(answer.document)
    blocked = {text.lower() for text in _texts(answer.document.get(_BLOCKED))}
    calls = [_call_of(answer.outcome, name, failed.get(key)) for key in keys]
    if blocked:
        for place, body in enumerate(bodies):
            if str(json.loads(body).get("eventName")).lower() in blocked:
                calls[place] = calls[place] or NOT_SENT
    if _most_delivered(answer.document, len(keys)) < calls.count(None):
        unclear = replace(answer.outcome, status=CallStatus.UNKNOWN, message=_UNCLEAR)
        return [call or unclear for call in calls]
    filtered = list(_texts(answer.document.get("filteredOutFields")))
    return [
        call or _delivered(answer.outcome, body, filtered)
        for call, body in zip(calls, bodies, strict=True)
    ]


def _most_delivered(document: dict[str, Any], rows: int) -> int:
    """Return the largest number of *rows* that the counts in the answer allow as delivered."""
    successes, failures = document["successCount"], document["failCount"]
    # Iterable may count rows that change nothing as successful or not at all, ...
    unchanged = [*_texts(document.get("noOpEmails")), *_texts(document.get("noOpUserIds"))]
    # ... and blocked events as failed or not at all.
    most = rows if document.get(_BLOCKED) else rows - failures
    # An answer that counts more rows than were sent cannot be trusted.
    return 0 if successes + failures > rows else min(successes + len(unchanged), most)


def _failed(document: dict[str, Any]) -> dict[str, str]:
    """Return the name of the first failure list that has a row, by the row's key."""
    found: dict[str, str] = {}
    lists = object_in(document.get("failedUpdates"))
    # In this order, so that a row in several lists counts as forgotten.
    for name in sorted(lists.keys() - _NOT_OF_ROWS):
        for text in _texts(lists[name]):
            found.setdefault(user_id_key(text) if name.endswith("UserIds") else text.lower(), name)
    return found


def _call_of(batch: CallOutcome, kind: str, listed: str | None) -> CallOutcome | None:
    """Return the outcome of a row in the list *listed*, None if it is in none.

    The list's name means what the same code means in the answer to a single call.
    """
    if listed is None:
        return None
    call = judge_response(Response(400, {}, json.dumps({"code": listed}).encode())).outcome
    if call.status is CallStatus.FORGOTTEN or (kind == "events" and user_not_found(call)):
        return replace(call, http_status=batch.http_status, attempts=batch.attempts)
    return NOT_SENT


def _delivered(batch: CallOutcome, body: bytes, filtered: Sequence[str]) -> CallOutcome:
    """Return the outcome of a delivered row, with its fields that Iterable ignored.

    A field inside an object is named with a dot after the object's name.
    """
    if not filtered:
        return batch
    held = json.loads(body)["dataFields"]
    names = [name for name in filtered if name.partition(".")[0] in held]
    return replace(batch, fields=named_fields((name, "filtered out") for name in names))


def _texts(values: object) -> Iterator[str]:
    """Yield the texts in a list."""
    for value in values if isinstance(values, list) else ():
        if isinstance(value, str):
            yield value.strip()
