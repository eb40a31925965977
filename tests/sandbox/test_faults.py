"""The script of faults (rows 28 to 30, and what HTTP allows besides)."""

import re
import socket
import tracemalloc

import pytest
import requests

from sandbox.endpoints import ENDPOINTS
from sandbox.faults import Fault
from tests.sandbox.conftest import Client, example, user

SUCCESS = {"msg": "", "code": "Success", "params": None}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_server_error_passes_after_its_turns(client, endpoint):
    client.update("ann@example.com")
    client.iterable.set_faults(Fault("server_error", endpoint=endpoint, skip=1, times=2))
    answers = [client.post(endpoint, example(endpoint)) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 500, 500, 200]
    assert answers[1].json()["code"] == "GenericError"
    assert answers[1].json()["params"] is None


@pytest.mark.parametrize("endpoint", ["users/update", "users/bulkUpdate"])
def test_a_fault_can_stick_to_the_rows_of_one_email(client, endpoint):
    client.iterable.set_faults(Fault("server_error", email="Ann@example.com"))
    assert client.post(endpoint, example(endpoint, "ben@example.com")).status_code == 200
    assert client.post(endpoint, example(endpoint, "ANN@example.com")).status_code == 500
    assert client.post(endpoint, example(endpoint, "ann@example.com")).status_code == 500


def test_a_fault_by_probability_repeats_with_its_seed(client):
    def run(seed: int) -> list[int]:
        client.iterable.set_faults(Fault("server_error", probability=0.3, seed=seed))
        return [client.update().status_code for _ in range(60)]

    assert run(1) == run(1) != run(2)
    assert 5 < run(1).count(500) < 35


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("body", [None, ""])
def test_a_gateway_answers_html_or_nothing(client, status, body):
    client.iterable.set_faults(Fault("gateway", status=status, body=body))
    response = client.update()
    assert (response.status_code, response.headers["Content-Type"]) == (status, "text/html")
    assert bool(response.content) is (body is None)
    assert "Server" not in response.headers


@pytest.mark.parametrize(
    ("fault", "kind", "delay"),
    [
        (Fault("rate_limited"), "application/json", None),
        (Fault("rate_limited", retry_after=7), "application/json", "7"),
        (Fault("rate_limited", body="Too Many Requests"), "text/plain", None),
    ],
)
def test_a_scripted_429_has_its_variants(client, fault, kind, delay):
    client.iterable.set_faults(fault)
    response = client.update()
    assert (response.status_code, response.headers["Content-Type"]) == (429, kind)
    assert response.headers.get("Retry-After") == delay


@pytest.mark.parametrize(
    ("fault", "held"),
    [
        (Fault("reset_before"), 0),
        (Fault("reset_after"), 1),
        (Fault("truncated"), 1),
        (Fault("hang"), 0),
        (Fault("hang", applied=True), 1),
        (Fault("hang", seconds=0.01), 0),
        (Fault("drip", seconds=20), 1),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_answer_arrives_and_the_request_is_applied_or_not(client, endpoint, fault, held):
    if endpoint == "events/trackBulk":
        client.update_all(user("ann@example.com"))
    client.iterable.set_faults(fault)
    lost = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    with pytest.raises(lost):
        client.post(endpoint, example(endpoint), timeout=0.02)
    client.iterable.set_faults()
    state = client.iterable.events if endpoint.startswith("events") else client.iterable.users
    assert len(state) == held
    assert client.post(endpoint, example(endpoint)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "held"),
    [
        (Fault("garbage"), 200, 0),
        (Fault("garbage", applied=True, body="<html>"), 200, 1),
        (Fault("not_success", code="BadParams"), 200, 0),
        (Fault("unauthorized", variant="code_success"), 401, 0),
        (Fault("answer", status=418, body="tea", headers={"X-Pot": "1"}), 418, 0),
        (Fault("answer", status=202, applied=True), 202, 1),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
def test_a_false_answer_is_applied_only_if_told_so(client, fault, status, held):
    client.iterable.set_faults(fault)
    response = client.update()
    assert response.status_code == status
    assert len(client.iterable.users) == held
    assert response.headers.get("X-Pot") == fault.headers.get("X-Pot")


def test_garbage_is_not_json_and_not_success_is_another_code(client):
    client.iterable.set_faults(Fault("garbage", times=1), Fault("not_success", code="BadParams"))
    with pytest.raises(requests.JSONDecodeError):
        client.update().json()
    assert client.update().json()["code"] == "BadParams"


def test_a_dripping_answer_is_whole_in_the_end(client):
    client.iterable.set_faults(Fault("drip", seconds=0.01))
    assert client.update().json() == SUCCESS


def test_a_redirect_names_its_location(client):
    client.iterable.set_faults(Fault("redirect", status=307, location="http://127.0.0.1:9/x"))
    response = client.post("users/update", user("a@b.co"), allow_redirects=False)
    assert (response.status_code, response.headers["Location"]) == (307, "http://127.0.0.1:9/x")


def test_an_unknown_kind_or_endpoint_of_a_fault_is_refused():
    with pytest.raises(ValueError, match="kind"):
        Fault("explode")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="endpoint"):
        Fault("hang", endpoint="users/delete")


# --- What HTTP allows besides


def exchange(client: Client, *, again: bool = False) -> bytes:
    """Return all bytes that come for an update, or for two on one connection."""
    host, port = client.iterable.url.removeprefix("http://").split(":")
    body = b'{"email":"ann@example.com"}'
    head = (
        b"POST /api/users/update HTTP/1.1\r\nHost: x\r\nApi-Key: k\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    )
    last = head + b"Connection: close\r\n\r\n" + body
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(head + b"\r\n" + body + last if again else last)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def statuses(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", data)]


def test_interim_answers_come_before_the_projects_own(client):
    headers = {"Link": "</style.css>; rel=preload"}
    client.iterable.set_faults(Fault("interim", times=1, interim_headers=headers))
    data = exchange(client, again=True)
    assert statuses(data) == [103, 200, 200]
    link = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n"
    assert data.startswith(link)
    assert client.iterable.users["ann@example.com"].updates == 2


@pytest.mark.parametrize(
    ("fault", "expected", "held"),
    [
        (Fault("interim", interims=(100, 102, 103, 199)), [100, 102, 103, 199, 200], 1),
        (Fault("server_error", interims=[100]), [100, 500], 0),
        (Fault("truncated", interims=[102]), [102, 200], 1),
        (Fault("hang", interims=[102], seconds=0.01), [102], 0),
        (Fault("reset_after", interims=[103]), [103], 1),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
def test_interim_answers_come_before_any_other_fault(client, fault, expected, held):
    client.iterable.set_faults(fault)
    try:
        data = exchange(client)
    except ConnectionResetError:
        data = None  # a reset may overtake what was sent before
    assert data is None or statuses(data) == expected
    assert len(client.iterable.users) == held


def test_a_final_status_is_no_interim_one():
    with pytest.raises(ValueError, match="interim"):
        Fault("interim", interims=(103, 200))


def test_an_answer_can_be_compressed_though_nobody_asked(client):
    client.iterable.set_faults(Fault("gzip"))
    wish = {"Accept-Encoding": "identity"}
    response = client.post("users/update", user("ann@example.com"), headers=wish)
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.json() == SUCCESS
    assert len(client.iterable.users) == 1


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("answer", status=503, body="x" * 1000, gzip=True), 503),
        (Fault("server_error", gzip=True), 500),
        (Fault("rate_limited", retry_after=7, gzip=True), 429),
        (Fault("drip", seconds=0.01, gzip=True), 200),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
def test_any_answer_can_be_compressed(client, fault, status):
    client.iterable.set_faults(fault)
    response = client.update()
    assert (response.status_code, response.headers["Content-Encoding"]) == (status, "gzip")
    assert response.text
    assert response.headers.get("Retry-After") == ("7" if status == 429 else None)


def test_an_answer_can_be_large_and_is_still_json(client):
    body = '{"msg":"","code":"Success","params":null}'
    client.iterable.set_faults(Fault("answer", body=body, size=30_000_000))
    response = client.update()
    assert len(response.content) == 30_000_000
    assert response.json() == SUCCESS
    client.iterable.set_faults(Fault("answer", body=body, size=30_000_000, gzip=True))
    response = client.update()
    assert int(response.headers["Content-Length"]) < 100_000
    assert len(response.content) == 30_000_000
    client.iterable.set_faults(Fault("answer", body=body, size=3))
    assert client.update().text == body


def test_a_large_answer_never_lies_in_memory_as_a_whole(client):
    client.iterable.set_faults(Fault("answer", size=30_000_000))
    tracemalloc.start()
    try:
        url = f"{client.iterable.url}/api/users/update"
        with client.session.post(url, json=user("a@b.co"), stream=True, timeout=5) as response:
            assert sum(map(len, response.iter_content(65536))) == 30_000_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_client_may_leave_a_large_answer(client):
    client.iterable.set_faults(Fault("answer", size=30_000_000, times=1))
    url = f"{client.iterable.url}/api/users/update"
    client.session.post(url, json=user("a@b.co"), stream=True, timeout=5).close()
    assert client.update().status_code == 200


def test_a_connection_can_end_with_its_answer(client):
    headers = {"Connection": "close"}
    client.iterable.set_faults(Fault("answer", status=408, headers=headers, times=1))
    data = exchange(client, again=True)
    assert statuses(data) == [408]
    assert data.count(b"Connection:") == 1
    assert b"Connection: close\r\n" in data
    assert client.iterable.users == {}
    assert client.update().status_code == 200


def test_an_answer_can_be_nested_deeper_than_json_readers_like(client):
    client.iterable.set_faults(Fault("answer", body="[" * 100_000 + "]" * 100_000))
    with pytest.raises(RecursionError):
        client.update().json()
