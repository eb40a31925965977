"""Requests on real sockets: what goes over the wire, and what is known of one that fails."""

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from iterable_api import transport as transport_module
from iterable_api.endpoints import GET_USER_FIELDS, TRACK_EVENTS, UPDATE_USERS
from iterable_api.transport import (
    MAX_BYTES,
    MAX_BYTES_OF_MANY,
    Response,
    Transport,
    TransportError,
)
from sandbox.faults import Fault

PATH, BODY = "users/update", b'{"email":"ann@example.com","dataFields":{}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.contextmanager
def transport_to(url, timeout_s=5.0, connections=10):
    transport = Transport(url, "test-key", timeout_s, connections)
    try:
        yield transport
    finally:
        transport.close()


@pytest.fixture
def transport(iterable):
    with transport_to(iterable.url) as transport:
        yield transport


def post(transport):
    return transport.send(PATH, BODY)


def error_of(url, timeout_s=5.0):
    """Return the error of a request that fails."""
    with transport_to(url, timeout_s) as transport, pytest.raises(TransportError) as caught:
        post(transport)
    return caught.value


def failure_of(url, timeout_s=5.0):
    """Return the problem of a request that fails, and whether it left the machine."""
    error = error_of(url, timeout_s)
    return error.problem, error.left_machine


@contextlib.contextmanager
def server(serve):
    """Let *serve* have each connection to the URL that this yields, one after the other."""

    def run(listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def read_request(connection):
    data = b""
    while BODY not in data:
        data += connection.recv(65536)
    return data


# --- What goes over the wire


def test_a_request_is_sent_as_it_is_given(transport, iterable):
    response = post(transport)
    assert response.status_code == 200
    assert json.loads(response.content)["code"] == "Success"
    assert response.headers["content-type"] == response.headers["Content-Type"]
    (request,) = iterable.requests
    assert (request.method, request.path, request.body) == ("POST", "/api/users/update", BODY)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-length"] == str(len(BODY))
    assert "api-key" in request.headers
    assert not {"transfer-encoding", "expect", "cookie", "authorization"} & set(request.headers)


def test_a_question_has_no_body(transport, iterable):
    assert transport.send("users/getFields").status_code == 200
    (request,) = iterable.requests
    assert (request.method, request.path, request.body) == ("GET", "/api/users/getFields", b"")
    assert not {"transfer-encoding", "content-length"} & set(request.headers)


def test_the_base_url_may_end_in_a_slash(iterable):
    with transport_to(f"{iterable.url}/") as transport:
        assert post(transport).status_code == 200


def test_a_large_body_arrives_whole(transport, iterable):
    fields = {f"field{number}": "x" * 30_000 for number in range(100)}
    body = json.dumps({"email": "a@example.com", "dataFields": fields}).encode()
    assert transport.send(PATH, body).status_code == 200
    assert iterable.requests[0].body == body


def test_requests_one_after_the_other_share_a_connection(transport, iterable):
    for _ in range(5):
        post(transport)
    assert iterable.stats["connections"] == 1


def test_connections_are_kept_for_the_threads_that_send_at_once(transport, iterable):
    iterable.change(latency_ms=50)
    for _ in range(2):
        threads = [threading.Thread(target=post, args=(transport,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(iterable.requests) == 20
    assert iterable.stats["connections"] == 10


def test_an_answer_of_any_status_is_no_failure(transport, iterable):
    iterable.set_faults(Fault("gateway", status=503), Fault("server_error"))
    assert post(transport).status_code == 503


# --- What is not looked at


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("-5", 0), ("86400", 60), ("nan", 60), ("soon", 0), ("", 0)],
)
def test_a_pause_is_read_in_seconds_and_capped(header, seconds):
    assert Response(429, {"Retry-After": header}, b"").retry_after_s == seconds
    assert Response(429, {}, b"").retry_after_s == 0


def test_a_redirect_is_an_answer_and_not_followed(transport, iterable):
    iterable.set_faults(Fault("redirect", location=f"{iterable.url}/api/{PATH}", times=1))
    assert post(transport).status_code == 302
    assert len(iterable.requests) == 1


def test_cookies_are_not_sent_back(transport, iterable):
    iterable.set_faults(Fault("answer", headers={"Set-Cookie": "a=b; Path=/"}, times=1))
    post(transport)
    post(transport)
    assert "cookie" not in iterable.requests[1].headers


def test_proxies_and_netrc_of_the_environment_are_not_used(iterable, monkeypatch, tmp_path):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with transport_to(iterable.url) as transport:
        assert post(transport).status_code == 200
    assert "authorization" not in iterable.requests[0].headers


# --- TLS


class SecureServer(ThreadingHTTPServer):
    """Answers every request over kept TLS connections; ``seen`` is what came through."""

    def __init__(self, context):
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server_address[1]}"
        self.seen: list[tuple[object, ...]] = []

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    """What a SecureServer does with a connection."""

    server: SecureServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.client_address, self.path, self.headers["Api-Key"]))
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def secure(authority):
    """Serve HTTPS under a certificate of *authority*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with SecureServer(context) as secure:
        threading.Thread(target=secure.serve_forever, args=(0.01,), daemon=True).start()
        yield secure
        secure.shutdown()


def test_requests_go_over_one_verified_connection(secure, authority, monkeypatch, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setattr(transport_module, "DEFAULT_CA_BUNDLE_PATH", tmp_path / "ca.pem")
    with transport_to(secure.url) as transport:
        for _ in range(2):
            assert post(transport).content == b"{}"
    first, second = secure.seen
    assert first == second == (first[0], "/api/users/update", "test-key")


def test_a_certificate_nobody_signed_is_refused_before_the_key_is_sent(
    secure, authority, monkeypatch, tmp_path
):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    # The environment has no say in whom to trust.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "ca.pem"))
    assert failure_of(secure.url) == ("SSLError", False)
    assert secure.seen == []


def test_a_certificate_of_another_host_is_refused(secure, authority, monkeypatch, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setattr(transport_module, "DEFAULT_CA_BUNDLE_PATH", tmp_path / "ca.pem")
    url = secure.url.replace("127.0.0.1", "localhost")
    assert failure_of(url) == ("SSLError", False)
    assert secure.seen == []


def test_the_certificates_are_read_once_for_all_connections(
    secure, authority, monkeypatch, tmp_path
):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setattr(transport_module, "DEFAULT_CA_BUNDLE_PATH", tmp_path / "ca.pem")
    read, load = [], ssl.SSLContext.load_verify_locations

    def loading(context, *paths):
        read.append(paths)
        load(context, *paths)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", loading)
    with transport_to(secure.url) as transport:
        at_once = threading.Barrier(8)
        threads = [
            threading.Thread(target=lambda: (at_once.wait(), post(transport))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(secure.seen) == 8
    assert len({address for address, *_ in secure.seen}) > 1
    assert len(read) == 1


# --- What comes back


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


def chunked(body, size=65536):
    parts = (body[start : start + size] for start in range(0, len(body), size))
    data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return answer_of("HTTP/1.1 500 Oops", data + b"0\r\n\r\n", Transfer_Encoding="chunked")


LONG = b"x" * (MAX_BYTES + 1)
TOO_LONG = "the answer is too long"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        *(
            (
                answer_of(f"HTTP/1.1 {status} x", b"", Link="</style.css>") + ok(b'{"n":2}'),
                f"only an interim answer came ({status})",
            )
            for status in (101, 102, 103)
        ),
        (answer_of("HTTP/1.1 500 Oops", LONG * 2, Content_Length=2 * len(LONG)), TOO_LONG),
        (answer_of("HTTP/1.1 500 Oops", LONG, Connection="close"), TOO_LONG),
        (chunked(LONG * 50), TOO_LONG),
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

    with server(serve) as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        with pytest.raises(TransportError) as caught:
            post(transport)
        assert post(transport).content == b"{}"
    assert (caught.value.left_machine, caught.value.cause.words) == (True, words)
    assert len(connections) == 2


def test_an_answer_as_long_as_the_limit_is_read_and_its_connection_kept():
    body = b"x" * MAX_BYTES
    with (
        server(answering(ok(body), chunked(body), ANSWER)) as port,
        transport_to(f"http://127.0.0.1:{port}") as transport,
    ):
        assert [len(post(transport).content) for _ in range(3)] == [MAX_BYTES, MAX_BYTES, 2]


@pytest.mark.parametrize("path", [UPDATE_USERS, TRACK_EVENTS, GET_USER_FIELDS])
@pytest.mark.parametrize(
    ("status", "size", "fits"),
    [
        (200, MAX_BYTES_OF_MANY, True),
        (200, MAX_BYTES_OF_MANY + 1, False),
        (400, MAX_BYTES_OF_MANY, True),
    ],
)
def test_answers_about_many_rows_or_fields_may_be_longer(path, status, size, fits):
    answer = answer_of(f"HTTP/1.1 {status} x", b"x" * size, Content_Length=size)
    with (
        server(answering(answer)) as port,
        transport_to(f"http://127.0.0.1:{port}") as transport,
    ):
        if fits:
            assert len(transport.send(path, BODY).content) == size
        else:
            with pytest.raises(TransportError):
                transport.send(path, BODY)


def test_huge_answers_to_many_threads_take_little_memory():
    huge = memoryview(chunked(b"x" * 30_000_000))

    def serve(connection):
        with connection, contextlib.suppress(OSError):
            read_request(connection)
            connection.sendall(huge)

    def ask(transport):
        with pytest.raises(TransportError):
            post(transport)

    def serve_beside(connection):
        thread = threading.Thread(target=serve, args=(connection.dup(),))
        thread.start()

    with server(serve_beside) as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        threads = [threading.Thread(target=ask, args=(transport,)) for _ in range(20)]
        tracemalloc.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", gzip.compress(b"{}")), ("deflate", zlib.compress(b"{}")), ("identity", b"{}")],
    ids=["gzip", "deflate", "identity"],
)
def test_a_compressed_answer_is_decoded(coding, body):
    with (
        server(answering(ok(body, Content_Encoding=coding), ANSWER)) as port,
        transport_to(f"http://127.0.0.1:{port}") as transport,
    ):
        assert [post(transport).content for _ in range(2)] == [b"{}", b"{}"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (gzip.compress(b"x" * 50_000_000), "the answer is too long"),
        (b"{}", "the answer cannot be decoded"),
    ],
    ids=["bomb", "no gzip"],
)
def test_what_cannot_be_decoded_in_little_memory_is_no_answer(body, words):
    with server(answering(ok(body, Content_Encoding="gzip"))) as port:
        tracemalloc.start()
        error = error_of(f"http://127.0.0.1:{port}")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (error.left_machine, error.cause.words) == (True, words)
    assert peak < 2_000_000


PIECES = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK", b"HTTP/1.1 500 x", b"HTTP/1.0 200 OK", b"HTTP/1.1 103 x", b"\r\n"),
        *(b"HTTP/1.1 204 x", b"HTTP/9.9 999 x", b"Content-Length: 2", b"Content-Length: -1"),
        *(b"Content-Length: 1, 2", b"Content-Length: 99999999999999999999", b"{}", b"-5", b"0"),
        *(b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Connection: close"),
        *(b"Content-Encoding: gzip, gzip, gzip, gzip, gzip, gzip", b"2", b"ffffffffffffffffff"),
        *(b"Retry-After: 2200000000 JAN 0:0 0", b": x", b"x" * 70_000, b"\xff\x00"),
    ]
)
BYTES = st.binary(max_size=99) | st.lists(PIECES, max_size=9).map(b"\r\n".join)


def test_whatever_comes_is_an_answer_or_a_transport_error():
    sent: list[bytes] = []

    def serve(connection):
        read_request(connection)
        connection.sendall(sent[-1])

    with server(serve) as port, transport_to(f"http://127.0.0.1:{port}") as transport:

        @settings(deadline=None, max_examples=300)
        @given(BYTES)
        def ask(content):
            sent.append(content)
            with contextlib.suppress(TransportError):
                assert 200 <= post(transport).status_code <= 999

        ask()


# --- What is known of a request that fails


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (read_request, "the connection was closed without an answer"),
        (answering(ANSWER[:-1]), "the answer broke off"),
        (answering(b"220 mail.example.com ESMTP\r\n"), "the answer is not HTTP"),
    ],
    ids=["closed", "half", "mail"],
)
def test_a_connection_that_fails_has_its_cause_in_words(serve, words):
    with server(serve) as port:
        assert error_of(f"http://127.0.0.1:{port}").cause.words == words


def test_a_connection_that_is_reset_or_gives_no_answer_says_so(iterable):
    iterable.set_faults(Fault("reset_before"))
    assert error_of(iterable.url).cause.words == "the connection was reset"
    iterable.set_faults(Fault("hang"))
    assert error_of(iterable.url, timeout_s=0.3).cause.words == "no answer within 0.3 s"


def test_a_host_that_is_not_there_says_why(secure):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert error_of(url).cause.words == "the connection was refused"
    assert error_of("http://no.such.host.invalid").cause.words.startswith("DNS ")
    assert error_of(secure.url).cause.words.startswith("TLS failed: ")
    plain = secure.url.replace("https", "http")
    assert error_of(plain).cause.words


def test_a_refused_connection_lets_nothing_leave():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert failure_of(url) == ("NewConnectionError", False)


def test_a_name_that_does_not_resolve_lets_nothing_leave():
    assert failure_of("http://no.such.host.invalid") == ("NameResolutionError", False)


def test_a_connection_that_is_not_accepted_lets_nothing_leave():
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        assert failure_of(url, timeout_s=0.2) == ("ConnectTimeoutError", False)


def test_of_a_tls_handshake_that_fails_nobody_knows_what_has_left():
    """The error is of the same type as after a request."""
    over = threading.Event()
    with server(lambda connection: over.wait(5)) as port:
        failure = failure_of(f"https://127.0.0.1:{port}", timeout_s=0.2)
        over.set()
    assert failure == ("ReadTimeout", True)
    with server(lambda connection: connection.recv(1)) as port:
        _, left_machine = failure_of(f"https://127.0.0.1:{port}")
    assert left_machine


def test_a_server_that_reads_and_closes_may_have_acted():
    with server(read_request) as port:
        assert failure_of(f"http://127.0.0.1:{port}") == ("ConnectionError", True)


def test_a_server_that_reads_nothing_may_have_acted():
    with server(lambda connection: None) as port:
        assert failure_of(f"http://127.0.0.1:{port}") == ("ConnectionError", True)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (Fault("hang"), "ReadTimeout"),
        (Fault("reset_before"), "ConnectionError"),
        (Fault("reset_after"), "ConnectionError"),
        # Known by its name: the head of an answer came.
        (Fault("truncated"), "ProtocolError"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_request_without_a_whole_answer_may_have_been_acted_on(iterable, fault, problem):
    iterable.set_faults(fault)
    assert failure_of(iterable.url, timeout_s=0.3) == (problem, True)


def test_an_answer_that_stops_in_its_body_has_a_name_of_its_own():
    over = threading.Event()

    def serve(connection):
        read_request(connection)
        connection.sendall(ANSWER[:-1])
        over.wait(5)

    with server(serve) as port:
        failure = failure_of(f"http://127.0.0.1:{port}", timeout_s=0.2)
        over.set()
    assert failure == ("ReadTimeoutError", True)


def test_a_failure_does_not_spoil_the_next_request(transport, iterable):
    iterable.set_faults(Fault("reset_after", times=1))
    with pytest.raises(TransportError):
        post(transport)
    assert post(transport).status_code == 200


def test_a_kept_connection_that_the_server_has_closed_is_not_used_again():
    requests = []

    def serve(connection):
        requests.append(read_request(connection))
        connection.sendall(ANSWER)

    with server(serve) as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        for _ in range(3):
            assert post(transport).status_code == 200
            time.sleep(0.05)  # for the server's end of the connection to come
    assert len(requests) == 3


def test_a_kept_connection_that_closes_under_a_request_may_have_carried_it():
    def serve(connection):
        read_request(connection)
        connection.sendall(ANSWER)
        read_request(connection)

    with server(serve) as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        post(transport)
        with pytest.raises(TransportError) as caught:
            post(transport)
    assert (caught.value.problem, caught.value.left_machine) == ("ConnectionError", True)
