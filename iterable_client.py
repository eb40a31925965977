"""Makes calls to Iterable: keeps to the rate limits, retries, and judges the answers."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from iterable_api.answers import (
    OTHER_IDENTITY,
    Answer,
    Repeat,
    judge_failure,
    judge_response,
    user_not_found,
)
from iterable_api.endpoints import (
    LIMITS_PER_S,
    SINGLE,
    TRACK_EVENT,
    TRACK_EVENTS,
    UPDATE_USER,
    UPDATE_USERS,
    RequestStatistics,
)
from iterable_api.limiter import Kind, Limiter, backoff_s
from iterable_api.payloads import Payloads, RowError, bulk_body, new_fields_rule
from iterable_api.transport import DIRECT, Network, Response, Transport, TransportError
from logger_config import FILE_ONLY, get_logger
from records.outcomes import NOT_SENT, CallOutcome, CallStatus, Delivery, Fault

logger = get_logger(FILE_ONLY)

# A 429 uses up no attempt, so this time limit ends a call that gets nothing but 429.
RATE_LIMIT_PATIENCE_S = 300.0
# Attempts of a batch; its rows can still be sent one by one.
BULK_ATTEMPTS = 2


class IterableClient(AbstractContextManager["IterableClient"]):
    """Calls the endpoints of one Iterable project; may be shared by many threads.

    *max_attempts* is the number of attempts per call; an answer 429 uses up none. *rate_share* is
    the share of Iterable's rate limits to use. *wait* sleeps for a number of seconds and returns
    True if the run is to stop; *outage* is called, with the reason, when Iterable seems down.
    *create_new_fields*: whether the project creates fields that it lacks; None leaves it to the
    project. *network* is how this machine reaches Iterable.

    ``statistics`` counts the requests, and ``retries`` those that were retries. Calls return
    outcomes and raise nothing for failures of the network or Iterable. As a context manager the
    client closes itself.
    """

    def __init__(  # noqa: PLR0913 - keyword-only, each with its default
        self,
        api_key: str,
        base_url: str = "https://api.iterable.com",
        *,
        payloads: Payloads | None = None,
        network: Network = DIRECT,
        max_attempts: int = 5,
        rate_share: float = 0.9,
        wait: Callable[[float], bool | None] = time.sleep,
        outage: Callable[[str], object] = lambda _: None,
        create_new_fields: bool | None = None,
    ) -> None:
        self.payloads = payloads or Payloads(source="")
        self.statistics = RequestStatistics()
        self.retries = 0
        self._key_refused = self._closed = False
        self._counting = threading.Lock()
        self._rule = new_fields_rule(create_new_fields)
        self._max_attempts = max_attempts
        self._wait = wait
        self._limiters = {
            path: Limiter(limit * rate_share, wait=wait, outage=outage)
            for path, limit in LIMITS_PER_S.items()
        }
        for path, single in SINGLE.items():
            self._limiters[path].twin = self._limiters[single]
        self._transport = Transport(base_url, api_key, network)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; from now on nothing is sent."""
        self._closed = True
        self._transport.close()

    @property
    def rate_limited_seconds(self) -> float:
        """Seconds in which 429 answers kept the most affected endpoint below its limit."""
        return max(limiter.throttled_seconds for limiter in self._limiters.values())

    def waiting(self) -> tuple[int, int]:
        """Return the number of single and of bulk requests that wait for the limiters now."""
        singles = sum(self._limiters[path].waiting for path in SINGLE.values())
        return singles, sum(self._limiters[path].waiting for path in SINGLE)

    def process_user_record(self, record: Mapping[str, Any]) -> Delivery:
        """Deliver one row of Query 2, a mapping from column names to values.

        It sends the user, then the event if Iterable accepted the user. The outcomes stand in the
        ``profile`` and the ``event`` of what it returns.
        """
        mapping = self.payloads.mapping
        try:
            row = self.payloads.prepare(mapping.row_of(record))
            self.payloads.complete(row)
        except RowError as error:
            user_id = record.get(mapping.identifier) if mapping.by_user_id else None
            row = Delivery(record.get("customer_id"), record.get("email"), user_id)
            return row.refuse(str(error))
        self.process_rows([row])
        return row

    def process_rows(self, rows: Iterable[Delivery]) -> None:
        """Make the open calls of *rows*, one after another, and note their outcomes there."""
        for row in rows:
            while call := row.next_call:
                body = self._with_rule(call.body)
                outcome = self._call(call.path, body, before=call.outcome).outcome
                call.settle(_profile_outcome(outcome) if call is row.profile else outcome)

    def update_user(self, email: str, data_fields: dict[str, Any]) -> CallOutcome:
        """Create or merge one user's profile. Repeating the call is harmless.

        Source: POST /api/users/update, https://api.iterable.com/api/docs
        """
        body = json.dumps({"email": email, "dataFields": data_fields}).encode()
        return self._call(UPDATE_USER, self._with_rule(body)).outcome

    def track_event(
        self,
        email: str,
        event_name: str,
        data_fields: dict[str, Any],
        *,
        event_id: str,
        created_at: int,
    ) -> CallOutcome:
        """Record one event at *created_at* (unix seconds).

        Repeating the call with the same *event_id* updates the event in place.

        Source: POST /api/events/track, https://api.iterable.com/api/docs
        """
        body = {
            "email": email,
            "eventName": event_name,
            "id": event_id,
            "createdAt": created_at,
            "dataFields": data_fields,
        }
        return self._call(TRACK_EVENT, self._with_rule(json.dumps(body).encode())).outcome

    def update_users(self, users: Sequence[bytes]) -> Answer:
        """Create or merge many profiles, each an encoded body of users/update.

        ``delivered`` means that Iterable accepted the batch, not each user: ``bulk_answers`` reads
        the users' outcomes from the answer's counts and lists.

        Source: POST /api/users/bulkUpdate, https://api.iterable.com/api/docs
        """
        return self._call(UPDATE_USERS, self._with_rule(bulk_body("users", users)), len(users))

    def track_events(self, events: Sequence[bytes]) -> Answer:
        """Record many events, each an encoded body of events/track, like update_users().

        Source: POST /api/events/trackBulk, https://api.iterable.com/api/docs
        """
        body = bulk_body("events", list(map(self._with_rule, events)))
        return self._call(TRACK_EVENTS, body, len(events))

    def _with_rule(self, body: bytes) -> bytes:
        """Return *body* with the rule for fields that the project lacks, if one is set."""
        return body[:-1] + self._rule + b"}" if self._rule else body

    def _call(
        self, path: str, body: bytes, rows: int | None = None, before: CallOutcome = NOT_SENT
    ) -> Answer:
        """Send *body*, of *rows* if in bulk, until the answer is final or the attempts are used up.

        A stop of the run ends it too. *before* is the outcome so far; it stays if nothing is sent.
        """
        answer = Answer(before, {})
        requests, failures, may_have_landed = 0, 0, before.status is CallStatus.UNKNOWN
        attempts = min(self._max_attempts, BULK_ATTEMPTS) if rows else self._max_attempts
        patient_until_s = time.monotonic() + RATE_LIMIT_PATIENCE_S
        while (latest := self._send(path, body, rows)) is not None:
            answer, outcome = latest, latest.outcome
            throttled = answer.repeat is Repeat.THROTTLE
            requests += 1
            failures += not throttled
            may_have_landed |= outcome.status is CallStatus.UNKNOWN
            patient = not throttled or time.monotonic() < patient_until_s
            if answer.repeat is Repeat.NEVER or failures >= attempts or not patient:
                break
            # After a 429 the limiter makes all calls wait, this one among them.
            wait_s = 0.0 if throttled else backoff_s(failures)
            text = "%s: %s after request %d; retry in %.1f s at the earliest"
            logger.warning(text, path, outcome, requests, wait_s)
            if self._wait(wait_s):
                break
        with self._counting:
            self.retries += max(0, requests - 1)
        attempts = requests or before.attempts
        settled = _settled(answer.outcome, attempts, may_have_landed=may_have_landed)
        return answer._replace(outcome=settled)

    def _send(self, path: str, body: bytes, rows: int | None) -> Answer | None:
        """Send one request in its turn; return the answer, None if it was not sent."""
        limiter = self._limiters[path]
        departed_s = limiter.acquire()
        # Checked after the wait, because it may have changed meanwhile.
        if departed_s is None or self._key_refused or self._closed:
            return None
        self.statistics.sent(path)
        pause_s = 0.0
        try:
            response = self._transport.send(path, body)
        except TransportError as error:
            answer = judge_failure(error)
        else:
            self.statistics.answered(path, response.status_code, time.monotonic() - departed_s)
            answer = self._handle_response(response, rows)
            _log_error(path, response.status_code, answer.outcome.code)
            pause_s = response.retry_after_s
        kind = Kind.ACCEPTED if answer.definite else Kind.UNANSWERED
        kind = Kind.THROTTLED if answer.repeat is Repeat.THROTTLE else kind
        limiter.report(kind, departed_s, pause_s, answer.cause.words)
        return answer

    def _handle_response(self, response: Response, rows: int | None = None) -> Answer:
        """Judge an answer, by the table in answers.py."""
        answer = judge_response(response, rows)
        # Then calls that still wait for their turn are not sent.
        self._key_refused |= answer.outcome.fault is Fault.KEY
        return answer


def _log_error(path: str, status: int, code: str | None) -> None:
    """Log an error answer, without its body, which may quote a customer's value."""
    if kind := {4: "4xx client error", 5: "5xx server error"}.get(status // 100):
        logger.warning("%s from %s: status %d, code %s", kind, path, status, code or "none")


def _profile_outcome(outcome: CallOutcome) -> CallOutcome:
    """Return the outcome of a profile's call; "user not found" means a wrong kind of identity."""
    if user_not_found(outcome):
        return replace(outcome, fault=Fault.PROJECT, message=OTHER_IDENTITY)
    return outcome


def _settled(answer: CallOutcome, requests: int, *, may_have_landed: bool) -> CallOutcome:
    """Return the last answer as the outcome of a call that took *requests* requests.

    A later "unavailable" does not undo an earlier request that may have been applied.
    """
    status = answer.status
    if may_have_landed and status is CallStatus.UNAVAILABLE:
        status = CallStatus.UNKNOWN
    return replace(answer, status=status, attempts=requests)
