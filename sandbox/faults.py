"""Faults: which requests fail, and how.

A fault replaces the project's answer, and says whether the request is applied anyway. The first
fault that matches a request and has a turn left takes it; the others ignore the request. With
``headers={"Connection": "close"}`` the connection ends after the answer.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Literal, get_args

from sandbox.bodies import Answer, envelope
from sandbox.endpoints import LIMITS_PER_S

Kind = Literal[
    "rate_limited",  # 429
    "server_error",  # 500 GenericError
    "gateway",  # 502 with HTML
    "garbage",  # 200 that is not JSON
    "not_success",  # 200 with another `code`
    "unauthorized",  # 401 in one `variant`
    "redirect",  # 302 to `location`
    "answer",  # 200 with nothing but `status`, `headers`, `body`
    "reset_before",  # the connection is reset, nothing applied
    "reset_after",  # applied, then the connection is reset
    "hang",  # no answer until the client leaves or `seconds` are over
    "truncated",  # applied; half of the answer, then the connection is closed
]
Unauthorized = Literal["bad_key", "code_success", "no_permission", "bad_jwt"]

_NO_ANSWER: Final = ("reset_before", "reset_after", "hang")


@dataclass(frozen=True, slots=True)
class Fault:
    """By default it takes every request, forever. Raises ValueError: unknown kind or endpoint."""

    kind: Kind
    _: KW_ONLY
    # Which requests it takes
    endpoint: str | None = None  # None: all
    email: str | None = None  # in any case; in bulk: any row with it
    skip: int = 0  # number of matching requests to let through first
    times: int | None = None  # number of turns, then the fault ends
    probability: float = 1.0
    seed: int = 0  # of the probability
    # What it does with them
    applied: bool = False  # where the kind does not say
    status: int | None = None
    body: str | None = None
    size: int = 0  # minimum bytes of the body: spaces fill it up
    headers: Mapping[str, str] = field(default_factory=dict)
    variant: Unauthorized = "bad_key"
    location: str = "/elsewhere"
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown kind of fault: {self.kind}")
        if self.endpoint is not None and self.endpoint not in LIMITS_PER_S:
            raise ValueError(f"unknown endpoint: {self.endpoint}")

    def answer(self, endpoint: str, apply: Callable[[], Answer]) -> Answer | None:
        """Return the answer to send, None for no answer; *apply* asks the project."""
        if self.kind == "truncated":
            return apply()
        if self.applied or self.kind == "reset_after":
            apply()
        return None if self.kind in _NO_ANSWER else self._adjusted(self._usual_answer(endpoint))

    def _usual_answer(self, endpoint: str) -> Answer:
        if self.kind == "unauthorized":
            return unauthorized(self.variant, endpoint)
        if self.kind == "redirect":
            return Answer(302, b"", "text/html", {"Location": self.location})
        return _USUAL_ANSWERS[self.kind]

    def _adjusted(self, answer: Answer) -> Answer:
        """Return *answer* with the fault's own status, headers and body, if it has any."""
        body = answer.body if self.body is None else self.body.encode()
        return answer._replace(
            status=self.status or answer.status,
            headers={**answer.headers, **self.headers},
            body=body,
            blanks=max(0, self.size - len(body)),
        )


def unauthorized(variant: Unauthorized, endpoint: str) -> Answer:
    """Return one of the 401s that Iterable is known to send."""
    path = f"/api/{endpoint}"
    params = {"ip": "127.0.0.1", "endpoint": path}
    match variant:
        case "bad_key":
            return envelope(401, "BadApiKey", "Invalid API key", params)
        case "code_success":
            return envelope(401, "Success", "Invalid API key", {"endpoint": path})
        case "no_permission":
            msg = "Disabled API key or insufficient privileges"
            params |= {"apiKeyIdentifier": "sandbox", "apiKeyType": "ServerSide"}
            return envelope(401, "BadApiKey", msg, params)
        case "bad_jwt":
            return envelope(401, "InvalidJwtPayload", "JWT token is missing", {"endpoint": path})


RATE_LIMITED: Final = envelope(429, "RateLimitExceeded", "Exceeded rate limit.")
_USUAL_ANSWERS: Final[Mapping[str, Answer]] = {
    "rate_limited": RATE_LIMITED,
    "server_error": envelope(500, "GenericError", "An error occurred. Please try again later."),
    "gateway": Answer(502, b"<html><title>Bad gateway</title></html>", "text/html"),
    "garbage": Answer(200, b'{"msg":"","code":"Succ'),
    "not_success": envelope(200, "GenericError", "Not done."),
    "answer": Answer(200, b""),
}


class Rule:
    """An active fault, and its remaining turns."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._skip, self._left = fault.skip, fault.times
        self._random = random.Random(fault.seed)  # noqa: S311 - it must be repeatable

    def takes(self, endpoint: str, body: bytes) -> bool:
        """Whether the fault takes this request; count its turn."""
        fault = self.fault
        if self._left == 0 or fault.endpoint not in (None, endpoint):
            return False
        if fault.email is not None and f'"{fault.email.lower()}"'.encode() not in body.lower():
            return False
        if self._skip > 0:
            self._skip -= 1
            return False
        if fault.probability < 1 and self._random.random() >= fault.probability:
            return False
        if self._left is not None:
            self._left -= 1
        return True
