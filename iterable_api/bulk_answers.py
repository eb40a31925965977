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

# Kinds of failures; the name of a list is its kind and Emails or UserIds.
# Source: the responses of users/bulkUpdate and events/trackBulk, https://api.iterable.com/api/docs
_FORGOTTEN, _NOT_FOUND = "forgotten", "notFound"
# Names the address that stands in the way, which need not be that of the row.
_CONFLICT = "conflict"
_BLOCKED = "disallowedEventNames"
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
    calls = [_call_of(answer.outcome, name, failed, key) for key in keys]
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
    """Return the keys of the rows that the lists of failures name, by kind."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    lists = document.get("failedUpdates")
    for name, values in lists.items() if isinstance(lists, dict) else ():
        kind = name.removesuffix("Emails").removesuffix("UserIds")
        by_user_id = name.endswith("UserIds")
        if kind not in {_CONFLICT, _BLOCKED}:
            found[kind] |= {user_id_key(t) if by_user_id else t.lower() for t in _texts(values)}
    return found


def _call_of(
    batch: CallOutcome, name: str, failed: Mapping[str, set[str]], key: str
) -> CallOutcome | None:
    """Return the outcome of a row by the lists that name it, None if none does."""
    kinds = {kind for kind, keys in failed.items() if key in keys}
    suffix = "UserIds" if key.startswith(user_id_key("")) else "Emails"
    if _FORGOTTEN in kinds:
        status, fault, code = CallStatus.FORGOTTEN, Fault.ROW, _FORGOTTEN + suffix
        return replace(batch, status=status, fault=fault, code=code, message=f"listed in {code}")
    if kinds == {_NOT_FOUND} and name == "events":
        # The user was accepted a moment ago and is not visible yet.
        status, fault, code = CallStatus.UNAVAILABLE, Fault.ITERABLE, _NOT_FOUND + suffix
        return replace(batch, status=status, fault=fault, code=code, message=_SENT_AGAIN)
    return NOT_SENT if kinds else None


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
