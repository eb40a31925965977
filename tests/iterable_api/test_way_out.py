"""The way to Iterable over TLS, by a company's proxy, and under its own certificates."""

import contextlib
import socket
import ssl
from urllib.parse import urlsplit

import pytest
import trustme

from iterable_api import transport as transport_module
from iterable_api.answers import Repeat, fetch_user_fields, judge_failure
from iterable_api.transport import DIRECT, Network, Transport, TransportError
from iterable_client import IterableClient
from records.outcomes import CallStatus
from tests import tunnels

KEY = "0123456789-key"
BODY = b'{"email":"ann@example.com","dataFields":{}}'


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
def secure_url(iterable, authority):
    """Return the https URL of an Iterable whose certificate only *authority* vouches for."""
    iterable.change(api_key=KEY)
    with tunnels.with_tls(urlsplit(iterable.url).port, authority) as url:
        yield url


def transport_to(url, network):
    return contextlib.closing(Transport(url, KEY, network))


def post(transport):
    return transport.send("users/update", BODY)


def status_at(url, network=DIRECT):
    with transport_to(url, network) as transport:
        return post(transport).status_code


def error_at(url, network=DIRECT):
    with pytest.raises(TransportError) as caught:
        status_at(url, network)
    return caught.value


# --- TLS


def test_the_public_authorities_are_trusted_besides_a_companys(
    secure_url, ca_file, monkeypatch, tmp_path
):
    assert status_at(secure_url, Network(ca_file=ca_file)) == 200
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setattr(transport_module, "DEFAULT_CA_BUNDLE_PATH", ca_file)
    assert status_at(secure_url, Network(ca_file=tmp_path / "other.pem")) == 200


def test_a_file_may_hold_the_lower_authority_alone(iterable, authority, tmp_path):
    lower = authority.create_child_ca()
    lower.cert_pem.write_to_path(tmp_path / "lower.pem")
    with tunnels.with_tls(urlsplit(iterable.url).port, lower) as url:
        assert status_at(url, Network(ca_file=tmp_path / "lower.pem")) == 200


def test_strictness_that_companies_certificates_fail_at_is_not_asked_for(ca_file):
    context = Network(ca_file=ca_file).tls_context()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_certificate_that_is_not_trusted_is_met_once_whatever_the_environment_says(
    secure_url, ca_file, iterable, monkeypatch
):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(ca_file))
    with IterableClient(KEY, secure_url, max_attempts=5) as client:
        outcome = client.update_user("ann@example.com", {})
    assert (outcome.status, outcome.attempts) == (CallStatus.UNAVAILABLE, 1)
    assert outcome.message.startswith("SSLError: TLS failed: unable to get local issuer")
    assert "ITERABLE_CA_FILE must name its CA" in outcome.message
    # Nor is that of another host.
    error = error_at(secure_url.replace("127.0.0.1", "localhost"), Network(ca_file=ca_file))
    assert (error.left_machine, judge_failure(error).repeat) == (False, Repeat.NEVER)
    assert not iterable.requests


def test_a_handshake_that_breaks_may_do_better_at_the_next_try():
    """Nobody knows what has left: the error is of the same type as after a request."""
    with tunnels.accepting(lambda connection: connection.sendall(b"no TLS")) as port:
        error = error_at(f"https://127.0.0.1:{port}")
    assert error.cause.words == "TLS failed: wrong version number"
    assert (error.left_machine, judge_failure(error).repeat) == (True, Repeat.BACKOFF)


# --- A proxy


def test_requests_go_through_one_tunnel_and_the_proxy_sees_no_key(secure_url, ca_file, iterable):
    with tunnels.proxy() as proxy:
        named = proxy.url.replace("//", "//me:p%40ss@")
        with transport_to(secure_url, Network(ca_file=ca_file, proxy=named)) as transport:
            assert [post(transport).status_code for _ in range(2)] == [200, 200]
            assert fetch_user_fields(transport).field_types is not None
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{urlsplit(secure_url).port} HTTP/1.".encode())
    # The user and the password are for the proxy alone.
    assert b"\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n" in head
    assert "proxy-authorization" not in iterable.requests[0].headers
    seen = head + b"".join(proxy.relayed)
    for secret in (KEY.encode(), b"ann@example.com", b"users/update", b"api-key", b"Api-Key"):
        assert secret not in seen
    assert len(iterable.requests) == 3


@pytest.mark.parametrize(
    ("answer", "words", "left_machine", "repeat"),
    [
        (b"HTTP/1.1 407 Sign in\r\n\r\n", "the proxy answered 407", False, Repeat.NEVER),
        (b"HTTP/1.1 403 No\r\n\r\n", "the proxy answered 403", False, Repeat.NEVER),
        (b"HTTP/1.1 502 x\r\n\r\n", "the proxy answered 502", False, Repeat.BACKOFF),
        # The error is of the same type as after a request: nobody knows what has left.
        (b"", "the connection was closed without an answer", True, Repeat.BACKOFF),
        (b"no HTTP\r\n\r\n", "the answer is not HTTP", True, Repeat.BACKOFF),
    ],
)
def test_a_proxy_that_leads_nowhere_is_told(
    secure_url, ca_file, iterable, answer, words, left_machine, repeat
):
    with tunnels.proxy(answer) as proxy:
        error = error_at(secure_url, Network(ca_file=ca_file, proxy=proxy.url))
    assert error.cause.words == words
    assert ("ITERABLE_PROXY, its user" in error.cause.advice) is not left_machine
    assert (error.left_machine, judge_failure(error).repeat) == (left_machine, repeat)
    assert not iterable.requests


def test_a_proxy_that_is_not_there_or_says_nothing_is_told(secure_url):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = error_at(secure_url, Network(timeout_s=0.1, proxy=proxy))
    assert error.cause.words == "no answer within 0.1 s"
    error = error_at(secure_url, Network(proxy=proxy))
    assert (error.cause.words, error.left_machine) == ("the proxy: connection refused", False)


def test_the_environment_leads_neither_to_a_proxy_nor_around_one_nor_to_a_netrc(
    secure_url, ca_file, iterable, monkeypatch, tmp_path
):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with tunnels.proxy() as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert status_at(secure_url, Network(ca_file=ca_file)) == 200
        assert not proxy.heads
        monkeypatch.setenv("NO_PROXY", "*")
        assert status_at(secure_url, Network(ca_file=ca_file, proxy=proxy.url)) == 200
        assert proxy.heads
    assert "authorization" not in iterable.requests[0].headers
