"""The script of faults: which requests go wrong, and how.

A fault says what is sent instead of the project's answer, whether the request is applied all the
same, and in what manner the bytes leave. The first fault of the script that matches a request and
has a turn left takes it; the others do not see it.

What Iterable has never been seen to do, but HTTP allows, is here too: interim answers, answers
compressed or very large, a connection that ends with its answer (``headers={"Connection":
"close"}``, with a status of 408 for instance).
"""

import json
import random
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal, get_args

from sandbox.bodies import Answer, envelope
from sandbox.endpoints import METHODS

Kind = Literal[
    "rate_limited",  # 429
    "server_error",  # 500 GenericError
    "gateway",  # 502, or `status`, with HTML; empty with body=""
    "reset_before",  # the connection is reset, nothing applied
    "reset_after",  # applied, then the connection is reset
    "hang",  # no answer until the client leaves or `seconds` have passed (60)
    "truncated",  # applied; half the answer, then the connection is closed
    "garbage",  # 200 that is not JSON
    "not_success",  # 200 with another `code`
    "unauthorized",  # 401 in one `variant`
    "drip",  # applied; the answer comes byte by byte over `seconds` (10)
    "redirect",  # 302, or `status`, to `location`
    "answer",  # `status`, `headers`, `body` as given; blanks after it up to `size`
    "interim",  # applied; `interims` (one 103), then the project's answer
    "gzip",  # applied; the project's answer, compressed though nobody asked
]
Unauthorized = Literal["bad_key", "code_success", "no_permission", "bad_jwt"]
Manner = Literal["whole", "reset", "hang", "truncated", "drip"]

_OWN_ANSWER: Final = ("truncated", "drip", "interim", "gzip")  # the project's
_ALWAYS_APPLIED: Final = ("reset_after", *_OWN_ANSWER)


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule of the script: by default it takes every request, for ever.

    Fields that a kind has no use for are ignored.

    Raises:
        ValueError: unknown kind, variant or endpoint, or a final status among the interim ones.
    """

    kind: Kind
    _: KW_ONLY
    # Which requests it takes
    endpoint: str | None = None  # None: all
    email: str | None = None  # in any case; in bulk: any row with it
    skip: int = 0  # matching requests to let through first
    times: int | None = None  # turns, then the fault is over
    probability: float = 1.0
    seed: int = 0  # of the probability
    # What becomes of them
    applied: bool = False  # where the kind does not say
    status: int | None = None
    body: str | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: int | None = None  # seconds
    code: str = "GenericError"
    variant: Unauthorized = "bad_key"
    location: str = "/elsewhere"
    seconds: float | None = None
    size: int | None = None  # bytes of the body, before gzip
    # Besides, of any kind
    interims: Sequence[int] = ()  # statuses of answers that are sent before the final one
    interim_headers: Mapping[str, str] = field(default_factory=dict)  # of each of them
    gzip: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown kind of fault: {self.kind}")
        if self.variant not in get_args(Unauthorized):
            raise ValueError(f"unknown variant of 401: {self.variant}")
        if self.endpoint is not None and self.endpoint not in METHODS:
            raise ValueError(f"unknown endpoint: {self.endpoint}; one of {', '.join(METHODS)}")
        if not all(100 <= status < 200 for status in self.interims):
            raise ValueError("interim answers have a status from 100 to 199")

    @property
    def manner(self) -> Manner:
        """How the answer leaves."""
        match self.kind:
            case "reset_before" | "reset_after":
                return "reset"
            case "hang" | "truncated" | "drip":
                return self.kind
            case _:
                return "whole"

    @property
    def interim_statuses(self) -> Sequence[int]:
        """What is sent before the answer, or before none comes."""
        return self.interims or ((103,) if self.kind == "interim" else ())

    def answer(self, endpoint: str, apply: Callable[[], Answer]) -> Answer | None:
        """Return what to send, None for nothing; *apply* asks the project."""
        answer = apply() if self.applied or self.kind in _ALWAYS_APPLIED else None
        if self.kind not in _OWN_ANSWER:
            answer = _ANSWERS[self.kind](self, endpoint) if self.kind in _ANSWERS else None
        if answer is not None and (self.gzip or self.kind == "gzip"):
            return _compressed(answer)
        return answer

    def retry_after_header(self) -> dict[str, str]:
        """Return the Retry-After header, or nothing."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


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


def rate_limited(fault: Fault, _endpoint: str = "") -> Answer:
    """Return the 429: JSON, or plain text if the fault has a body of its own."""
    answer = envelope(429, "RateLimitExceeded", "Exceeded rate limit.")
    if fault.body is not None:
        answer = _text(fault, 429, "", "text/plain")
    return answer._replace(headers={**fault.headers, **fault.retry_after_header()})


def _text(fault: Fault, status: int, body: str, content_type: str) -> Answer:
    """Return the fault's own status, body and type, or the given ones."""
    content = (body if fault.body is None else fault.body).encode()
    return Answer(
        fault.status or status,
        content,
        fault.content_type or content_type,
        fault.headers,
        max(0, (fault.size or 0) - len(content)),
    )


def _compressed(answer: Answer) -> Answer:
    packer = zlib.compressobj(wbits=31)  # gzip's own framing
    packed = [packer.compress(part) for part in (answer.body, *answer.blank_parts())]
    return answer._replace(
        body=b"".join([*packed, packer.flush()]),
        headers={**answer.headers, "Content-Encoding": "gzip"},
        blanks=0,
    )


def _server_error(_fault: Fault, _endpoint: str) -> Answer:
    msg = "An error occurred. Please try again later, or contact your customer success manager."
    return envelope(500, "GenericError", msg)


def _redirect(fault: Fault, _endpoint: str) -> Answer:
    return Answer(fault.status or 302, b"", "text/html", {"Location": fault.location})


_GATEWAY: Final = "<html><head><title>Bad gateway</title></head><body>nginx</body></html>"
_ANSWERS: Final[Mapping[str, Callable[[Fault, str], Answer]]] = {
    "rate_limited": rate_limited,
    "server_error": _server_error,
    "gateway": lambda fault, _: _text(fault, 502, _GATEWAY, "text/html"),
    "garbage": lambda fault, _: _text(fault, 200, '{"msg":"","code":"Succ', "application/json"),
    "not_success": lambda fault, _: envelope(200, fault.code, "Not done."),
    "unauthorized": lambda fault, endpoint: unauthorized(fault.variant, endpoint),
    "redirect": _redirect,
    "answer": lambda fault, _: _text(fault, 200, "", "application/json"),
}


class Script:
    """The faults in force, and how many requests each has seen and taken."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._rules = [_Rule(fault) for fault in faults]
        self._by_email = any(fault.email for fault in faults)

    def next(self, endpoint: str, body: bytes) -> Fault | None:
        """Return the fault that takes this request, and count its turn."""
        if not self._rules:
            return None
        emails = _emails(body) if self._by_email else frozenset()
        return next((rule.fault for rule in self._rules if rule.takes(endpoint, emails)), None)


class _Rule:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._skip, self._left = fault.skip, fault.times
        self._random = random.Random(fault.seed)  # noqa: S311 - it must repeat, not surprise

    def takes(self, endpoint: str, emails: frozenset[str]) -> bool:
        fault = self.fault
        if self._left == 0 or fault.endpoint not in (None, endpoint):
            return False
        if fault.email is not None and fault.email.lower() not in emails:
            return False
        if self._skip > 0:
            self._skip -= 1
            return False
        if fault.probability < 1 and self._random.random() >= fault.probability:
            return False
        if self._left is not None:
            self._left -= 1
        return True


def _emails(body: bytes) -> frozenset[str]:
    """Return the lower-cased emails of a body's rows; none if it cannot be read."""
    try:
        document: Any = json.loads(body)
        rows = document.get("users") or document.get("events") or [document]
        return frozenset(str(row["email"]).lower() for row in rows if "email" in row)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return frozenset()
