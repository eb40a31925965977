"""What the local Iterable answers to each request, what it remembers, and how it is controlled.

Everything but the sockets, which are in ``iterable.py``. Nothing here waits, and nothing here is
safe to call from two threads.
"""

import dataclasses
import email.utils
import hashlib
import itertools
import json
import random
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, get_args

from sandbox.bodies import Answer, envelope, reply
from sandbox.endpoints import METHODS, endpoint_of
from sandbox.faults import Fault, Script, Unauthorized, rate_limited, unauthorized
from sandbox.project import Project
from sandbox.rate_limits import RateLimits
from sandbox.variants import ProjectType, TooLargeStatus

_SECRET_HEADERS: Final = ("api-key", "api_key", "authorization", "proxy-authorization")
_CHOICES: Final = {
    "unauthorized": get_args(Unauthorized),
    "project_type": get_args(ProjectType),
    "too_large_status": get_args(TooLargeStatus),
}
_NOT_FOUND: Final = Answer(
    404, b"<html><head><title>Action not found</title></head></html>", "text/html"
)


class Request(NamedTuple):
    """One request as it came; header names in lower case, no query in the path."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Received(NamedTuple):
    """One line of the log: a copy of what came, and what became of it."""

    at: float  # seconds since 1970
    method: str
    path: str
    headers: dict[str, str]  # names in lower case; a secret as a short hash
    body: bytes
    status: int | None  # None: no answer was sent
    fault: str | None  # the kind that took it


class Decision(NamedTuple):
    """How to answer a request that has been applied or refused by now."""

    answer: Answer | None  # None: not at all
    fault: Fault | None = None
    latency_s: float = 0.0


@dataclasses.dataclass(slots=True)
class ServerSettings:
    """What surrounds the project."""

    # One number, a (low, high) pair to draw from, or either of them by endpoint.
    latency_ms: Any = 0.0
    api_key: str | None = None  # None: any key but an empty one
    unauthorized: Unauthorized = "bad_key"
    retry_after: int | None = None  # seconds, on the 429 of the rate limits
    log_requests: int = 10_000  # the latest are kept
    log_bytes: int = 64_000_000  # of their bodies
    send_date: bool = True  # the Date header
    clock_skew_s: float = 0.0  # what its clock is ahead: of that header, and of the lag


class StandIn:
    """The project behind its door: keys, rate limits, faults, and a log of who came."""

    def __init__(self, **settings: object) -> None:
        self.server = ServerSettings()
        self.limits = RateLimits()
        self.project = Project(clock=self._now)
        variants = self.project.variants
        self._owners: dict[str, object] = {
            **dict.fromkeys((field.name for field in dataclasses.fields(variants)), variants),
            **dict.fromkeys((f.name for f in dataclasses.fields(ServerSettings)), self.server),
            **dict.fromkeys(("limits", "limit_scale", "other_clients"), self.limits),
        }
        self._random = random.Random(0)  # noqa: S311 - latency is no secret
        self.change(settings)
        self.reset()

    def reset(self) -> None:
        """Forget everything but the settings."""
        self.project.reset()
        self.limits.reset()
        self.script = Script()
        self.received: deque[Received] = deque()
        self._received_bytes = 0
        self._answered: dict[str, Counter[str]] = {}  # endpoint -> status -> count
        self._faults: Counter[str] = Counter()
        self.connections = 0  # opened so far

    # --- Requests

    def decide(self, request: Request) -> Decision:
        """Apply or refuse one request to Iterable, and log it."""
        found = endpoint_of(request.method, request.path)
        decision = Decision(_NOT_FOUND) if found is None else self._decide(request, *found)
        self._log(request, "other" if found is None else found[0], decision)
        return decision

    def _decide(self, request: Request, endpoint: str, in_path: Mapping[str, str]) -> Decision:
        latency_s = self._latency_s(endpoint)
        if refused := self._refusal(request, endpoint):
            return Decision(refused, None, latency_s)

        def apply() -> Answer:
            if request.method == "GET":
                query = urllib.parse.parse_qsl(request.query, keep_blank_values=True)
                return self.project.read(endpoint, {**dict(query), **in_path})
            return self.project.handle(endpoint, request.body)

        fault = self.script.next(endpoint, request.body)
        if fault is None:
            return Decision(apply(), None, latency_s)
        return Decision(fault.answer(endpoint, apply), fault, latency_s)

    def _refusal(self, request: Request, endpoint: str) -> Answer | None:
        """Return the answer to a request that does not reach the project, if it is one."""
        method = METHODS[endpoint]
        if request.method != method:
            return envelope(405, "BadParams", "Method not allowed.")._replace(
                headers={"Allow": method}
            )
        key = request.headers.get("api-key") or request.headers.get("api_key")
        if not key or self.server.api_key not in (None, key):
            return unauthorized(self.server.unauthorized, endpoint)
        content_type = request.headers.get("content-type", "").lower()
        if method == "POST" and not content_type.startswith("application/json"):
            return envelope(415, "BadParams", "Expecting application/json.")
        if not self.limits.accept(key, endpoint):
            return rate_limited(Fault("rate_limited", retry_after=self.server.retry_after))
        return None

    def _latency_s(self, endpoint: str) -> float:
        latency: Any = self.server.latency_ms
        if isinstance(latency, Mapping):
            latency = latency.get(endpoint, 0)
        if isinstance(latency, (tuple, list)):
            latency = self._random.uniform(*latency)
        return float(latency) / 1000

    def _log(self, request: Request, endpoint: str, decision: Decision) -> None:
        fault = None if decision.fault is None else decision.fault.kind
        status = decision.answer.status if _is_answered(decision) and decision.answer else None
        headers = {n: _masked(v) if n in _SECRET_HEADERS else v for n, v in request.headers.items()}
        self.received.append(
            Received(
                time.time(), request.method, request.path, headers, request.body, status, fault
            )
        )
        self._received_bytes += len(request.body)
        while len(self.received) > self.server.log_requests or (
            self._received_bytes > self.server.log_bytes
        ):
            self._received_bytes -= len(self.received.popleft().body)
        self._answered.setdefault(endpoint, Counter())[str(status)] += 1
        if fault is not None:
            self._faults[fault] += 1

    def _now(self) -> float:
        return time.time() + self.server.clock_skew_s

    def date(self) -> str:
        """Return the Date header's value now; empty for none."""
        return _http_date(int(self._now())) if self.server.send_date else ""

    # --- Control

    def settings(self) -> dict[str, Any]:
        """Return every setting by name; the key, which may be a real one, as its hash."""
        key = self.server.api_key
        settings = {name: getattr(owner, name) for name, owner in self._owners.items()}
        return settings | {"api_key": key and _masked(key)}

    def change(self, settings: Mapping[str, object]) -> None:
        """Change settings by name.

        Raises:
            ValueError: a name is unknown or a value cannot be; nothing was changed.
        """
        for name, value in settings.items():
            if name not in self._owners:
                raise ValueError(f"unknown setting {name}; one of {', '.join(self._owners)}")
            if isinstance(getattr(self._owners[name], name), bool) is not isinstance(
                value, bool
            ) or (value not in _CHOICES.get(name, (value,))):
                raise ValueError(f"setting {name} cannot be {value!r}")
        for name, value in settings.items():
            setattr(self._owners[name], name, value)

    def stats(self) -> dict[str, Any]:
        """Return counts; ``peak_per_s`` is the most accepted in any one second."""
        return {
            "requests": {name: dict(counts) for name, counts in self._answered.items()},
            "faults": dict(self._faults),
            "users": len(self.project.users),
            "events": len(self.project.events),
            "peak_per_s": dict(self.limits.peaks),
            "connections": self.connections,
        }

    def control(self, request: Request) -> Answer:
        """Answer a request whose path begins with /sandbox/."""
        name = request.path.removeprefix("/sandbox/")
        try:
            if request.method == "GET":
                return self._show(name, dict(urllib.parse.parse_qsl(request.query)))
            if request.method == "POST":
                return self._run(name, json.loads(request.body or b"null"))
        except (ValueError, TypeError, AttributeError) as error:
            return reply(400, {"error": str(error)})
        return reply(405, {"error": "GET or POST"})

    def _show(self, name: str, query: Mapping[str, str]) -> Answer:
        start, limit = int(query.get("offset", 0)), int(query.get("limit", 1000))
        tables: dict[str, Callable[[], Any]] = {
            "users": self.project.users.values,
            "events": self.project.events.values,
            "requests": lambda: self.received,
        }
        if name in tables:
            page = itertools.islice(tables[name](), start, start + limit)
            return reply(200, [_as_json(line) for line in page])
        if name in ("stats", "settings"):
            return reply(200, self.stats() if name == "stats" else self.settings())
        return reply(404, {"error": "nothing of that name to show"})

    def _run(self, command: str, argument: Any) -> Answer:  # noqa: ANN401 - any JSON may come
        match command:
            case "settings":
                self.change(argument)
            case "faults":
                self.script = Script([Fault(**rule) for rule in argument])
            case "forget":
                for identifier in argument:
                    self.project.forget(identifier)
            case "disallow":
                self.project.disallowed_events.update(argument)
            case "reset":
                self.reset()
            case _:
                return reply(404, {"error": "no command of that name"})
        return reply(200, {})


@lru_cache(maxsize=2)
def _http_date(unix_seconds: int) -> str:
    return email.utils.formatdate(unix_seconds, usegmt=True)


def _is_answered(decision: Decision) -> bool:
    return decision.fault is None or decision.fault.manner not in ("reset", "hang")


def _as_json(line: Any) -> dict[str, Any]:  # noqa: ANN401 - any named tuple
    document: dict[str, Any] = line._asdict()
    if isinstance(line, Received):
        document["body"] = line.body.decode("utf-8", "backslashreplace")
    return document


@lru_cache(maxsize=64)
def _masked(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode('utf-8')).hexdigest()[:8]}"
