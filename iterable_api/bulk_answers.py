"""What a bulk answer says of the rows of its batch.

Iterable names rows by address, without a reason. Every part of an answer may be missing or of
another shape than documented: then it says nothing, and nothing here raises.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from iterable_api.answers import NAME_BLOCKED, NOT_YET_KNOWN, Answer
from iterable_api.payloads import user_id_key
from records.outcomes import CallOutcome, CallStatus, Fault

# The kinds of lists of failures, the most final first; each comes as ...Emails and as ...UserIds.
# Source: the responses of users/bulkUpdate and events/trackBulk, https://api.iterable.com/api/docs
_VERDICTS = {
    "forgotten": (CallStatus.FORGOTTEN, Fault.ROW),
    "invalid": (CallStatus.REFUSED, Fault.ROW),
    "invalidData": (CallStatus.REFUSED, Fault.FIELD),
    # The user was accepted a moment ago and is not visible yet.
    "notFound": (CallStatus.UNAVAILABLE, Fault.ITERABLE),
}
# These name the address that stands in the way, which need not be that of the row.
_NOT_THE_ROW = frozenset({"conflictEmails", "conflictUserIds"})
_EVENTS = "disallowedEventNames"
# The first two stand here in older answers, besides or instead.
_AT_THE_TOP = ("invalidEmails", "invalidUserIds", _EVENTS)
_SENT_AGAIN = f"{NOT_YET_KNOWN}: the event is sent again later, at the latest by the next run"

# The values that fields of our own can have.
Scalar = str | bool | int | float


def failure_lists(document: dict[str, Any]) -> dict[str, set[str]]:
    """Return the non-empty lists of failures of a bulk answer, by name.

    Emails and names of events are in lower case; user ids are as they came.
    """
    failed = document.get("failedUpdates")
    lists = list(failed.items()) if isinstance(failed, dict) else []
    lists += [(name, document.get(name)) for name in _AT_THE_TOP]
    found: dict[str, set[str]] = {}
    for name, values in lists:
        texts = set(_texts(values))
        if not _has_user_ids(str(name)):
            texts = {text.lower() for text in texts}
        if texts:
            found.setdefault(str(name), set()).update(texts)
    return found


def fail_count(document: dict[str, Any]) -> int:
    """Return how many rows of a batch failed, 0 if the answer does not say."""
    return _count(document, "failCount")


def counted(document: dict[str, Any]) -> int:
    """Return of how many rows of a batch the answer says that they succeeded or failed."""
    return _count(document, "successCount") + _count(document, "failCount")


def _count(document: dict[str, Any], name: str) -> int:
    count = document.get(name)
    return count if type(count) is int and count > 0 else 0


def named_failures(answer: Answer) -> dict[str, CallOutcome]:
    """Return the outcomes of the rows that an answer names, by their keys."""
    lists = failure_lists(answer.document)
    named: dict[str, CallOutcome] = {}
    for name in sorted(lists.keys() - _NOT_THE_ROW - {_EVENTS}, key=_finality):
        outcome = _listed(answer, name)
        for identifier in lists[name]:
            named.setdefault(_key(name, identifier), outcome)
    return named


def unnamed_failure(answer: Answer) -> CallOutcome:
    """Return the outcome of a row that an answer counts as failed, and does not name."""
    reasons = failure_lists(answer.document).keys() & _NOT_THE_ROW
    if len(reasons) == 1:
        return _listed(answer, *reasons)
    text = "counted in failCount, but not listed"
    return replace(
        answer.outcome, status=CallStatus.REFUSED, message=text, fault=Fault.ROW, fields=()
    )


def unclear(answer: Answer, failures: int, rows: int) -> CallOutcome:
    """Return the outcome of *rows* rows of which *failures* failed, as long as nobody says which.

    The others have landed.
    """
    text = f"{failures} of {rows} rows failed, and Iterable does not say which"
    return replace(answer.outcome, status=CallStatus.UNKNOWN, message=text, fields=())


def blocked_names(document: dict[str, Any]) -> set[str]:
    """Return the names of events that the project's settings block, in lower case."""
    return failure_lists(document).get(_EVENTS, set())


def blocked(answer: Answer) -> CallOutcome:
    """Return the outcome of an event whose name the project's settings block."""
    return replace(
        answer.outcome,
        status=CallStatus.UNAVAILABLE,
        code=_EVENTS,
        message=NAME_BLOCKED,
        fault=Fault.PROJECT,
        fields=(),
    )


def names_left_out(document: dict[str, Any]) -> list[str]:
    """Return the names of all fields that the project has left out of a batch."""
    return [name for name in _items(document.get("filteredOutFields")) if isinstance(name, str)]


def offending_values(document: dict[str, Any]) -> dict[str, Scalar]:
    """Return the values for whose type a batch was refused, by field."""
    params = document.get("params")
    errors = params.get("validationErrors") if isinstance(params, dict) else None
    found = errors.items() if isinstance(errors, dict) else ()
    return {
        str(field): detail["offendingValue"]
        for field, detail in found
        if isinstance(detail, dict) and isinstance(detail.get("offendingValue"), Scalar)
    }


def failed(outcome: CallOutcome) -> bool:
    """Whether an answer came and settled nothing, for a reason that one row can cause.

    A row can make Iterable itself fail, or a firewall on the way refuse the batch.
    """
    return (
        outcome.status in {CallStatus.UNAVAILABLE, CallStatus.UNKNOWN}
        and outcome.http_status is not None
        and outcome.fault not in {Fault.KEY, Fault.PROJECT}
    )


def _listed(answer: Answer, name: str) -> CallOutcome:
    """Return the outcome of a row that stands in the list *name*."""
    kind = _kind(name)
    status, fault = _VERDICTS.get(kind, (CallStatus.REFUSED, Fault.ROW))
    # The name goes to the log and into files, so anything but a plain word stays out.
    code = name if re.fullmatch(r"\w{1,64}", name, re.ASCII) else None
    text = _SENT_AGAIN if kind == "notFound" else f"listed in {code or 'a list of failures'}"
    if name == "invalidUserIds":
        text += "; a project keyed by email takes no user id that it does not know"
    return replace(answer.outcome, status=status, code=code, message=text, fault=fault, fields=())


def _key(name: str, identifier: str) -> str:
    """Return the key of a row by what the list *name* has of it."""
    return user_id_key(identifier) if _has_user_ids(name) else identifier


def _has_user_ids(name: str) -> bool:
    return name.endswith("UserIds")


def _kind(name: str) -> str:
    return name.removesuffix("Emails").removesuffix("UserIds")


def _finality(name: str) -> tuple[int, str]:
    kinds = list(_VERDICTS)
    kind = _kind(name)
    return (kinds.index(kind) if kind in kinds else len(kinds)), name


def _texts(values: object) -> Iterator[str]:
    """Yield the identifiers in a list; one that stands alone is a list too."""
    for value in [values] if isinstance(values, str) else _items(values):
        if isinstance(value, str):
            yield value.strip()


def _items(values: object) -> list[object]:
    return list(values) if isinstance(values, list | dict) else []
