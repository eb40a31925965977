"""A local Iterable for each test, and a plain client that talks to it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests

from sandbox.iterable import IterableSandbox

ENDPOINTS = ("users/update", "events/track", "users/bulkUpdate", "events/trackBulk")


class Client(NamedTuple):
    """A plain requests session, and the stand-in it talks to."""

    session: requests.Session
    iterable: IterableSandbox

    def post(self, endpoint: str, body: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", 5)
        return self.session.post(f"{self.iterable.url}/api/{endpoint}", json=body, **options)

    def update(self, address: str = "ann@example.com", /, **fields: object) -> requests.Response:
        return self.post("users/update", user(address, **fields))

    def track(self, address: str = "ann@example.com", /, **rest: object) -> requests.Response:
        return self.post("events/track", event(address, **rest))

    def update_all(self, *rows: object, **envelope: object) -> Any:
        return self.post("users/bulkUpdate", {"users": rows} | envelope).json()

    def track_all(self, *rows: object) -> Any:
        return self.post("events/trackBulk", {"events": rows}).json()


def user(address: str, /, **fields: object) -> dict[str, Any]:
    return {"email": address, "dataFields": fields}


def event(address: str, /, **rest: object) -> dict[str, Any]:
    return {"email": address, "eventName": "page_view"} | rest


def example(endpoint: str, address: str = "ann@example.com") -> dict[str, Any]:
    """Return a body that the endpoint accepts."""
    row = event(address, id="e-1")
    return {"users/bulkUpdate": {"users": [row]}, "events/trackBulk": {"events": [row]}}.get(
        endpoint, row
    )


@pytest.fixture
def client(iterable: IterableSandbox) -> Iterator[Client]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Api-Key"] = "secret-key"
        yield Client(session, iterable)
