"""What a bulk answer says of the rows of its batch."""

import re
from dataclasses import replace
from typing import Any

from iterable_api.answers import Answer
from records.outcomes import CallOutcome, CallStatus


def refused_as_a_whole(answer: Answer) -> bool:
    """Whether nothing of the batch was taken, for a reason that lies in a row."""
    outcome = answer.outcome
    passing = outcome.key_refused or outcome.http_status == 413
    return outcome.status is CallStatus.REFUSED and not passing


def failed_inside(answer: Answer) -> bool:
    """Whether Iterable itself failed at every try, which one row of the batch can cause."""
    return (answer.outcome.http_status or 0) >= 500


def failure_lists(document: dict[str, Any]) -> dict[str, set[str]]:
    """Return the non-empty lists of failures of a bulk answer, by name, in lower case.

    Source: the responses of users/bulkUpdate and events/trackBulk, https://api.iterable.com/api/docs
    """
    failed = document.get("failedUpdates")
    lists = dict(failed) if isinstance(failed, dict) else {}
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


def reason(answer: Answer) -> tuple[object, ...]:
    """Return what two refusals for one reason have in common."""
    fields = sorted(field for field, _ in mismatches(answer))
    return answer.outcome.http_status, answer.outcome.code, *fields


def describe(name: str, refusal: Answer) -> str:
    """Return the one message for a run whose every row is refused. It quotes no value."""
    text = f"Iterable refuses all {name}: {refusal.outcome}"
    for field, detail in mismatches(refusal):
        text += (
            f"; the project holds the field {field[:64]!r} as {detail.get('expectedType')!s:.20}"
        )
    return text


def listed(answer: Answer, name: str) -> CallOutcome:
    """Return the outcome of a row that the list *name* of a taken batch holds, or "" for none."""
    text = f"listed in {name}" if name else "counted in failCount, but not listed"
    code = name if re.fullmatch(r"\w{1,64}", name) else None
    return replace(answer.outcome, status=CallStatus.REFUSED, code=code, message=text[:200])
