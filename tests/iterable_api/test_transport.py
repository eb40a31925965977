"""Requests on real sockets: what goes over the wire, and what is known of one that fails."""

import contextlib
import json
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

import iterable_api.transport
from iterable_api.rate_limiter import Permit
from iterable_api.transport import Transport, TransportError
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


def post(transport, permit=None):
    return transport.post(PATH, BODY, permit or Permit(0.0))


def failure_of(url, timeout_s=5.0):
    """Return the problem of a request that fails, and whether it left the machine."""
    with transport_to(url, timeout_s) as transport, pytest.raises(TransportError) as caught:
        post(transport)
    return caught.value.problem, caught.value.left_machine


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
    assert transport.get("users/getFields").status_code == 200
    (request,) = iterable.requests
    assert (request.method, request.path, request.body) == ("GET", "/api/users/getFields", b"")
    assert not {"transfer-encoding", "content-length"} & set(request.headers)


def test_the_base_url_may_end_in_a_slash(iterable):
    with transport_to(f"{iterable.url}/") as transport:
        assert post(transport).status_code == 200


def test_a_large_body_arrives_whole(transport, iterable):
    body = json.dumps({"email": "a@example.com", "dataFields": {"page": "x" * 3_000_000}}).encode()
    assert transport.post(PATH, body, Permit(0.0)).status_code == 200
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


def test_the_permit_is_told_when_the_request_is_on_the_wire(transport, iterable):
    iterable.change(latency_ms=300)
    permit, before_s = Permit(0.0), time.monotonic()
    post(transport, permit)
    assert before_s < permit.departed_s < time.monotonic() - 0.25


# --- What is not looked at


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
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "ca.pem"))
    permits = [Permit(0.0), Permit(0.0)]
    with transport_to(secure.url) as transport:
        for permit in permits:
            assert post(transport, permit).content == b"{}"
            assert permit.departed_s > 0
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
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "ca.pem"))
    url = secure.url.replace("127.0.0.1", "localhost")
    assert failure_of(url) == ("SSLError", False)
    assert secure.seen == []


# --- What is known of a request that fails


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
        assert failure_of(url, timeout_s=0.2) == ("ConnectTimeout", False)


def test_a_tls_handshake_that_stalls_lets_nothing_leave():
    over = threading.Event()
    with server(lambda connection: over.wait(5)) as port:
        problem, left_machine = failure_of(f"https://127.0.0.1:{port}", timeout_s=0.2)
        over.set()
    assert (problem, left_machine) == ("ReadTimeout", False)


def test_a_tls_handshake_that_breaks_lets_nothing_leave():
    with server(lambda connection: connection.recv(1)) as port:
        problem, left_machine = failure_of(f"https://127.0.0.1:{port}")
    assert problem in {"ConnectionError", "SSLError"}
    assert not left_machine


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


def test_an_answer_that_trickles_in_is_ended_by_the_watchdog(monkeypatch):
    monkeypatch.setattr(iterable_api.transport, "WATCH_INTERVAL_S", 0.05)

    def serve(connection):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    began_s = time.monotonic()
    with server(serve) as port:
        assert failure_of(f"http://127.0.0.1:{port}", timeout_s=0.2) == ("ProtocolError", True)
    assert 0.4 <= time.monotonic() - began_s < 3


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


def test_a_closed_transport_sends_nothing(iterable):
    with transport_to(iterable.url) as transport:
        post(transport)
    with pytest.raises(TransportError) as caught:
        post(transport)
    assert (caught.value.problem, caught.value.left_machine) == ("ConnectionError", False)
    assert len(iterable.requests) == 1
