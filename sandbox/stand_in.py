"""The local Iterable without its sockets, which are in ``iterable.py``.

It answers requests, keeps a log of them, and has the controls of the sandbox.
"""

import json
import threading
import urllib.parse
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sandbox.bodies import Answer, envelope, reply
from sandbox.endpoints import LIMITS_PER_S, USERS_GET_FIELDS, RateLimits
from sandbox.faults import RATE_LIMITED, Fault, Rule, unauthorized
from sandbox.project import Event, Project, User
from sandbox.settings import Settings

_NOT_FOUND: Final = Answer(404, b"<html><title>Action not found</title></html>", "text/html")
_ENDPOINTS: Final = {
    ("GET" if name == USERS_GET_FIELDS else "POST", f"/api/{name}"): name for name in LIMITS_PER_S
}


class Received(NamedTuple):
    """One request; in the log also with the status of its answer."""

    at: float  # seconds since 1970
    method: str
    path: str  # without the query
    query: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    status: int | None = None  # None: no answer was sent


class Decision(NamedTuple):
    """How to answer a request that has been applied or refused."""

    answer: Answer | None  # None: no answer
    fault: Fault | None = None
    latency_s: float = 0.0


class StandIn:
    """The project with API keys, rate limits, faults and a log of the requests.

    Settings are those of :class:`Settings`, by keyword. Any thread may call any method.

    Raises:
        ValueError: unknown setting.
    """

    def __init__(self, **settings: object) -> None:
        self._settings = Settings()
        self._lock = threading.RLock()
        self.change(**settings)
        self.reset()

    def reset(self) -> None:
        """Forget everything except the settings."""
        with self._lock:
            self._project = Project(self._settings)
            self._limits = RateLimits(self._settings)
            self._rules: list[Rule] = []
            self._received: deque[Received] = deque()
            self._answered: defaultdict[str, Counter[str]] = defaultdict(Counter)
            self._faults: Counter[str] = Counter()
            self._connections = 0

    # --- Requests

    def decide(self, request: Received) -> Decision:
        """Apply or refuse one request, and log it; /sandbox/... is for control()."""
        if request.path.startswith("/sandbox/"):
            return Decision(self.control(request))
        with self._lock:
            endpoint = _ENDPOINTS.get((request.method, request.path))
            if endpoint is None:
                decision = Decision(_NOT_FOUND)
            elif refused := self._refusal(request, endpoint):
                decision = Decision(refused, None, self._latency_s(endpoint))
            else:
                decision = self._served(request, endpoint)
            self._log(request, endpoint or "other", decision)
        return decision

    def _refusal(self, request: Received, endpoint: str) -> Answer | None:
        """Return the answer to a request that does not reach the project; None for any other."""
        key = request.headers.get("api-key")
        if not key or self._settings.api_key not in (None, key):
            return unauthorized("bad_key", endpoint)
        content_type = request.headers.get("content-type", "")
        if request.method == "POST" and not content_type.startswith("application/json"):
            return envelope(415, "BadParams", "Expecting application/json.")
        return None if self._limits.accept(endpoint) else RATE_LIMITED

    def _served(self, request: Received, endpoint: str) -> Decision:
        def apply() -> Answer:
            return self._project.handle(endpoint, request.body)

        taken = (rule.fault for rule in self._rules if rule.takes(endpoint, request.body))
        fault = next(taken, None)
        answer = apply() if fault is None else fault.answer(endpoint, apply)
        return Decision(answer, fault, self._latency_s(endpoint))

    def _latency_s(self, endpoint: str) -> float:
        latency_ms = self._settings.latency_ms
        if isinstance(latency_ms, Mapping):
            latency_ms = latency_ms.get(endpoint, 0.0)
        return latency_ms / 1000

    def _log(self, request: Received, endpoint: str, decision: Decision) -> None:
        status = decision.answer.status if decision.answer else None
        self._received.append(request._replace(status=status))
        while len(self._received) > self._settings.log_requests:
            self._received.popleft()
        self._answered[endpoint][str(status)] += 1
        if decision.fault is not None:
            self._faults[decision.fault.kind] += 1

    # --- State

    @property
    def users(self) -> dict[str, User]:
        """A copy of the profiles, by email in lower case, or by 'userId:' and the userId."""
        with self._lock:
            return self._project.users.copy()

    @property
    def events(self) -> dict[str, Event]:
        """A copy of the events, by id."""
        with self._lock:
            return self._project.events.copy()

    @property
    def requests(self) -> list[Received]:
        """A copy of the log, oldest first, without the requests to /sandbox/."""
        with self._lock:
            return list(self._received)

    @property
    def stats(self) -> dict[str, Any]:
        """Counts; ``requests`` by endpoint and status, ``faults`` by kind."""
        with self._lock:
            return {
                "requests": {name: dict(counts) for name, counts in self._answered.items()},
                "faults": dict(self._faults),
                "users": len(self._project.users),
                "events": len(self._project.events),
                "connections": self._connections,
            }

    # --- Control

    def change(self, **settings: object) -> None:
        """Change settings by name; raise ValueError and change nothing if one is unknown."""
        if unknown := settings.keys() - vars(self._settings).keys():
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        with self._lock:
            for name, value in settings.items():
                setattr(self._settings, name, value)

    def set_faults(self, *faults: Fault) -> None:
        """Replace the active faults; without arguments, remove them."""
        with self._lock:
            self._rules = [Rule(fault) for fault in faults]

    def forget(self, *identifiers: str) -> None:
        """Refuse these emails or userIds from now on, and delete their profiles."""
        with self._lock:
            for identifier in identifiers:
                self._project.forget(identifier)

    def disallow(self, *event_names: str) -> None:
        """Refuse events of these names from now on."""
        with self._lock:
            self._project.disallowed_events.update(event_names)

    def control(self, request: Received) -> Answer:
        """Answer a request whose path begins with /sandbox/."""
        try:
            match request.method, request.path.removeprefix("/sandbox/"):
                case "GET", "stats":
                    return reply(200, self.stats)
                case "GET", "requests":
                    query = dict(urllib.parse.parse_qsl(request.query))
                    start = int(query.get("offset", 0))
                    page = self.requests[start : start + int(query.get("limit", 1000))]
                    shown = [{"at": r.at, "path": r.path, "status": r.status} for r in page]
                    return reply(200, shown)
                case "POST", "settings":
                    self.change(**json.loads(request.body))
                case "POST", "faults":
                    self.set_faults(*(Fault(**rule) for rule in json.loads(request.body)))
                case _:
                    return _NOT_FOUND
        except (ValueError, TypeError) as error:
            return reply(400, {"error": str(error)})
        return reply(200, {})
