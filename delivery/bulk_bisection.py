"""What became of each row of a bulk request, which Iterable does not always say.

It answers in one of three ways. It takes the batch and lists, by email and without a reason, the
rows that it does not take. It refuses the whole batch for the sake of one row, and applies nothing.
Or it finds the batch too large. Where the answer leaves a row open, parts of the batch are sent
again. That is harmless: a profile is merged, and an event keeps its id.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from delivery.stopping import Stop
from iterable_api.answers import Answer
from iterable_api.bulk_answers import (
    describe,
    failed_inside,
    failure_lists,
    listed,
    mismatches,
    reason,
    refused_as_a_whole,
)
from iterable_api.payloads import EVENT_NAME
from records.outcomes import CallOutcome, CallStatus, PreparedRow

# Single rows refused for one reason, and none taken: then all will be.
SAMPLES = 4
# Requests spent on one batch. A batch that needs more is full of bad rows.
MAX_REQUESTS = 200
# These lists name the address that stands in the way, which need not be that of the row.
_NOT_THE_ROW = frozenset({"conflictEmails", "conflictUserIds"})


class KeyedRow(NamedTuple):
    """A row of a batch, and its email as Iterable writes it in its lists."""

    key: str
    row: PreparedRow


class Bisection:
    """Finds the outcome of every row of the groups it is given.

    *name* is "users" or "events", *body* gives a row's part of a request, *send* sends a bulk
    request. *taken* holds the names that have had any row taken, in the whole run; *stop* tells
    whether the run is to end.

    ``outcomes`` has what was found, by key. ``all_refused`` is empty, or says why no row can
    succeed; what has no outcome then was not taken.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[KeyedRow], bytes],
        send: Callable[[Sequence[bytes]], Answer],
        taken: set[str],
        stop: Stop,
    ) -> None:
        self.outcomes: dict[str, CallOutcome] = {}
        self.all_refused = ""
        self._name = name
        self._body = body
        self._send_bodies = send
        self._taken = taken
        self._stop = stop
        self._requests = 0

    def resolve(self, rows: list[KeyedRow]) -> None:
        """Send *rows*, and parts of them again, until each has its outcome or the run ends."""
        self._requests = 0
        groups = [rows]
        while groups and not (self.all_refused or self._stop.reason):
            group = groups.pop()
            groups += self._judge(group, self._send(group))

    def _send(self, group: list[KeyedRow]) -> Answer:
        self._requests += 1
        return self._send_bodies([self._body(row) for row in group])

    def _judge(self, group: list[KeyedRow], answer: Answer) -> list[list[KeyedRow]]:
        """Note what *answer* says of *group*; return the parts that are to be sent again."""
        outcome = answer.outcome
        if outcome.status is CallStatus.DELIVERED:
            return self._read_lists(group, answer)
        if len(group) > 1 and outcome.http_status == 413:
            return halves(group)
        if len(group) > 1 and refused_as_a_whole(answer):
            return self._find_refused_row(group, answer)
        self._note(group, outcome)
        if len(group) > 1 and failed_inside(answer):
            return self._isolate(group)
        return []

    def _note(self, group: list[KeyedRow], outcome: CallOutcome) -> None:
        self.outcomes.update((row.key, outcome) for row in group)
        if group and outcome.status is CallStatus.DELIVERED:
            self._taken.add(self._name)

    def _read_lists(self, group: list[KeyedRow], answer: Answer) -> list[list[KeyedRow]]:
        """Note the rows that a taken batch lists as failed, and the others as delivered."""
        lists = failure_lists(answer.document)
        if self._name == "events" and EVENT_NAME in lists.pop("disallowedEventNames", ()):
            self._note(group, listed(answer, "disallowedEventNames"))
            return []
        named = {key: name for name in lists.keys() - _NOT_THE_ROW for key in lists[name]}
        for row in group:
            if row.key in named:
                self._note([row], listed(answer, named[row.key]))
        others = [row for row in group if row.key not in named]
        unnamed = answer.document["failCount"] - (len(group) - len(others))
        if unnamed <= 0:
            self._note(others, answer.outcome)
        elif unnamed >= len(others):
            self._note(others, listed(answer, next(iter(lists), "")))
        elif self._requests < MAX_REQUESTS:
            return halves(others)
        else:
            text = f"{unnamed} of {len(others)} rows failed, and Iterable does not say which"
            self._note(others, replace(answer.outcome, status=CallStatus.UNKNOWN, message=text))
        return []

    def _find_refused_row(self, group: list[KeyedRow], refusal: Answer) -> list[list[KeyedRow]]:
        """Find one row for which the whole *group* was refused; return what is to be sent again.

        Each request halves the suspects, so a thousand take ten.
        """
        if self._requests >= MAX_REQUESTS:
            text = f"refused together with other rows: {refusal.outcome.message}"
            self._note(group, replace(refusal.outcome, message=text))
            return []
        suspects, proven, rest, again = group, False, [], []
        while len(suspects) > 1:
            part, others = self._split(suspects, refusal)
            answer = self._send(part)
            proven = refused_as_a_whole(answer)
            if proven:
                suspects, refusal = part, answer
                rest += others
            else:
                suspects = others
                again += self._judge(part, answer)
        if not proven:
            refusal = self._send(suspects)
        self._judge(suspects, refusal)
        return [each for each in (*again, self._unless_all_refused(rest, refusal)) if each]

    def _split(
        self, suspects: list[KeyedRow], refusal: Answer
    ) -> tuple[list[KeyedRow], list[KeyedRow]]:
        """Return the likelier part of *suspects* and the others, neither of them empty."""
        wrong = {field: detail.get("offendingValue") for field, detail in mismatches(refusal)}
        likely = [row for row in suspects if wrong and _has_any(self._body(row), wrong)]
        if not 0 < len(likely) < len(suspects):
            likely = halves(suspects)[0]
        keys = {row.key for row in likely}
        return likely, [row for row in suspects if row.key not in keys]

    def _isolate(self, group: list[KeyedRow]) -> list[list[KeyedRow]]:
        """Return the parts of a *group*, which Iterable fails at, that are to be sent again.

        A row can make it fail at every try. The half without it is taken; if both halves fail, and
        a single row of each too, then it is Iterable that is down.
        """
        if self._requests >= MAX_REQUESTS:
            return []
        again, failed = [], []
        for half in halves(group):
            if self._stop.reason:
                break
            answer = self._send(half)
            if failed_inside(answer):
                self._note(half, answer.outcome)
                failed.append(half)
            else:
                again += self._judge(half, answer)
        larger = [half for half in failed if len(half) > 1]
        if len(failed) == 2 and not any(self._takes_one_of(half) for half in larger):
            return again
        return again + [part for half in larger for part in self._isolate(half)]

    def _takes_one_of(self, group: list[KeyedRow]) -> bool:
        """Whether Iterable takes, or properly refuses, a row from the middle of *group*."""
        if self._stop.reason:
            return False
        sample = group[len(group) // 2 :][:1]
        answer = self._send(sample)
        if failed_inside(answer):
            return False
        self._judge(sample, answer)
        return True

    def _unless_all_refused(self, rest: list[KeyedRow], refusal: Answer) -> list[KeyedRow]:
        """Return what of *rest* is to be sent again: nothing, if samples say that all is refused.

        That is so when a field has another type in the project: then every row is refused, and
        looking for each would take thousands of requests.
        """
        if self._name in self._taken or not refused_as_a_whole(refusal):
            return rest
        samples = rest[:: len(rest) // (SAMPLES - 1) or 1][: SAMPLES - 1]
        for sample in samples:
            answer = self._send([sample])
            self._judge([sample], answer)
            if reason(answer) != reason(refusal):
                break
        else:
            if len(samples) == SAMPLES - 1:
                self.all_refused = describe(self._name, refusal)
                return []
        return [row for row in rest if row.key not in self.outcomes]


def halves(rows: list[KeyedRow]) -> list[list[KeyedRow]]:
    """Return the two halves of two or more rows."""
    middle = len(rows) // 2
    return [rows[:middle], rows[middle:]]


def _has_any(body: bytes, wrong: dict[str, Any]) -> bool:
    fields = json.loads(body)["dataFields"]
    return any(field in fields and fields[field] == value for field, value in wrong.items())
