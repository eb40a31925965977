"""HTTP to one host over kept connections, and whether a request without an answer may have left.

Prepared requests go through the adapter of requests. A requests.Session would besides follow
redirects, keep cookies and look into the environment for proxies and passwords: without one the key
goes nowhere but to the base URL's host. A proxy that is named is asked for a tunnel, and sees no
more of the requests than the host's name.
"""

import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import exceptions
from urllib3.util import Retry

# Connections to keep open: as many as rows may be in flight.
MOST_CONNECTIONS = 2000
# Bytes of an answer, decoded: enough for a thousand refused rows, or thirty thousand fields.
MAX_BYTES = 1_000_000
MAX_RETRY_AFTER_S = 60.0

# With these there was no connection yet.
_BEFORE_CONNECTION = (
    exceptions.NewConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyError,
)


@dataclass(frozen=True)
class Network:
    """How this machine reaches others.

    *timeout_s* bounds connecting, and each wait for some bytes of an answer. The authorities in
    *ca_file* are trusted besides the public ones. *proxy* is the http URL of one that leads to an
    https host by CONNECT.
    """

    timeout_s: float = 30.0
    ca_file: Path | None = None
    proxy: str = ""

    def tls_context(self) -> ssl.SSLContext:
        """Return a TLS context for all connections: loading the authorities takes long."""
        context = _SharedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
            # A company often names the lower one of its authorities.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


# By no proxy, and trusting the public authorities alone.
DIRECT = Network()


class _SharedContext(ssl.SSLContext):
    """A TLS context that no connection changes."""

    def set_alpn_protocols(self, alpn_protocols: object) -> None:
        """Do nothing: urllib3 would set them for each connection, while OpenSSL may copy them."""


class Response(NamedTuple):
    """A whole answer, of whatever HTTP status."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def retry_after_s(self) -> float:
        """The pause that a ``Retry-After`` header in seconds asks for, a minute at most; else 0."""
        try:
            seconds = float(self.headers.get("Retry-After", 0))
        except ValueError:
            return 0.0
        # In this order "nan" becomes the upper limit.
        return max(0.0, min(MAX_RETRY_AFTER_S, seconds))


class Cause(NamedTuple):
    """What came of a request in place of an answer, and what to do about it.

    One that is ``lasting`` would be met again at once, so that to repeat the request is no use.
    """

    words: str
    advice: str = ""
    lasting: bool = False


ADDRESS = "check ITERABLE_API_BASE_URL and the firewall. The only proxy used is ITERABLE_PROXY"
UNKNOWN = Cause("the connection failed", ADDRESS)


class TransportError(Exception):
    """Failure to get a whole answer to a request.

    ``problem`` is the name of the error, such as ReadTimeout or NewConnectionError, and ``cause``
    says it in words. ``left_machine`` is False when certainly nothing of the request went out, so
    that the server cannot have acted on it.
    """

    def __init__(self, problem: str, *, left_machine: bool, cause: Cause = UNKNOWN) -> None:
        super().__init__(problem)
        self.problem = problem
        self.left_machine = left_machine
        self.cause = cause


class Transport:
    """Sends requests to the API at *base_url*; may be shared by threads."""

    def __init__(self, base_url: str, api_key: str, network: Network = DIRECT) -> None:
        self._base_url = f"{base_url.rstrip('/')}/api/"
        self._headers = CaseInsensitiveDict[str | bytes](
            {
                "Api-Key": api_key,
                "Content-Type": "application/json",
                "User-Agent": "iterable-sync",
            }
        )
        self._timeout_s = network.timeout_s
        self._proxies = {"https": network.proxy} if network.proxy else {}
        self._adapter = _Adapter(network.tls_context())

    def send(self, path: str, body: bytes | None = None) -> Response:
        """Send *body* to the endpoint *path*, or ask it without one; raises TransportError."""
        try:
            response = self._adapter.send(
                self._request(path, body),
                stream=True,
                timeout=self._timeout_s,
                proxies=self._proxies,
            )
            return _whole(response)
        except (requests.RequestException, exceptions.HTTPError) as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the connections that are not in use, and the others after their answer."""
        self._adapter.close()

    def _request(self, path: str, body: bytes | None) -> requests.PreparedRequest:
        """Return a request, prepared here: its URL and headers need no look each time."""
        request = requests.PreparedRequest()
        request.method = "GET" if body is None else "POST"
        request.url = self._base_url + path
        request.headers = self._headers.copy()
        request.prepare_body(body, None)
        return request

    def _failure(self, error: requests.RequestException | exceptions.HTTPError) -> TransportError:
        """Return what *error* means: of requests, which has urllib3's own inside, or of urllib3."""
        reason = error.args[0] if isinstance(error, requests.RequestException) else error
        connected = not isinstance(reason, _BEFORE_CONNECTION)
        cause = cause_of(error, "answer" if connected else "connection", self._timeout_s)
        if isinstance(reason, exceptions.ProxyError):
            cause = _of_proxy(cause, str(reason))
        # Nothing is sent under a certificate that is not trusted.
        left_machine = connected and not cause.lasting
        return TransportError(type(error).__name__, left_machine=left_machine, cause=cause)


def _of_proxy(cause: Cause, error: str) -> Cause:
    """Return why a proxy did not lead to the host. Its own words are not quoted."""
    if found := re.search(r"Tunnel connection failed: (\d+)", error):
        return Cause(f"the proxy answered {found[1]}", PROXY, lasting=found[1].startswith("4"))
    return cause._replace(words=f"the proxy: {cause.words}", advice=PROXY)


def _whole(response: requests.Response) -> Response:
    """Read the answer to its end; its connection is closed if it is none, or too long."""
    status = response.status_code
    if status < 200:
        raise _unusable(response, f"only an interim answer came ({status})")
    try:
        content: bytes = response.raw.read(MAX_BYTES + 1, decode_content=True)
    except exceptions.DecodeError:
        raise _unusable(response, "the answer cannot be decoded") from None
    if len(content) > MAX_BYTES:
        raise _unusable(response, "the answer is too long")
    return Response(status, response.headers, content)


def _unusable(response: requests.Response, words: str) -> TransportError:
    response.close()
    return TransportError("UnusableAnswer", left_machine=True, cause=Cause(words, BETWEEN))


class _Adapter(HTTPAdapter):
    """Connects under one TLS context, which has the authorities already."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(1, MOST_CONNECTIONS, Retry(total=False))  # the client repeats requests

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what tells pools of connections apart: the host, and how to connect to it."""
        host, _options = super().build_connection_pool_key_attributes(request, verify=True)
        return host, {"ssl_context": self._context}

    def cert_verify(self, *_args: object, **_options: object) -> None:
        """Load no authorities for a connection."""


# --- Why a request got no answer: in words that quote nothing but the host's name, and advice

PROXY = "check ITERABLE_PROXY, its user and password, and the hosts that it allows"
BETWEEN = "check the proxy or firewall on the way to Iterable, or try again later"
TLS = (
    "check ITERABLE_API_BASE_URL, this machine's clock and CA certificates; where a company "
    "inspects TLS, ITERABLE_CA_FILE must name its CA"
)
DNS = "check ITERABLE_API_BASE_URL, this machine's network and DNS"

# By the class of an error. The first line decides that fits the error, or any of those that led to
# it. A cause's words may have holes, for cause_of() to fill.
CAUSES: tuple[tuple[type[BaseException], Cause], ...] = (
    (socket.gaierror, Cause("DNS has no address for the host", DNS)),
    (ssl.SSLCertVerificationError, Cause("TLS failed: {reason}", TLS, lasting=True)),
    (ssl.SSLError, Cause("TLS failed: {reason}", TLS)),
    (TimeoutError, Cause("no {awaited} within {seconds:g} s", BETWEEN)),
    (ConnectionRefusedError, Cause("{reason}", ADDRESS)),
    (RemoteDisconnected, Cause("the connection was closed without an answer", BETWEEN)),
    (ConnectionError, Cause("{reason}", BETWEEN)),
    (OSError, Cause("{reason}", "check this machine's network, and its limits of files and ports")),
    (IncompleteRead, Cause("the answer broke off", BETWEEN)),
    (HTTPException, Cause("the answer is not HTTP", ADDRESS)),
)


def cause_of(error: BaseException, awaited: str, seconds: float) -> Cause:
    """Return what *error* came of; after a timeout *awaited* did not come within *seconds*."""
    errors = list(_led_to(error))
    for kind, cause in CAUSES:
        for each in errors:
            if isinstance(each, kind):
                holes = {"reason": _reason(each), "awaited": awaited, "seconds": seconds}
                return cause._replace(words=cause.words.format(**holes))
    return UNKNOWN


def _led_to(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and those that led to it, but not those of requests, which are OSErrors too."""
    while error is not None:
        if not isinstance(error, requests.RequestException):
            yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """Return what is wrong with a certificate, or what TLS or the system says."""
    said = (getattr(error, name, None) for name in ("verify_message", "reason", "strerror"))
    texts = [text for text in said if isinstance(text, str)]
    return texts[0].replace("_", " ").lower() if texts else "no reason given"
