"""One bulk request at a time: what Iterable's answer says of each of its rows, and what it leaves.

It takes a batch and lists the rows that it does not take, by address and without a reason; or it
refuses the whole batch for the sake of one row, and applies nothing; or it fails at it. Nothing is
called refused that Iterable has not judged.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import NamedTuple

from delivery.batching import Batch, BatchLimits
from delivery.refusals import describe
from delivery.stopping import Stop
from iterable_api.answers import Answer, filtered_out, too_large
from iterable_api.bulk_answers import (
    Scalar,
    blocked,
    blocked_names,
    counted,
    fail_count,
    failed,
    named_failures,
    names_left_out,
    offending_values,
    unclear,
    unnamed_failure,
)
from iterable_api.payloads import bulk_body
from records.exit_statuses import StopReason
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, Fault, PreparedRow

# So many rows refused for one reason, and none accepted in the whole run: then all will be.
SAME_REFUSALS = 50


class Endpoint:
    """A bulk endpoint during one run: how it is asked, and how it has answered.

    *name* is "users" or "events", *body* gives a row's part of a request, *send* sends a request.
    May be shared by threads.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[PreparedRow], bytes],
        send: Callable[[Sequence[bytes]], Answer],
    ) -> None:
        self.name = name
        self.body = body
        self.send = send
        self.accepted = False
        self._refusals: Counter[tuple[object, ...]] = Counter()
        self._counting = threading.Lock()

    @property
    def may_refuse_all(self) -> bool:
        """Whether rows were refused, and none accepted yet."""
        return bool(self._refusals) and not self.accepted

    def refuses_all(self, refusal: CallOutcome) -> bool:
        """Count a refusal; return whether it came so often that every row will meet it."""
        names = sorted(field for field, _ in refusal.fields)
        reason = (refusal.http_status, refusal.code, *names)
        with self._counting:
            self._refusals[reason] += 1
            return self._refusals[reason] >= SAME_REFUSALS and not self.accepted


class Found(Enum):
    """What an answer says of the rows that were sent together."""

    TAKEN = auto()  # none of them is bad
    JUDGED = auto()  # each has its verdict, and some are bad
    QUOTED = auto()  # some have a bad value; the others may be good
    REFUSED = auto()  # one at least is bad
    FAILED = auto()  # nothing is settled, and one of them may be why
    TOO_LARGE = auto()  # nothing is settled; fewer may pass
    NO_ROW = auto()  # nothing is settled, and none of them is why
    STOPPED = auto()  # nothing was sent


class Finding(NamedTuple):
    """What an answer says of some rows, and those among them that it leaves without a verdict."""

    found: Found
    open: Batch = ()


class Verdicts:
    """Asks *endpoint* about *rows* and collects the outcome of each, in ``outcomes`` by ``id()``.

    What was not sent is ``NOT_SENT``. *limits* and *stop* are told what an answer says about the
    run.
    """

    def __init__(self, endpoint: Endpoint, rows: Batch, limits: BatchLimits, stop: Stop) -> None:
        self.outcomes = {id(row): NOT_SENT for row in rows}
        self._endpoint = endpoint
        self._limits = limits
        self._stop = stop

    def ask(self, rows: Batch) -> Finding:
        """Send *rows* and note the outcomes that the answer gives."""
        if self._stop.reason:
            return Finding(Found.STOPPED)
        bodies = [self._endpoint.body(row) for row in rows]
        answer = self._endpoint.send(bodies)
        barred = barred_by_name(rows, bodies, answer)
        outcome = answer.outcome if len(barred) < len(rows) else blocked(answer)
        if outcome.status is CallStatus.NOT_SENT:
            return Finding(Found.STOPPED)
        if len(rows) > 1 and too_large(outcome):
            self._limits.too_large(len(rows), len(bulk_body(self._endpoint.name, bodies)))
            return Finding(Found.TOO_LARGE, rows)
        if outcome.status is CallStatus.DELIVERED:
            return self._read_lists(rows, barred, answer)
        if outcome.status in {CallStatus.REFUSED, CallStatus.FORGOTTEN}:
            return self._read_refusal(rows, answer)
        return self._read_failure(rows, outcome)

    def _read_lists(self, rows: Batch, barred: Batch, answer: Answer) -> Finding:
        """Note the rows that a taken batch lists as failed, and the others as delivered.

        The *barred* rows are events of a name that is blocked, which Iterable counts or not.
        """
        named = named_failures(answer)
        unnamed = fail_count(answer.document)
        if barred:
            self._note(barred, blocked(answer))
            unnamed -= len(barred) if counted(answer.document) == len(rows) else 0
            ids = {id(row) for row in barred}
            rows = [row for row in rows if id(row) not in ids]
        others = [row for row in rows if row.key not in named]
        listed = [(row, named[row.key]) for row in rows if row.key in named]
        unnamed -= len(listed)
        finding = Finding(Found.TAKEN)
        if unnamed <= 0:
            self._deliver(others, answer)
        elif unnamed < len(others):
            self._note(others, unclear(answer, unnamed, len(others)))
            finding = Finding(Found.REFUSED, others)
        else:
            self._note(others, unnamed_failure(answer))
            finding = Finding(Found.JUDGED)
        for row, outcome in listed:
            self._note([row], outcome)
            self._count(outcome)
        return finding

    def _read_refusal(self, rows: Batch, answer: Answer) -> Finding:
        """Note the rows that are why all were refused, where the answer quotes their values."""
        if len(rows) == 1:
            self._note(rows, answer.outcome)
            self._count(answer.outcome)
            return Finding(Found.JUDGED)
        values = offending_values(answer.document)
        others = []
        for row in rows:
            if names := fields_with(self._endpoint.body(row), values):
                fields = tuple(pair for pair in answer.outcome.fields if pair[0] in names)
                self._note([row], replace(answer.outcome, fields=fields))
            else:
                others.append(row)
        if len(others) == len(rows):
            return Finding(Found.REFUSED, rows)
        # Once, however many have that value: it says little of those with another.
        self._count(answer.outcome)
        return Finding(Found.QUOTED, others)

    def _read_failure(self, rows: Batch, outcome: CallOutcome) -> Finding:
        """Note that nothing is settled."""
        landed = replace(outcome, status=CallStatus.UNKNOWN)
        for row in rows:
            # It may have landed with an earlier request that left this row open.
            before = self.outcomes[id(row)].status
            self.outcomes[id(row)] = landed if before is CallStatus.UNKNOWN else outcome
        if not failed(outcome):
            return Finding(Found.NO_ROW)
        return Finding(Found.FAILED, rows if len(rows) > 1 else ())

    def _note(self, rows: Batch, outcome: CallOutcome) -> None:
        self.outcomes.update((id(row), outcome) for row in rows)

    def _deliver(self, rows: Batch, answer: Answer) -> None:
        """Note *rows* as delivered, with those of their fields that the project has left out.

        All that it has left out are looked for. The outcome of the batch names a few of them.
        """
        self._endpoint.accepted |= bool(rows)
        names = names_left_out(answer.document)
        if not names:
            self._note(rows, answer.outcome)
            return
        for row in rows:
            held = _fields(self._endpoint.body(row))
            fields = filtered_out([name for name in names if _holds(held, name)])
            self._note([row], replace(answer.outcome, fields=fields))

    def _count(self, outcome: CallOutcome) -> None:
        """Ask the run to stop when every row is refused because of the same fields."""
        refused = outcome.status is CallStatus.REFUSED and outcome.fault is Fault.FIELD
        if refused and self._endpoint.refuses_all(outcome):
            text = describe(self._endpoint.name, outcome)
            self._stop.request(StopReason.EVERY_ROW_REFUSED, text)


def barred_by_name(rows: Batch, bodies: Sequence[bytes], answer: Answer) -> Batch:
    """Return the rows whose event has a name that the project blocks, as the answer says."""
    names = blocked_names(answer.document)
    if not names:
        return ()
    return [
        row
        for row, body in zip(rows, bodies, strict=True)
        if str(json.loads(body).get("eventName")).lower() in names
    ]


def fields_with(body: bytes, values: Mapping[str, Scalar]) -> set[str]:
    """Return the fields that have exactly these *values*, of the same type, in an encoded body."""
    if not any(json.dumps(value).encode("ascii") in body for value in values.values()):
        return set()
    held = _fields(body)
    return {
        name
        for name, value in values.items()
        if name in held and type(held[name]) is type(value) and held[name] == value
    }


def _holds(fields: object, name: str) -> bool:
    """Whether *fields* have one called *name*; of an object's it is all names, with dots between.

    Of the objects in an array it is not looked at, whether one has it.
    """
    if not isinstance(fields, Mapping):
        return isinstance(fields, list)
    first, dot, rest = name.partition(".")
    return name in fields or bool(dot and first in fields and _holds(fields[first], rest))


def _fields(body: bytes) -> Mapping[str, Scalar]:
    fields: dict[str, Scalar] = json.loads(body)["dataFields"]
    return fields
