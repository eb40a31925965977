"""Reads the outcome of each row from the answer to a batch.

Iterable names failed rows by email or user id, without a reason. Any part of an answer may be
missing or malformed: it is then ignored, and nothing here raises.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from iterable_api.answers import NOT_YET_KNOWN, Answer, named_fields
from iterable_api.payloads import user_id_key
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, Fault

# Lists of failed rows. Rows in lists with other names stay open.
# Source: the responses of users/bulkUpdate and events/trackBulk, https://api.iterable.com/api/docs
_FORGOTTEN = frozenset({"forgottenEmails", "forgottenUserIds"})
_NOT_FOUND = frozenset({"notFoundEmails", "notFoundUserIds"})
_BLOCKED = "disallowedEventNames"
# Lists that do not name rows, but event names, or emails and user ids that are taken.
_NOT_OF_ROWS = frozenset({"conflictEmails", "conflictUserIds", _BLOCKED})
_SENT_AGAIN = f"{NOT_YET_KNOWN}: the event is sent again later, at the latest by the next run"
_UNCLEAR = "some rows of the batch failed, and Iterable does not say which"


def calls_of(
    answer: Answer, name: str, keys: Sequence[str], bodies: Sequence[bytes]
) -> list[CallOutcome]:
    """Return the outcome of each row of an accepted batch; *name* is "users" or "events".

    An open row is ``NOT_SENT`` if it failed, ``UNKNOWN`` if Iterable may have applied it.
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
    """Return the largest number of *rows* that the counts in the answer allow as delivered."""
    successes, failures = document["successCount"], document["failCount"]
    # Iterable may count rows that change nothing as successful or not at all, ...
    unchanged = [*_texts(document.get("noOpEmails")), *_texts(document.get("noOpUserIds"))]
    # ... and blocked events as failed or not at all.
    most = rows if document.get(_BLOCKED) else rows - failures
    # An answer that counts more rows than were sent cannot be trusted.
    return 0 if successes + failures > rows else min(successes + len(unchanged), most)


def _failed(document: dict[str, Any]) -> Mapping[str, set[str]]:
    """Return the names of the failure lists that have a row, by the row's key."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    lists = document.get("failedUpdates")
    for name, values in lists.items() if isinstance(lists, dict) else ():
        for text in () if name in _NOT_OF_ROWS else _texts(values):
            found[user_id_key(text) if name.endswith("UserIds") else text.lower()].add(name)
    return found


def _call_of(batch: CallOutcome, name: str, lists: set[str]) -> CallOutcome | None:
    """Return the outcome of a row in these *lists*; None if it is in none."""
    if code := min(lists & _FORGOTTEN, default=""):
        status, fault, message = CallStatus.FORGOTTEN, Fault.ROW, f"listed in {code}"
        return replace(batch, status=status, fault=fault, code=code, message=message)
    if name == "events" and lists and lists <= _NOT_FOUND:
        # Iterable has just accepted the user and does not find it yet.
        status, fault, code = CallStatus.UNAVAILABLE, Fault.ITERABLE, min(lists)
        return replace(batch, status=status, fault=fault, code=code, message=_SENT_AGAIN)
    return NOT_SENT if lists else None


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
