"""Sends HTTP requests to one host, and says whether a request without an answer may have left.

It uses the adapter of requests without a Session, which would follow redirects, keep cookies and
read proxies and passwords from the environment: so the API key goes only to the base URL's host. A
proxy is asked for a tunnel, and sees only the host's name.
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

# Connections to keep open: the maximum number of rows in flight.
MOST_CONNECTIONS = 2000
# Longest answer in bytes: enough for a thousand refused rows, or thirty thousand fields.
MAX_BYTES = 1_000_000
MAX_RETRY_AFTER_S = 60.0

# Errors before there is a connection.
_BEFORE_CONNECTION = (
    exceptions.NewConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyError,
)


@dataclass(frozen=True)
class Network:
    """How this machine reaches other hosts.

    *timeout_s* limits connecting, and each wait for bytes of an answer. The CAs in *ca_file* are
    trusted in addition to the public ones. *proxy* is the http URL of a proxy that supports CONNECT
    to https hosts.
    """

    timeout_s: float = 30.0
    ca_file: Path | None = None
    proxy: str = ""

    def tls_context(self) -> ssl.SSLContext:
        """Return a TLS context for all connections, because loading the CAs takes long."""
        context = _SharedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
            # Companies often name an intermediate CA instead of the root.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


# Without a proxy, trusting only the public CAs.
DIRECT = Network()


class _SharedContext(ssl.SSLContext):
    """A TLS context that no connection changes."""

    def set_alpn_protocols(self, alpn_protocols: object) -> None:
        """Do nothing: urllib3 would set them per connection while OpenSSL may copy them."""


class Response(NamedTuple):
    """A complete answer, with any HTTP status."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def retry_after_s(self) -> float:
        """The pause in a ``Retry-After`` header in seconds, a minute at most; else 0."""
        try:
            seconds = float(self.headers.get("Retry-After", 0))
        except ValueError:
            return 0.0
        # In this order "nan" becomes the upper limit.
        return max(0.0, min(MAX_RETRY_AFTER_S, seconds))


class Cause(NamedTuple):
    """Why a request got no answer, and what to do about it.

    If the cause is ``lasting``, a retry would fail in the same way.
    """

    words: str
    advice: str = ""
    lasting: bool = False


ADDRESS = "check ITERABLE_API_BASE_URL and the firewall. The only proxy used is ITERABLE_PROXY"
UNKNOWN = Cause("the connection failed", ADDRESS)


class TransportError(Exception):
    """A request got no complete answer.

    ``problem`` is the name of the error, such as ReadTimeout or NewConnectionError, and ``cause``
    explains it. ``left_machine`` is False if certainly nothing of the request went out, so that the
    server cannot have acted on it.
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
            {"Api-Key": api_key, "Content-Type": "application/json", "User-Agent": "iterable-sync"}
        )
        self._timeout_s = network.timeout_s
        self._proxies = {"https": network.proxy} if network.proxy else {}
        self._adapter = _Adapter(network.tls_context())

    def send(self, path: str, body: bytes | None = None) -> Response:
        """Send *body* to the endpoint *path*, or GET it without one; raises TransportError."""
        try:
            response = self._adapter.send(
                self._request(path, body),
                stream=True,
                timeout=self._timeout_s,
                proxies=self._proxies,
            )
            return _read_answer(response)
        except (requests.RequestException, exceptions.HTTPError) as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the idle connections now, and the others after their answer."""
        self._adapter.close()

    def _request(self, path: str, body: bytes | None) -> requests.PreparedRequest:
        """Return a prepared request; requests would check URL and headers each time."""
        request = requests.PreparedRequest()
        request.method = "GET" if body is None else "POST"
        request.url = self._base_url + path
        request.headers = self._headers.copy()
        request.prepare_body(body, None)
        return request

    def _failure(self, error: requests.RequestException | exceptions.HTTPError) -> TransportError:
        """Return the meaning of *error*, from urllib3 or from requests, which wraps urllib3's."""
        reason = error.args[0] if isinstance(error, requests.RequestException) else error
        connected = not isinstance(reason, _BEFORE_CONNECTION)
        cause = cause_of(error, "answer" if connected else "connection", self._timeout_s)
        if isinstance(reason, exceptions.ProxyError):
            cause = _proxy_cause(cause, str(reason))
        # Nothing is sent if the certificate is not trusted.
        left_machine = connected and not cause.lasting
        return TransportError(type(error).__name__, left_machine=left_machine, cause=cause)


def _proxy_cause(cause: Cause, error: str) -> Cause:
    """Return why a proxy did not connect to the host; its message is not quoted."""
    if found := re.search(r"Tunnel connection failed: (\d+)", error):
        return Cause(f"the proxy answered {found[1]}", PROXY, lasting=found[1].startswith("4"))
    return cause._replace(words=f"the proxy: {cause.words}", advice=PROXY)


def _read_answer(response: requests.Response) -> Response:
    """Read the complete answer; close the connection if it is unusable or too long."""
    status, content = response.status_code, b""
    if status >= 200:
        content = response.raw.read(MAX_BYTES + 1, decode_content=True)
        if len(content) <= MAX_BYTES:
            return Response(status, response.headers, content)
    response.close()
    words = "the answer is too long" if content else f"only an interim answer came ({status})"
    raise TransportError("UnusableAnswer", left_machine=True, cause=Cause(words, BETWEEN))


class _Adapter(HTTPAdapter):
    """Connects with one TLS context, which has loaded the CAs already."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(1, MOST_CONNECTIONS, Retry(total=False))  # the client retries

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the key of a connection pool: the host, and how to connect to it."""
        host, _options = super().build_connection_pool_key_attributes(request, verify=True)
        return host, {"ssl_context": self._context}

    def cert_verify(self, *_args: object, **_options: object) -> None:
        """Load no CAs for a connection."""


# --- Why a request got no answer, without quoting anything but the host's name, and advice

PROXY = "check ITERABLE_PROXY, its user and password, and the hosts that it allows"
BETWEEN = "check the proxy or firewall on the way to Iterable, or try again later"
TLS = (
    "check ITERABLE_API_BASE_URL, this machine's clock and CA certificates; where a company "
    "inspects TLS, ITERABLE_CA_FILE must name its CA"
)
DNS = "check ITERABLE_API_BASE_URL, this machine's network and DNS"

# Causes by the class of the error. The first line that fits the error, or one that led to it,
# decides. cause_of() fills the placeholders in the words.
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
    (exceptions.DecodeError, Cause("the answer cannot be decoded", BETWEEN)),
    (HTTPException, Cause("the answer is not HTTP", ADDRESS)),
)


def cause_of(error: BaseException, awaited: str, seconds: float) -> Cause:
    """Return the cause of *error*; after a timeout *awaited* did not come within *seconds*."""
    errors = list(_chain_of(error))
    for kind, cause in CAUSES:
        for each in errors:
            if isinstance(each, kind):
                holes = {"reason": _reason(each), "awaited": awaited, "seconds": seconds}
                return cause._replace(words=cause.words.format(**holes))
    return UNKNOWN


def _chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and those that led to it, without those of requests, which are OSErrors."""
    while error is not None:
        if not isinstance(error, requests.RequestException):
            yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """Return the reason that the certificate check, TLS or the system gives."""
    said = (getattr(error, name, None) for name in ("verify_message", "reason", "strerror"))
    texts = [text for text in said if isinstance(text, str)]
    return texts[0].replace("_", " ").lower() if texts else "no reason given"
