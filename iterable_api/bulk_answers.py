"""What the answer to a batch says of each of its rows.

Iterable names rows by address or user id, without a reason. Every part of an answer may be missing
or of another shape than documented: then it says nothing, and nothing here raises.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from iterable_api.answers import NOT_YET_KNOWN, Answer, fields_told
from iterable_api.payloads import user_id_key
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, Fault

# Lists of failed rows. A list of any other name leaves its rows open.
# Source: the responses of users/bulkUpdate and events/trackBulk, https://api.iterable.com/api/docs
_FORGOTTEN = frozenset({"forgottenEmails", "forgottenUserIds"})
_NOT_FOUND = frozenset({"notFoundEmails", "notFoundUserIds"})
_BLOCKED = "disallowedEventNames"
# Lists that name no rows, but the addresses that stand in the way of some.
_NOT_OF_ROWS = frozenset({"conflictEmails", "conflictUserIds", _BLOCKED})
_SENT_AGAIN = f"{NOT_YET_KNOWN}: the event is sent again later, at the latest by the next run"
_UNCLEAR = "some rows of the batch failed, and Iterable does not say which"


def calls_of(
    answer: Answer, name: str, keys: Sequence[str], bodies: Sequence[bytes]
) -> list[CallOutcome]:
    """Return the outcome of each row of a batch that was taken; *name* is "users" or "events".

    A row that is left open is ``NOT_SENT`` if it failed, ``UNKNOWN`` if it may have landed.
    """
    failed = _failed(answer.document)
    blocked = {text.lower() for text in _texts(answer.document.get(_BLOCKED))}
    calls = [_call_of(answer.outcome, name, failed.get(key, set())) for key in keys]
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
    """Return how many of a batch's *rows* are delivered by the counts in the answer."""
    successes, failures = document["successCount"], document["failCount"]
    # Rows that change nothing may be counted as successful or not at all, ...
    unchanged = [*_texts(document.get("noOpEmails")), *_texts(document.get("noOpUserIds"))]
    # ... and blocked events as failed or not at all.
    most = rows if document.get(_BLOCKED) else rows - failures
    # An answer that counts more rows than there are is not about these.
    return 0 if successes + failures > rows else min(successes + len(unchanged), most)


def _failed(document: dict[str, Any]) -> Mapping[str, set[str]]:
    """Return the lists of failures that name a row, by the row's key."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    lists = document.get("failedUpdates")
    for name, values in lists.items() if isinstance(lists, dict) else ():
        for text in () if name in _NOT_OF_ROWS else _texts(values):
            found[user_id_key(text) if name.endswith("UserIds") else text.lower()].add(name)
    return found


def _call_of(batch: CallOutcome, name: str, lists: set[str]) -> CallOutcome | None:
    """Return the outcome of a row by the *lists* that name it, None if none does."""
    if code := min(lists & _FORGOTTEN, default=""):
        status, fault, message = CallStatus.FORGOTTEN, Fault.ROW, f"listed in {code}"
        return replace(batch, status=status, fault=fault, code=code, message=message)
    if name == "events" and lists and lists <= _NOT_FOUND:
        # The user was accepted a moment ago and is not visible yet.
        status, fault, code = CallStatus.UNAVAILABLE, Fault.ITERABLE, min(lists)
        return replace(batch, status=status, fault=fault, code=code, message=_SENT_AGAIN)
    return NOT_SENT if lists else None


def _delivered(batch: CallOutcome, body: bytes, filtered: Sequence[str]) -> CallOutcome:
    """Return the outcome of a delivered row, with those of its fields that were left out.

    What is left out of an object is named with a dot behind the field's name.
    """
    if not filtered:
        return batch
    held = json.loads(body)["dataFields"]
    names = [name for name in filtered if name.partition(".")[0] in held]
    return replace(batch, fields=fields_told((name, "filtered out") for name in names))


def _texts(values: object) -> Iterator[str]:
    """Yield the texts in a list."""
    for value in values if isinstance(values, list) else ():
        if isinstance(value, str):
            yield value.strip()
