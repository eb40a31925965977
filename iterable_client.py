"""One call to Iterable, sent safely: retried where that can help, judged by what was answered."""

import random
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from urllib3.exceptions import MaxRetryError, NewConnectionError

from logger_config import get_logger
from outcomes import NOT_SENT, CallOutcome, CallStatus, Row, RowOutcome
from payloads import Payloads, RowError

logger = get_logger(__name__)

UPDATE_USER = "users/update"
TRACK_EVENT = "events/track"

CONNECT_TIMEOUT_S = 10.0
MAX_BACKOFF_DOUBLINGS = 5
MIN_RETRY_AFTER_S = 0.1
MAX_RETRY_AFTER_S = 60.0
# A 429 uses up no attempt, so something else must end a call that meets nothing but 429.
RATE_LIMIT_PATIENCE_S = 300.0
MAX_MESSAGE = 200

# A 2xx with one of these codes is a passing fault of the service, not a verdict on the row.
PASSING_CODES = frozenset({"GenericError", "RateLimitExceeded"})
# Iterable says "Success" here although the event name is blocked in the project's settings.
DISALLOWED = "is disallowed from tracking"


class IterableClient:
    """Calls ``users/update`` and ``events/track`` of one Iterable project.

    *timeout_s* bounds connecting and each wait for bytes of the answer. *max_attempts* is the
    number of tries of one call; an answer 429 uses up none. *wait* sleeps for the seconds it is
    given and returns True when the run is to stop; *time_scale* multiplies every such wait.
    Not to be shared between threads, because requests promises no such thing of a Session.

    Calls return outcomes and raise nothing for what the network or Iterable do.
    """

    def __init__(  # noqa: PLR0913 - keyword-only, each with its default
        self,
        api_key: str,
        base_url: str = "https://api.iterable.com",
        *,
        payloads: Payloads | None = None,
        timeout_s: float = 30.0,
        max_attempts: int = 5,
        wait: Callable[[float], bool] | None = None,
        time_scale: float = 1.0,
    ) -> None:
        self.payloads = payloads or Payloads(database="")
        self.rate_limited_seconds = 0.0
        self._base_url = base_url.rstrip("/")
        self._timeouts_s = (min(CONNECT_TIMEOUT_S, timeout_s), timeout_s)
        self._max_attempts = max_attempts
        self._wait = wait or _sleep
        self._time_scale = time_scale
        self._session = requests.Session()
        # No proxy and no .netrc from the environment: the key goes to the base URL's host alone.
        self._session.trust_env = False
        self._session.headers.update({"Api-Key": api_key})

    def close(self) -> None:
        """Close the connections. The client may be used again afterwards."""
        self._session.close()

    def process_user_record(self, row: Row) -> RowOutcome:
        """Deliver one row of Query 2: its user, then its event if the user was accepted."""
        try:
            user, event = self.payloads.user(row), self.payloads.event(row)
        except RowError as error:
            refused = CallOutcome(CallStatus.REFUSED, message=str(error))
            return RowOutcome(row["customer_id"], row["email"], refused, NOT_SENT)
        update = self._call(UPDATE_USER, user)
        track = NOT_SENT
        if update.status is CallStatus.DELIVERED:
            track = self._call(TRACK_EVENT, event)
        return RowOutcome(row["customer_id"], user["email"], update, track, event["id"])

    def update_user(self, email: str, data_fields: dict[str, Any]) -> CallOutcome:
        """Create or merge one user's profile. Repeating the call is harmless.

        Source: POST /api/users/update, https://api.iterable.com/api/docs
        """
        return self._call(UPDATE_USER, {"email": email, "dataFields": data_fields})

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
        return self._call(TRACK_EVENT, body)

    def _call(self, path: str, body: dict[str, Any]) -> CallOutcome:
        """Send *body* until the answer is final, the tries are used up or the run stops."""
        sent = failed = 0
        throttled_s = 0.0
        may_have_landed = False
        while True:
            answer, retry_after_s = self._send(path, body)
            sent += 1
            may_have_landed |= answer.status is CallStatus.UNKNOWN
            limited = answer.http_status == 429
            failed += not limited
            if (
                answer.status in {CallStatus.DELIVERED, CallStatus.REFUSED}
                or failed >= self._max_attempts
                or throttled_s >= RATE_LIMIT_PATIENCE_S
            ):
                break
            wait_s = backoff_s(sent, retry_after_s)
            logger.warning("%s: %s; request %d, next in %.1f s", path, answer, sent, wait_s)
            stopping = self._wait(wait_s * self._time_scale)
            if limited:
                throttled_s += wait_s
                self.rate_limited_seconds += wait_s * self._time_scale
            if stopping:
                break
        return _settled(answer, sent, may_have_landed=may_have_landed)

    def _send(self, path: str, body: dict[str, Any]) -> tuple[CallOutcome, float | None]:
        """Send one request; return its outcome and the ``Retry-After`` of the answer in seconds."""
        try:
            response = self._session.post(
                f"{self._base_url}/api/{path}",
                json=body,
                timeout=self._timeouts_s,
                # A custom header such as Api-Key would follow a redirect to another host.
                allow_redirects=False,
            )
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ) as error:
            status = CallStatus.UNAVAILABLE if _never_left(error) else CallStatus.UNKNOWN
            return CallOutcome(status, message=type(error).__name__), None
        return self._handle_response(response), retry_after_s(response.headers.get("Retry-After"))

    def _handle_response(self, response: requests.Response) -> CallOutcome:
        """Judge an answer: by its HTTP status first, then by its ``code``.

        Status first, because Iterable has been seen to send code "Success" with a 401; the code
        too, because a 2xx can carry a refusal.
        """
        http_status = response.status_code
        answer = _json_object(response)
        code = _code(answer)
        message = str(answer.get("msg") or "")[:MAX_MESSAGE]
        if 200 <= http_status < 300:
            status = _judge_success(code, message)
        elif http_status == 429 or http_status >= 500:
            status = CallStatus.UNAVAILABLE
        else:
            status = CallStatus.REFUSED
        if status is CallStatus.DELIVERED:
            message = ""  # only a failure has something to say
        elif 300 <= http_status < 400:
            message = "redirected, not followed; check ITERABLE_API_BASE_URL"
        return CallOutcome(status, http_status, code, message=message)


def backoff_s(attempt: int, retry_after: float | None = None) -> float:
    """Return how many seconds to wait after request number *attempt* (1 is the first).

    The server's own ``Retry-After`` wins. Otherwise anything from 0 to 1 s, 0 to 2 s, 0 to 4 s ...
    up to 0 to 32 s: "full jitter", so that many clients do not return at the same instant.
    """
    if retry_after is not None:
        return retry_after
    longest = 2.0 ** min(attempt - 1, MAX_BACKOFF_DOUBLINGS)
    return random.uniform(0, longest)  # noqa: S311 - no secret


def retry_after_s(header: str | None) -> float | None:
    """Return a ``Retry-After`` header, seconds or an HTTP date, as 0.1 to 60 seconds.

    Return None when there is none that can be read.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # TypeError: a date without a zone
            return None
    # In this order "nan" becomes the upper limit.
    return max(MIN_RETRY_AFTER_S, min(MAX_RETRY_AFTER_S, seconds))


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


def _judge_success(code: str | None, message: str) -> CallStatus:
    """Judge a 2xx by its body."""
    if code == "Success":
        return CallStatus.REFUSED if DISALLOWED in message else CallStatus.DELIVERED
    if code is None:
        # Not Iterable's envelope: a proxy's page, or an answer cut short. It may have landed.
        return CallStatus.UNKNOWN
    return CallStatus.UNAVAILABLE if code in PASSING_CODES else CallStatus.REFUSED


def _json_object(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _code(answer: dict[str, Any]) -> str | None:
    """Return the answer's code. It goes to the log, so anything but a plain word stays out."""
    code = answer.get("code")
    if code is None:
        return None
    return code if isinstance(code, str) and re.fullmatch(r"[\w.]{1,64}", code) else "?"


def _never_left(error: requests.RequestException) -> bool:
    """Whether the request certainly did not reach the server."""
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError):
        return True
    cause = error.args[0] if error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError)
