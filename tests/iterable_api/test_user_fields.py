"""The profile fields of a project: how they are asked for, and what is said when none come."""

import json
from contextlib import closing

import pytest

from iterable_api.answers import UNKNOWN_TYPE, fetch_user_fields
from iterable_api.transport import Network, Transport
from iterable_client import IterableClient
from records.outcomes import Fault as At
from sandbox.faults import Fault


def fetch(iterable, timeout_s=5.0):
    with closing(Transport(iterable.url, "key", Network(timeout_s))) as transport:
        return fetch_user_fields(transport)


def test_the_types_of_the_fields_come_by_name(iterable):
    with IterableClient("key", iterable.url) as client:
        client.update_user("ann@example.com", {"first_name": "Ann", "candidate": True})
    types = fetch(iterable).field_types
    assert (types["first_name"], types["candidate"]) == ("string", "boolean")
    request = iterable.requests[-1]
    assert (request.method, request.path, request.body) == ("GET", "/api/users/getFields", b"")


@pytest.mark.parametrize(
    ("fault", "http_status", "at", "words"),
    [
        (Fault("answer", body='{"fields": []}'), 200, At.NETWORK, "answered 200"),
        (Fault("answer", body="[" * 99_999), 200, At.NETWORK, "answered 200"),
        (Fault("answer", status=400, body='{"fields": {}}'), 400, At.NETWORK, "answered 400"),
        (Fault("hang"), None, At.NETWORK, "no answer within 0.3 s"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_what_came_instead_is_told(iterable, fault, http_status, at, words):
    iterable.set_faults(fault)
    answer = fetch(iterable, 0.3 if fault.kind == "hang" else 5.0)
    outcome = answer.outcome
    assert (answer.field_types, outcome.http_status, outcome.fault) == (None, http_status, at)
    assert answer.cause.words.startswith(words)


def test_a_project_may_have_very_many_fields_and_types_that_are_no_word(iterable):
    fields = {f"field{number}": "string" for number in range(30_000)}
    odd = {"a": None, "b": ["string"], "c": {"type": "string"}, "d": "", "e": "t" * 99}
    iterable.set_faults(Fault("answer", body=json.dumps({"fields": fields | odd})))
    unknown = dict.fromkeys("abcd", UNKNOWN_TYPE)
    assert fetch(iterable).field_types == fields | unknown | {"e": "t" * 64}
