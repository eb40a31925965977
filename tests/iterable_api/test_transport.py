"""Requests on real sockets: what goes over the wire, and what is known of one that fails."""

import contextlib
import errno
import gzip
import json
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterable_api.transport import (
    MAX_BYTES,
    Network,
    Response,
    Transport,
    TransportError,
    cause_of,
)
from sandbox.faults import Fault
from tests import tunnels

PATH, BODY = "users/update", b'{"email":"ann@example.com","dataFields":{}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def transport_to(url, timeout_s=5.0):
    return contextlib.closing(Transport(url, "test-key", Network(timeout_s)))


@pytest.fixture
def transport(iterable):
    with transport_to(iterable.url) as transport:
        yield transport


@contextlib.contextmanager
def served_by(serve):
    """Yield a transport to a server that lets *serve* have each connection."""
    with tunnels.accepting(serve) as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        yield transport


def post(transport):
    return transport.send(PATH, BODY)


def failure(transport):
    """Return the error of a request that fails."""
    with pytest.raises(TransportError) as caught:
        post(transport)
    return caught.value


def failure_at(url, timeout_s=5.0):
    """Return of a request that fails the problem, its cause, and whether it may have left."""
    with transport_to(url, timeout_s) as transport:
        error = failure(transport)
    return error.problem, error.cause.words, error.left_machine


def free_url():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


# --- What goes over the wire


def test_a_request_is_sent_as_it_is_given(transport, iterable):
    fields = {f"field{number}": "x" * 30_000 for number in range(100)}
    large = json.dumps({"email": "a@example.com", "dataFields": fields}).encode()
    for body in (BODY, large):
        response = transport.send(PATH, body)
        assert (response.status_code, json.loads(response.content)["code"]) == (200, "Success")
        request = iterable.requests[-1]
        assert (request.method, request.path, request.body) == ("POST", "/api/users/update", body)
        assert request.headers["content-type"] == "application/json"
        assert request.headers["content-length"] == str(len(body))
        assert "api-key" in request.headers
        assert not {"transfer-encoding", "expect", "cookie", "authorization"} & {*request.headers}


def test_a_question_has_no_body(iterable):
    with transport_to(f"{iterable.url}/") as transport:  # a base URL may end in a slash
        assert transport.send("users/getFields").status_code == 200
    (request,) = iterable.requests
    assert (request.method, request.path, request.body) == ("GET", "/api/users/getFields", b"")
    assert not {"transfer-encoding", "content-length"} & set(request.headers)


def test_connections_are_kept_for_the_threads_that_send_at_once(transport, iterable):
    iterable.change(latency_ms=300)
    with ThreadPoolExecutor(5) as pool:
        for _ in range(2):
            list(pool.map(lambda _: post(transport), range(5)))
    assert len(iterable.requests) == 10
    assert iterable.stats["connections"] == 5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("-5", 0), ("86400", 60), ("nan", 60), ("soon", 0), ("", 0)],
)
def test_a_pause_is_read_in_seconds_and_capped(header, seconds):
    assert Response(429, {"Retry-After": header}, b"").retry_after_s == seconds
    assert Response(429, {}, b"").retry_after_s == 0


def test_redirects_are_not_followed_and_cookies_not_sent_back(transport, iterable):
    headers = {"Set-Cookie": "a=b; Path=/"}
    location = f"{iterable.url}/api/{PATH}"
    iterable.set_faults(Fault("redirect", location=location, headers=headers, times=1))
    assert post(transport).status_code == 302
    assert len(iterable.requests) == 1
    post(transport)
    assert "cookie" not in iterable.requests[1].headers


# --- What comes back


def read_request(connection):
    data = b""
    while BODY not in data:
        data += connection.recv(65536)
    return data


def leave_unread(connection):
    while BODY not in connection.recv(65536, socket.MSG_PEEK):
        time.sleep(0.01)


def be_silent(connection):
    read_request(connection)
    connection.recv(1)


def answering(*answers):
    """Return what serves a connection: the next of *answers* to each request, then the end."""
    remaining = iter(answers)

    def serve(connection):
        for answer in remaining:
            read_request(connection)
            connection.sendall(answer)

    return serve


def answer_of(head, body, **headers):
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([head, *lines, "", ""]).encode() + body


def ok(body, **headers):
    return answer_of("HTTP/1.1 200 OK", body, Content_Length=len(body), **headers)


def chunked(body):
    parts = (body[start : start + 65536] for start in range(0, len(body), 65536))
    data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return answer_of("HTTP/1.1 500 Oops", data + b"0\r\n\r\n", Transfer_Encoding="chunked")


LONG = b"x" * (MAX_BYTES + 1)
TOO_LONG = "the answer is too long"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            answer_of("HTTP/1.1 103 x", b"", Link="</style.css>") + ok(b'{"n":2}'),
            "only an interim answer came (103)",
        ),
        (answer_of("HTTP/1.1 500 Oops", LONG, Connection="close"), TOO_LONG),
        (chunked(LONG * 5), TOO_LONG),
    ],
    ids=lambda value: str(value[:14]),
)
def test_after_an_unusable_answer_no_other_request_gets_what_follows_it(answer, words):
    connections = []

    def serve(connection):
        connections.append(connection)
        read_request(connection)
        connection.sendall(answer if len(connections) == 1 else ANSWER)
        if len(connections) == 1:
            connection.recv(1)

    with served_by(serve) as transport:
        error = failure(transport)
        assert post(transport).content == b"{}"
    assert (error.left_machine, error.cause.words) == (True, words)
    assert len(connections) == 2


def test_an_answer_of_any_status_or_coding_is_read_up_to_the_limit_and_its_connection_kept():
    body = b"x" * MAX_BYTES
    answers = [
        *(ok(body), chunked(body), answer_of("HTTP/1.1 503 x", b"{}", Content_Length=2)),
        ok(gzip.compress(b"{}"), Content_Encoding="gzip"),
        ok(zlib.compress(b"{}"), Content_Encoding="deflate"),
    ]
    with served_by(answering(*answers)) as transport:
        got = [post(transport) for _ in answers]
    assert [len(each.content) for each in got] == [MAX_BYTES, MAX_BYTES, 2, 2, 2]
    assert [each.status_code for each in got] == [200, 500, 503, 200, 200]


@pytest.mark.parametrize(
    ("body", "words"),
    [(gzip.compress(b"x" * 50_000_000), TOO_LONG), (b"{}", "the answer cannot be decoded")],
    ids=["bomb", "no gzip"],
)
def test_what_cannot_be_decoded_in_little_memory_is_no_answer(body, words):
    with served_by(answering(ok(body, Content_Encoding="gzip"))) as transport:
        tracemalloc.start()
        error = failure(transport)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (error.left_machine, error.cause.words) == (True, words)
    assert peak < 5 * MAX_BYTES


PIECES = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK", b"HTTP/1.0 500 x", b"HTTP/1.1 103 x", b"HTTP/9.9 999 x", b"\r\n"),
        *(b"Content-Length: 2", b"Content-Length: -1", b"Content-Length: 99999999999999999999"),
        *(b"Transfer-Encoding: chunked", b"2", b"ffffffffffffffffff", b"-5", b"Connection: close"),
        *(b"Content-Encoding: gzip, gzip, gzip, gzip, gzip, gzip", b"{}", b"x" * 70_000, b"\xff"),
    ]
)
BYTES = st.binary(max_size=99) | st.lists(PIECES, max_size=9).map(b"\r\n".join)


def test_whatever_comes_is_an_answer_or_a_transport_error():
    sent: list[bytes] = []

    def serve(connection):
        read_request(connection)
        connection.sendall(sent[-1])

    with served_by(serve) as transport:

        @settings(deadline=None)
        @given(BYTES)
        def ask(content):
            sent.append(content)
            with contextlib.suppress(TransportError):
                assert 200 <= post(transport).status_code <= 999

        ask()


# --- What is known of a request that fails: whether it may have landed, and why

CLOSED = "the connection was closed without an answer"


@pytest.mark.parametrize(
    ("serve", "problem", "words"),
    [
        (read_request, "ConnectionError", CLOSED),
        (answering(ANSWER[:-1]), "ProtocolError", "the answer broke off"),
        (answering(b"220 mail.example.com ESMTP\r\n"), "ConnectionError", "the answer is not HTTP"),
        (leave_unread, "ConnectionError", "connection reset by peer"),
        (be_silent, "ReadTimeout", "no answer within 0.3 s"),
    ],
)
def test_a_server_that_got_some_of_the_request_may_have_acted(serve, problem, words):
    with tunnels.accepting(serve) as port:
        failed = failure_at(f"http://127.0.0.1:{port}", 0.3 if "0.3" in words else 5.0)
    assert failed == (problem, words, True)


def test_without_a_connection_nothing_leaves():
    assert failure_at(free_url()) == ("NewConnectionError", "connection refused", False)
    dns = ("NameResolutionError", "DNS has no address for the host", False)
    assert failure_at("http://no.such.host.invalid") == dns


def test_a_connection_that_is_not_accepted_lets_nothing_leave():
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        failed = failure_at(f"http://127.0.0.1:{full.getsockname()[1]}", timeout_s=0.2)
    assert failed == ("ConnectTimeoutError", "no connection within 0.2 s", False)


def test_a_kept_connection_that_the_server_has_closed_is_not_used_again():
    closed = threading.Event()

    def serve(connection):
        read_request(connection)
        connection.sendall(ANSWER)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    with served_by(serve) as transport:
        for _ in range(3):
            assert post(transport).status_code == 200
            assert closed.wait(30)
            closed.clear()


def test_a_kept_connection_that_closes_under_a_request_may_have_carried_it():
    def serve(connection):
        read_request(connection)
        connection.sendall(ANSWER)
        read_request(connection)

    with served_by(serve) as transport:
        post(transport)
        error = failure(transport)
        # And a failure does not spoil the next request.
        assert post(transport).content == b"{}"
    assert (error.problem, error.left_machine) == ("ConnectionError", True)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ssl.SSLError("odd"), "TLS failed: no reason given"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (ValueError("x"), "the connection failed"),
    ],
)
def test_an_error_is_told_by_what_led_to_it(error, words):
    outer, middle = ValueError("a library's own"), ValueError("another")
    outer.__cause__, middle.__context__ = middle, error
    assert [cause_of(each, "answer", 2.5).words for each in (error, outer)] == [words] * 2
