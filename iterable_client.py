"""One call to Iterable, sent safely: paced, retried where that can help, judged by the answer."""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError

from iterable_api.payloads import Payloads, RowError, encode
from iterable_api.rate_limiter import Budget
from iterable_api.request_statistics import Tally
from iterable_api.transport import Response, Transport
from logger_config import get_file_logger
from records.outcomes import (
    HELD,
    NOT_SENT,
    UNCHANGED,
    CallOutcome,
    CallStatus,
    Row,
    RowOutcome,
    Task,
    outcome_of,
    refused_row,
)

logger = get_file_logger()

UPDATE_USER = "users/update"
TRACK_EVENT = "events/track"
UPDATE_USERS = "users/bulkUpdate"
TRACK_EVENTS = "events/trackBulk"
GET_USER_FIELDS = "users/getFields"
# Requests a second that Iterable allows a project, whoever sends them.
# Source: the endpoints' descriptions, https://api.iterable.com/api/docs
LIMITS_PER_S = {UPDATE_USER: 500, TRACK_EVENT: 2000, UPDATE_USERS: 5, TRACK_EVENTS: 10}

CONNECT_TIMEOUT_S = 10.0
MAX_BACKOFF_DOUBLINGS = 5
MAX_RETRY_AFTER_S = 60.0
# A 429 uses up no attempt, so something else must end a call that meets nothing but 429.
RATE_LIMIT_PATIENCE_S = 300.0
MAX_MESSAGE = 200
READ_RETRY_S = 0.5

# Broken before there was an answer: a second try may do better.
CONNECTION_PROBLEMS = frozenset({"NewConnectionError", "ConnectionError"})
# A 2xx with one of these codes is a passing fault of the service, not a verdict on the row.
PASSING_CODES = frozenset({"GenericError", "RateLimitExceeded"})
# Iterable says "Success" here although the event name is blocked in the project's settings.
DISALLOWED = "is disallowed from tracking"


class Answer(NamedTuple):
    """The outcome of a call, and the JSON object that Iterable answered last ({} for none)."""

    outcome: CallOutcome
    document: dict[str, Any]


class UserFields(NamedTuple):
    """The answer to users/getFields: the type of each profile field, by its name.

    ``types`` is None when there is no such answer. Then ``http_status`` says what came instead, or
    ``problem``, the name of an error, why nothing came. ``clock_ahead_s`` is by how many seconds
    this machine's clock is ahead of Iterable's, None if Iterable did not tell the time.
    """

    types: dict[str, str] | None
    http_status: int | None = None
    problem: str = ""
    clock_ahead_s: float | None = None


class IterableClient:
    """Calls the endpoints of one Iterable project; may be shared by many threads.

    *timeout_s* bounds the answer to one request, and connecting. *max_attempts* is the
    number of tries of one call; an answer 429 uses up none. *rate_share* is the share of Iterable's
    limits to use. *connections* are kept open. *wait* sleeps for the seconds it is given and
    returns True when the run is to stop; *time_scale* multiplies every such wait.

    ``tally`` counts the requests and ``retries`` those among them that repeated another. Calls
    return outcomes and raise nothing for what the network or Iterable do.
    """

    def __init__(  # noqa: PLR0913 - keyword-only, each with its default
        self,
        api_key: str,
        base_url: str = "https://api.iterable.com",
        *,
        payloads: Payloads | None = None,
        timeout_s: float = 30.0,
        max_attempts: int = 5,
        rate_share: float = 0.9,
        connections: int = 10,
        wait: Callable[[float], bool] | None = None,
        time_scale: float = 1.0,
    ) -> None:
        self.payloads = payloads or Payloads(database="")
        self.tally = Tally()
        self.retries = 0
        self._key_refused = self._closed = False
        self._counting = threading.Lock()
        self._base_url = base_url.rstrip("/")
        self._headers: CaseInsensitiveDict[str | bytes] = CaseInsensitiveDict(
            {"Api-Key": api_key, "Content-Type": "application/json", "User-Agent": "iterable-sync"}
        )
        self._timeouts_s = (min(CONNECT_TIMEOUT_S, timeout_s), timeout_s)
        self._max_attempts = max_attempts
        self._wait = wait or _sleep
        self._time_scale = time_scale
        self._budgets = {
            path: Budget(limit * rate_share, wait=wait) for path, limit in LIMITS_PER_S.items()
        }
        self._transport = Transport(connections)

    def close(self) -> None:
        """Close the connections; from now on nothing is sent."""
        self._closed = True
        self._transport.close()

    @property
    def rate_limited_seconds(self) -> float:
        """Seconds in which answers 429 held the most affected endpoint below its budget."""
        return max(budget.throttled_seconds for budget in self._budgets.values())

    def process_user_record(self, row: Row) -> RowOutcome:
        """Deliver one row of Query 2: its user, then its event if the user was accepted."""
        try:
            return self.process_task(self.payloads.task(row))
        except RowError as error:
            return refused_row(row, str(error))

    def process_task(self, task: Task) -> RowOutcome:
        """Make the calls of *task* that are to be made."""
        update = self._call(UPDATE_USER, task.user).outcome if task.send_user else UNCHANGED
        track = NOT_SENT if task.send_event else UNCHANGED
        if task.send_event and update.status in HELD:
            track = self._call(TRACK_EVENT, task.event).outcome
        return outcome_of(task, update, track)

    def update_user(self, email: str, data_fields: dict[str, Any]) -> CallOutcome:
        """Create or merge one user's profile. Repeating the call is harmless.

        Source: POST /api/users/update, https://api.iterable.com/api/docs
        """
        return self._call(UPDATE_USER, encode({"email": email, "dataFields": data_fields})).outcome

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
        return self._call(TRACK_EVENT, encode(body)).outcome

    def update_users(self, users: Sequence[bytes]) -> Answer:
        """Create or merge many profiles, each an encoded body of users/update.

        ``delivered`` says that Iterable took the batch, not that it took each user: the answer's
        ``failCount`` and ``failedUpdates`` tell.

        Source: POST /api/users/bulkUpdate, https://api.iterable.com/api/docs
        """
        return self._call(UPDATE_USERS, bulk_body("users", users))

    def track_events(self, events: Sequence[bytes]) -> Answer:
        """Record many events, each an encoded body of events/track; else like update_users().

        Source: POST /api/events/trackBulk, https://api.iterable.com/api/docs
        """
        return self._call(TRACK_EVENTS, bulk_body("events", events))

    def get_user_fields(self) -> UserFields:
        """Return the profile fields that the project has; changes nothing, repeated once at most.

        Source: GET /api/users/getFields, 3 requests a second, https://api.iterable.com/api/docs
        """
        answer = self._ask_for_fields()
        status = answer.http_status or 0
        passing = status == 429 or status >= 500 or answer.problem in CONNECTION_PROBLEMS
        if passing and not self._wait(READ_RETRY_S * self._time_scale):
            answer = self._ask_for_fields()
        return answer

    def _ask_for_fields(self) -> UserFields:
        url = f"{self._base_url}/api/{GET_USER_FIELDS}"
        try:
            response = self._transport.get(url, self._headers, self._timeouts_s)
        except (requests.RequestException, HTTPError) as error:
            return UserFields(None, problem=_problem(error))
        ahead_s = _clock_ahead_s(response.headers.get("Date"))
        types = _json_object(response.content).get("fields")
        if response.status_code != 200 or not isinstance(types, dict):
            types = None
        return UserFields(types, response.status_code, clock_ahead_s=ahead_s)

    def _call(self, path: str, body: bytes) -> Answer:
        """Send *body* until the answer is final, the tries are used up or the run stops."""
        answer = Answer(NOT_SENT, {})
        sent = failed = 0
        may_have_landed = False
        patient_until_s = time.monotonic() + RATE_LIMIT_PATIENCE_S * self._time_scale
        while True:
            latest, limited = self._send(path, body)
            if latest.outcome is NOT_SENT:
                break
            answer, outcome = latest, latest.outcome
            sent += 1
            failed += not limited
            may_have_landed |= outcome.status is CallStatus.UNKNOWN
            if outcome.status in {CallStatus.DELIVERED, CallStatus.REFUSED}:
                break
            if failed >= self._max_attempts or (limited and time.monotonic() > patient_until_s):
                break
            # After a 429 the budget makes all calls wait, this one among them.
            wait_s = 0.0 if limited else backoff_s(failed)
            note = "%s: %s; request %d, next in %.1f s"
            logger.warning(note, path, outcome, sent, wait_s)
            if self._wait(wait_s * self._time_scale):
                break
        with self._counting:
            self.retries += max(0, sent - 1)
        settled = _settled(answer.outcome, sent, may_have_landed=may_have_landed)
        return answer._replace(outcome=settled)

    def _send(self, path: str, body: bytes) -> tuple[Answer, bool]:
        """Send one request; return its answer, and whether that was a 429."""
        budget = self._budgets[path]
        departure = budget.acquire()
        if self._key_refused or self._closed:
            return Answer(NOT_SENT, {}), False
        self.tally.sent(path)
        url, began_s = f"{self._base_url}/api/{path}", time.perf_counter()
        try:
            response = self._transport.post(url, self._headers, body, self._timeouts_s, departure)
        except (requests.RequestException, HTTPError) as error:
            left = self._transport.has_left() or not _never_left(error)
            status = CallStatus.UNKNOWN if left else CallStatus.UNAVAILABLE
            return Answer(CallOutcome(status, message=type(error).__name__), {}), False
        self.tally.answered(path, response.status_code, time.perf_counter() - began_s)
        if response.status_code != 429:
            budget.accepted()
            return self._handle_response(response), False
        pause_s = retry_after_s(response.headers.get("Retry-After"))
        budget.refused(departure, pause_s and pause_s * self._time_scale)
        return self._handle_response(response), True

    def _handle_response(self, response: Response) -> Answer:
        """Judge an answer: by its HTTP status first, then by its body.

        Status first, because Iterable has been seen to send code "Success" with a 401; the body
        too, because a 2xx can carry a refusal.
        """
        http_status = response.status_code
        document = _json_object(response.content)
        code = _code(document)
        message = str(document.get("msg") or "")[:MAX_MESSAGE]
        if 200 <= http_status < 300:
            status = _judge_success(document, code, message)
        elif http_status == 429 or http_status >= 500:
            status = CallStatus.UNAVAILABLE
        else:
            status = CallStatus.REFUSED
            # Calls that wait for their moment need not leave any more.
            self._key_refused |= http_status == 401
        if status is CallStatus.DELIVERED:
            message = ""  # only a failure has something to say
        elif 300 <= http_status < 400:
            message = "redirected, not followed; check ITERABLE_API_BASE_URL"
        return Answer(CallOutcome(status, http_status, code, message=message), document)


def bulk_body(name: str, bodies: Sequence[bytes]) -> bytes:
    """Return the body of a bulk request, *name* being "users" or "events"."""
    return b'{"%b":[%b]}' % (name.encode("ascii"), b",".join(bodies))


def backoff_s(attempt: int) -> float:
    """Return how many seconds to wait after failed attempt number *attempt* (1 is the first).

    Anything from 0 to 1 s, 0 to 2 s, 0 to 4 s ... up to 0 to 32 s: "full jitter", so that many
    clients do not return at the same instant.
    """
    longest = 2.0 ** min(attempt - 1, MAX_BACKOFF_DOUBLINGS)
    return random.uniform(0, longest)  # noqa: S311 - no secret


def retry_after_s(header: str | None) -> float | None:
    """Return a ``Retry-After`` header, seconds or an HTTP date, as 0 to 60 seconds.

    Return None when there is none that can be read.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        ahead_s = _clock_ahead_s(header)
        if ahead_s is None:
            return None
        seconds = -ahead_s
    # In this order "nan" becomes the upper limit.
    return max(0.0, min(MAX_RETRY_AFTER_S, seconds))


def _clock_ahead_s(date: str | None) -> float | None:
    """Return by how many seconds this machine's clock is ahead of an HTTP date.

    Return None when that cannot be read.
    """
    try:
        return (datetime.now(UTC) - parsedate_to_datetime(date or "")).total_seconds()
    except (ValueError, TypeError):  # TypeError: a date without a zone
        return None


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _settled(answer: CallOutcome, sent: int, *, may_have_landed: bool) -> CallOutcome:
    """Return the last answer as the call's outcome.

    A later "unavailable" does not undo what an earlier, unanswered request may have done.
    """
    status = answer.status
    if may_have_landed and status is CallStatus.UNAVAILABLE:
        status = CallStatus.UNKNOWN
    return CallOutcome(status, answer.http_status, answer.code, sent, answer.message)


def _judge_success(document: dict[str, Any], code: str | None, message: str) -> CallStatus:
    """Judge a 2xx by its body."""
    if code == "Success":
        return CallStatus.REFUSED if DISALLOWED in message else CallStatus.DELIVERED
    if code is None:
        # The bulk endpoints answer with counts instead. Anything else is not Iterable's: a proxy's
        # page, or an answer cut short. The request may have landed.
        counted = isinstance(document.get("failCount"), int)
        return CallStatus.DELIVERED if counted else CallStatus.UNKNOWN
    return CallStatus.UNAVAILABLE if code in PASSING_CODES else CallStatus.REFUSED


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _code(answer: dict[str, Any]) -> str | None:
    """Return the answer's code. It goes to the log, so anything but a plain word stays out."""
    code = answer.get("code")
    if code is None:
        return None
    return code if isinstance(code, str) and re.fullmatch(r"[\w.]{1,64}", code) else "?"


def _problem(error: Exception) -> str:
    """Return the name of what lies at the bottom of *error*."""
    cause = error.args[0] if error.args else None
    return type(cause.reason if isinstance(cause, MaxRetryError) else error).__name__


def _never_left(error: Exception) -> bool:
    """Whether the request certainly did not reach the server."""
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError):
        return True
    cause = error.args[0] if error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError)
