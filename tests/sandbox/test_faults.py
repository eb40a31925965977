"""Which requests go wrong, and how."""

import time

import pytest
import requests

from sandbox.faults import Fault
from tests.sandbox.conftest import ENDPOINTS, example, user


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_fault_can_stick_to_one_endpoint_and_one_email_and_passes_after_its_turns(
    client, endpoint
):
    client.update("ben@example.com")
    which = {"endpoint": endpoint, "email": "Ann@example.com"}
    client.iterable.set_faults(Fault("server_error", skip=1, times=2, **which))
    answers = [
        client.post(endpoint, example(endpoint, f"{name}@example.com"))
        for name in ("ann", "ben", "ANN", "ann", "ann")
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 500, 500, 200]
    assert (answers[2].json()["code"], answers[2].json()["params"]) == ("GenericError", None)
    assert client.iterable.stats["faults"] == {"server_error": 2}
    client.iterable.set_faults(Fault("server_error", **which))
    other = ENDPOINTS[ENDPOINTS.index(endpoint) - 1]
    assert client.post(other, example(other)).status_code == 200


def test_a_fault_by_probability_repeats_with_its_seed(client):
    def run(seed: int) -> list[int]:
        client.iterable.set_faults(Fault("server_error", probability=0.3, seed=seed))
        return [client.update().status_code for _ in range(60)]

    assert run(1) == run(1) != run(2)
    assert 5 < run(1).count(500) < 35


@pytest.mark.parametrize(
    ("fault", "status", "kind", "text", "held"),
    [
        (Fault("rate_limited"), 429, "application/json", "RateLimitExceeded", 0),
        (Fault("rate_limited", headers={"Retry-After": "7"}), 429, "application/json", "Rate", 0),
        (Fault("gateway"), 502, "text/html", "<html>", 0),
        (Fault("server_error", applied=True), 500, "application/json", "GenericError", 1),
        (Fault("garbage"), 200, "application/json", '"Succ', 0),
        (Fault("not_success", applied=True), 200, "application/json", "GenericError", 1),
        (Fault("answer", status=418, body="tea"), 418, "application/json", "tea", 0),
        (Fault("redirect", location="http://127.0.0.1:9/x"), 302, "text/html", "", 0),
        (Fault("unauthorized", variant="bad_key"), 401, "application/json", "BadApiKey", 0),
        (Fault("unauthorized", variant="no_permission"), 401, "application/json", "ServerSide", 0),
        (Fault("unauthorized", variant="bad_jwt"), 401, "application/json", "InvalidJwtPayload", 0),
        (Fault("unauthorized", variant="code_success"), 401, "application/json", '"Success"', 0),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
def test_another_answer_comes_and_the_request_is_applied_only_if_told_so(
    client, fault, status, kind, text, held
):
    client.iterable.set_faults(fault)
    response = client.post("users/update", user("ann@example.com"), allow_redirects=False)
    assert (response.status_code, response.headers["Content-Type"]) == (status, kind)
    assert text in response.text
    assert bool(text) is bool(response.text)
    assert len(client.iterable.users) == held
    headers = {"Location": fault.location} if fault.kind == "redirect" else fault.headers
    assert headers.items() <= response.headers.items()


@pytest.mark.parametrize(
    ("fault", "held"),
    [
        (Fault("reset_before"), 0),
        (Fault("reset_after"), 1),
        (Fault("truncated"), 1),
        (Fault("hang"), 0),
        (Fault("hang", applied=True), 1),
        (Fault("hang", seconds=0.01), 0),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
@pytest.mark.parametrize("endpoint", ["users/update", "events/trackBulk"])
def test_no_answer_arrives_and_the_request_is_applied_or_not(client, endpoint, fault, held):
    if endpoint == "events/trackBulk":
        client.update_all(user("ann@example.com"))
    client.iterable.set_faults(fault)
    before = len(client.iterable.requests)
    waits = fault.kind == "hang" and fault.seconds > 5
    lost = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    with pytest.raises(lost) as error:
        client.post(endpoint, example(endpoint), timeout=0.05 if waits else 10)
    if fault.kind != "truncated":
        assert ("timed out" if waits else "reset by peer") in str(error.value)
    while len(client.iterable.requests) == before:  # it may come after the client has left
        time.sleep(0.01)
    assert client.iterable.requests[-1].status == (200 if fault.kind == "truncated" else None)
    client.iterable.set_faults()
    state = client.iterable.events if endpoint.startswith("events") else client.iterable.users
    assert len(state) == held
    assert client.post(endpoint, example(endpoint)).status_code == 200


def test_a_mistyped_fault_is_refused():
    with pytest.raises(ValueError, match="kind"):
        Fault("explode")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="endpoint"):
        Fault("hang", endpoint="users/delete")
