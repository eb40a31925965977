"""HTTP to one host over kept connections, and whether a request without an answer may have left.

Prepared requests go through the adapter of requests. A requests.Session would besides follow
redirects, keep cookies and look into the environment for proxies and passwords: without one the key
goes nowhere but to the base URL's host. A proxy that is named is asked for a tunnel, and sees no
more of the requests than the host's name.
"""

import errno
import http.client
import re
import socket
import ssl
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import exceptions
from urllib3.util import Retry

from iterable_api.endpoints import GET_USER_FIELDS, TRACK_EVENTS, UPDATE_USERS

CONNECT_TIMEOUT_S = 10.0
# Bytes of an answer, decoded. Only answers about many rows, or fields, are long.
MAX_BYTES = 100_000
MAX_BYTES_OF_MANY = 8_000_000
ABOUT_MANY = frozenset({UPDATE_USERS, TRACK_EVENTS, GET_USER_FIELDS})
MAX_RETRY_AFTER_S = 60.0

# With these there was no connection yet.
_BEFORE_CONNECTION = (
    exceptions.NewConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyError,
)


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


ADDRESS = "check ITERABLE_API_BASE_URL and the firewall. The job uses no proxy but ITERABLE_PROXY"
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
    """Sends requests to the API at *base_url*; may be shared by threads.

    *timeout_s* bounds each wait for some bytes of an answer; it bounds connecting too, where
    ``CONNECT_TIMEOUT_S`` is not less. *connections* are kept open. The authorities in *ca_file* are
    trusted besides the public ones. *proxy* is the http URL of one that leads to a host by CONNECT;
    it is for an https *base_url* alone.
    """

    def __init__(  # noqa: PLR0913 - the last two by name
        self,
        base_url: str,
        api_key: str,
        timeout_s: float,
        connections: int,
        *,
        ca_file: Path | None = None,
        proxy: str = "",
    ) -> None:
        self._base_url = f"{base_url.rstrip('/')}/api/"
        self._headers = {
            "Api-Key": api_key,
            "Content-Type": "application/json",
            "User-Agent": "iterable-sync",
        }
        self._answer_s = timeout_s
        self._connect_s = min(CONNECT_TIMEOUT_S, timeout_s)
        self._proxies = {"https": proxy} if proxy else {}
        self._prepared: dict[str, requests.PreparedRequest] = {}
        self._adapter = _Adapter(_tls_context(ca_file), connections)

    def send(self, path: str, body: bytes | None = None) -> Response:
        """Send *body* to the endpoint *path*, or ask it without one; raises TransportError."""
        try:
            response = self._adapter.send(
                self._request(path, body),
                stream=True,
                timeout=(self._connect_s, self._answer_s),
                proxies=self._proxies,
            )
            return _whole(response, path)
        except (requests.RequestException, exceptions.HTTPError) as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the connections that are not in use, and the others after their answer."""
        self._adapter.close()

    def _request(self, path: str, body: bytes | None) -> requests.PreparedRequest:
        """Return a copy of the one prepared for *path*, which takes a fifth of the time."""
        if path not in self._prepared:
            method = "GET" if body is None else "POST"
            request = requests.Request(method, self._base_url + path, headers=self._headers)
            self._prepared[path] = request.prepare()
        prepared = self._prepared[path].copy()
        if body is not None:
            prepared.prepare_body(body, None)
        return prepared

    def _failure(self, error: requests.RequestException | exceptions.HTTPError) -> TransportError:
        """Return what *error* means: of requests, which has urllib3's own inside, or of urllib3."""
        reason = error.args[0] if isinstance(error, requests.RequestException) else error
        connected = not isinstance(reason, _BEFORE_CONNECTION)
        seconds = self._answer_s if connected else self._connect_s
        cause = cause_of(error, "answer" if connected else "connection", seconds)
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


def _whole(response: requests.Response, path: str) -> Response:
    """Read the answer to its end; its connection is closed if it is none, or too long."""
    status = response.status_code
    most = MAX_BYTES_OF_MANY if path in ABOUT_MANY else MAX_BYTES
    if status < 200:
        raise _unusable(response, f"only an interim answer came ({status})")
    try:
        content: bytes = response.raw.read(most + 1, decode_content=True)
    except exceptions.DecodeError:
        raise _unusable(response, "the answer cannot be decoded") from None
    if len(content) > most:
        raise _unusable(response, "the answer is too long")
    return Response(status, response.headers, content)


def _unusable(response: requests.Response, words: str) -> TransportError:
    response.close()
    return TransportError("UnusableAnswer", left_machine=True, cause=Cause(words, BETWEEN))


class _SharedContext(ssl.SSLContext):
    """A TLS context for all connections: to load the authorities takes long."""

    def set_alpn_protocols(self, alpn_protocols: object) -> None:
        """Do nothing: urllib3 would set them for each connection, while OpenSSL may copy them."""


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = _SharedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    if ca_file is not None:
        context.load_verify_locations(ca_file)
        # A company often names the lower one of its authorities.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class _Adapter(HTTPAdapter):
    """Connects under one TLS context, which has the authorities already."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(1, connections, Retry(total=False))  # the client repeats requests

    def init_poolmanager(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as requests has it
        super().init_poolmanager(*args, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:  # noqa: ANN401 - as requests has it
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)

    def cert_verify(self, *_args: Any, **_options: Any) -> None:  # noqa: ANN401 - as requests has it
        """Load no authorities for a connection."""


# --- Why a request got no answer: in words that quote nothing but the host's name, and advice

PROXY = "check ITERABLE_PROXY, its user and password, and what it lets through"
BETWEEN = "check what stands between (proxy, firewall), or try again later"
TLS = (
    "check ITERABLE_API_BASE_URL, this machine's clock and CA certificates; where a company "
    "inspects TLS, ITERABLE_CA_FILE must name its CA"
)
RESOURCES = "lower ITERABLE_WORKERS, or raise the machine's limits"
NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EACCES}
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}

# By the class of an error and, if there are any, its numbers. The first line decides that fits the
# error, or any of those that led to it. A cause's words may have holes, for cause_of() to fill.
# fmt: off
CAUSES: tuple[tuple[type[BaseException], Container[int | None] | None, Cause], ...] = (
    (socket.gaierror, None, Cause("DNS has no address for the host",
                                  "check ITERABLE_API_BASE_URL, this machine's network and DNS")),
    (ssl.SSLCertVerificationError, None, Cause("TLS failed: {reason}", TLS, lasting=True)),
    (ssl.SSLError, None, Cause("TLS failed: {reason}", TLS)),
    (TimeoutError, None, Cause("no {awaited} within {seconds:g} s", BETWEEN)),
    (ConnectionRefusedError, None, Cause("the connection was refused", ADDRESS)),
    (http.client.RemoteDisconnected, None,
     Cause("the connection was closed without an answer", BETWEEN)),
    (ConnectionError, None, Cause("the connection was reset", BETWEEN)),
    (OSError, NO_WAY, Cause("there is no way to the host", ADDRESS)),
    (OSError, EXHAUSTED, Cause("this machine has no more files, ports or memory", RESOURCES)),
    (http.client.IncompleteRead, None, Cause("the answer broke off", BETWEEN)),
    (http.client.HTTPException, None, Cause("the answer is not HTTP", ADDRESS)),
)
# fmt: on


def cause_of(error: BaseException, awaited: str, seconds: float) -> Cause:
    """Return what *error* came of; after a timeout *awaited* did not come within *seconds*."""
    for kind, numbers, cause in CAUSES:
        for each in _led_to(error):
            number = getattr(each, "errno", None)
            if isinstance(each, kind) and (numbers is None or number in numbers):
                holes = {"reason": _reason(each), "awaited": awaited, "seconds": seconds}
                return cause._replace(words=cause.words.format(**holes))
    return UNKNOWN


def _led_to(error: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """Return why TLS failed: of a certificate that is not trusted, or of the protocol."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else "no reason given"
