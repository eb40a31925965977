"""The way to Iterable by a company's proxy, and under its own certificates."""

import contextlib
import socket
import ssl
from urllib.parse import urlsplit

import pytest
import trustme

from iterable_api import transport
from iterable_api.answers import Repeat, judge_failure
from iterable_api.transport import Transport, TransportError
from iterable_api.user_fields import fetch_user_fields
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


@contextlib.contextmanager
def transport_to(url, timeout_s=5.0, **way):
    transport = Transport(url, KEY, timeout_s, 10, **way)
    try:
        yield transport
    finally:
        transport.close()


def post(transport):
    return transport.send("users/update", BODY)


def error_of(url, timeout_s=5.0, **way):
    with transport_to(url, timeout_s, **way) as transport, pytest.raises(TransportError) as caught:
        post(transport)
    return caught.value


# --- A company's own authority


def test_a_server_of_a_private_authority_is_trusted_when_its_file_is_named(
    secure_url, ca_file, iterable
):
    with transport_to(secure_url, ca_file=ca_file) as transport:
        assert post(transport).status_code == 200
    assert len(iterable.requests) == 1


def test_the_public_authorities_are_trusted_besides(
    secure_url, ca_file, iterable, monkeypatch, tmp_path
):
    other = trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setattr("iterable_api.transport.DEFAULT_CA_BUNDLE_PATH", ca_file)
    with transport_to(secure_url, ca_file=tmp_path / "other.pem") as transport:
        assert post(transport).status_code == 200


def test_a_file_may_hold_the_lower_authority_alone(iterable, authority, tmp_path):
    lower = authority.create_child_ca()
    lower.cert_pem.write_to_path(tmp_path / "lower.pem")
    with (
        tunnels.with_tls(urlsplit(iterable.url).port, lower) as url,
        transport_to(url, ca_file=tmp_path / "lower.pem") as transport,
    ):
        assert post(transport).status_code == 200


def test_strictness_that_companies_certificates_fail_at_is_not_asked_for(ca_file):
    context = transport._tls_context(ca_file)
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_certificate_that_is_not_trusted_is_met_once_and_nothing_is_sent(secure_url, iterable):
    client = IterableClient(KEY, secure_url, max_attempts=5)
    with client:
        outcome = client.update_user("ann@example.com", {})
    assert (outcome.status, outcome.attempts) == (CallStatus.UNAVAILABLE, 1)
    assert "TLS failed: " in outcome.message
    assert "ITERABLE_CA_FILE must name its CA" in outcome.message
    assert client.retries == 0
    assert not iterable.requests


def test_a_certificate_of_another_host_is_met_once_too(secure_url, ca_file, iterable):
    error = error_of(secure_url.replace("127.0.0.1", "localhost"), ca_file=ca_file)
    assert (error.left_machine, judge_failure(error).repeat) == (False, Repeat.NEVER)
    assert "ITERABLE_CA_FILE" in error.cause.advice
    assert not iterable.requests


def test_a_handshake_that_breaks_may_do_better_at_the_next_try():
    with tunnels.accepting(lambda connection: connection.recv(1)) as port:
        error = error_of(f"https://127.0.0.1:{port}")
    assert judge_failure(error).repeat is Repeat.BACKOFF


# --- A proxy


def test_requests_go_through_one_tunnel_and_the_proxy_sees_no_key(secure_url, ca_file, iterable):
    with (
        tunnels.proxy() as proxy,
        transport_to(secure_url, ca_file=ca_file, proxy=proxy.url) as transport,
    ):
        assert [post(transport).status_code for _ in range(3)] == [200] * 3
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{urlsplit(secure_url).port} HTTP/1.".encode())
    assert b"api-key" not in head.lower()
    seen = head + b"".join(proxy.relayed)
    assert not any(secret in seen for secret in (KEY.encode(), b"ann@example.com", b"users/update"))
    assert len(iterable.requests) == 3
    assert "proxy-authorization" not in iterable.requests[0].headers


def test_a_user_and_a_password_are_for_the_proxy_alone(secure_url, ca_file, iterable):
    with tunnels.proxy() as proxy:
        named = proxy.url.replace("//", "//me:p%40ss@")
        with transport_to(secure_url, ca_file=ca_file, proxy=named) as transport:
            post(transport)
    assert b"\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n" in proxy.heads[0]
    assert "proxy-authorization" not in iterable.requests[0].headers


@pytest.mark.parametrize(
    ("answer", "words", "repeat"),
    [
        (b"HTTP/1.1 407 Sign in\r\n\r\n", "the proxy answered 407", Repeat.NEVER),
        (b"HTTP/1.1 403 No\r\n\r\n", "the proxy answered 403", Repeat.NEVER),
        (b"HTTP/1.1 502 x\r\n\r\n", "the proxy answered 502", Repeat.BACKOFF),
    ],
)
def test_a_proxy_that_leads_nowhere_is_told_and_nothing_has_left(
    secure_url, ca_file, iterable, answer, words, repeat
):
    with tunnels.proxy(answer) as proxy:
        error = error_of(secure_url, ca_file=ca_file, proxy=proxy.url)
    assert error.cause.words.startswith(words)
    assert "ITERABLE_PROXY" in error.cause.advice
    judged = judge_failure(error)
    assert (error.left_machine, judged.repeat) == (False, repeat)
    assert judged.outcome.status is CallStatus.UNAVAILABLE
    assert not iterable.requests


def test_a_proxy_that_is_not_there_is_told(secure_url):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = error_of(secure_url, proxy=f"http://127.0.0.1:{port}")
    assert error.cause.words == "the proxy: the connection was refused"
    assert not error.left_machine


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "the connection was closed without an answer"),
        (b"no HTTP\r\n\r\n", "the answer is not HTTP"),
    ],
)
def test_of_a_proxy_that_breaks_off_nobody_knows_what_has_left(
    secure_url, ca_file, iterable, answer, words
):
    """The error is of the same type as after a request."""
    with tunnels.proxy(answer) as proxy:
        error = error_of(secure_url, ca_file=ca_file, proxy=proxy.url)
    assert (error.left_machine, error.cause.words) == (True, words)
    assert judge_failure(error).repeat is Repeat.BACKOFF
    assert not iterable.requests


def test_a_proxy_that_says_nothing_is_not_waited_for_long(secure_url):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert error_of(secure_url, 0.1, proxy=proxy).cause.words == "no answer within 0.1 s"


def test_a_proxy_that_inspects_without_its_authority_gets_no_key(secure_url, iterable):
    with tunnels.proxy() as proxy:
        error = error_of(secure_url, proxy=proxy.url)
    assert error.cause.words.startswith("TLS failed: ")
    assert "ITERABLE_CA_FILE" in error.cause.advice
    assert (error.left_machine, error.cause.lasting) == (False, True)
    assert not iterable.requests


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_the_environments_proxies_are_not_used(secure_url, ca_file, monkeypatch, name):
    with tunnels.proxy() as proxy:
        monkeypatch.setenv(name, proxy.url)
        with transport_to(secure_url, ca_file=ca_file) as transport:
            assert post(transport).status_code == 200
    assert not proxy.heads


def test_the_environment_does_not_lead_around_the_proxy(secure_url, ca_file, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with (
        tunnels.proxy() as proxy,
        transport_to(secure_url, ca_file=ca_file, proxy=proxy.url) as transport,
    ):
        assert post(transport).status_code == 200
    assert proxy.heads


def test_the_question_of_a_check_goes_the_same_way(secure_url, ca_file):
    with (
        tunnels.proxy() as proxy,
        transport_to(secure_url, ca_file=ca_file, proxy=proxy.url) as transport,
    ):
        fields = fetch_user_fields(transport)
    assert fields.types is not None
    assert len(proxy.heads) == 1
