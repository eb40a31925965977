"""HTTP to one host over kept connections, and how far a request came that got no answer.

requests decides how a host is connected to and its certificate verified. A requests.Session would
besides merge settings, look for proxies and cookies and build a full Response, for each of very
many calls. Here ``.netrc``, cookies, redirects and the environment's proxies are not even looked
at, so that the key can go nowhere but to the base URL's host. A proxy that is named is asked for a
tunnel, and sees no more of the requests than the host's name.
"""

import http.client
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProxyError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, Timeout
from urllib3.util.ssl_ import ALPN_PROTOCOLS, create_urllib3_context

from iterable_api.causes import UNKNOWN, Cause, ProxyRefusedError, cause_of, of_proxy
from iterable_api.endpoints import GET_USER_FIELDS, TRACK_EVENTS, UPDATE_USERS
from iterable_api.rate_limiter import Permit

CONNECT_TIMEOUT_S = 10.0
WATCH_INTERVAL_S = 0.5
# Bytes of an answer, before and after decoding. Only answers about many rows, or fields, are long:
# those that take them, or refuse them for their values.
MAX_BYTES = 100_000
MAX_BYTES_OF_MANY = 8_000_000
ABOUT_MANY = frozenset({UPDATE_USERS, TRACK_EVENTS, GET_USER_FIELDS})
LISTING = frozenset({200, 400})
# Interim answers (1xx) before the answer itself.
MAX_INTERIM = 20

# How zlib is told the format. Some servers send deflate without its head.
_GZIP = zlib.MAX_WBITS | 16
_WINDOWS = {"gzip": [_GZIP], "x-gzip": [_GZIP], "deflate": [zlib.MAX_WBITS, -zlib.MAX_WBITS]}

# To repeat a request is for the client to decide.
_NO_RETRIES = Retry(total=False)
# An error before there was any answer has requests' name, as people know it. After the head of an
# answer the same error has urllib3's name, and so the log tells one from the other.
_PROBLEMS_BEFORE_ANSWER = {
    "ClosedPoolError": "ConnectionError",
    "ConnectTimeoutError": "ConnectTimeout",
    "ProtocolError": "ConnectionError",
    "ReadTimeoutError": "ReadTimeout",
}


class Response(NamedTuple):
    """A whole answer, of whatever HTTP status. One beyond the limits has no content."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes


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

    *timeout_s* bounds an answer, each wait for some bytes of it and all of them together; it
    bounds connecting too, where ``CONNECT_TIMEOUT_S`` is not less. *connections* are kept open. The
    authorities in *ca_file* are trusted besides the public ones. *proxy* is the http URL of one
    that leads to a host by CONNECT; it is for an https *base_url* alone.
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
        self._path = f"{urlsplit(base_url).path.rstrip('/')}/api/"
        self._headers = {
            "Api-Key": api_key,
            "Content-Type": "application/json",
            "User-Agent": "iterable-sync",
        }
        self._answer_s = timeout_s
        self._connect_s = min(CONNECT_TIMEOUT_S, timeout_s)
        self._longest_s = self._connect_s + timeout_s
        self._timeout = Timeout(connect=self._connect_s, read=timeout_s)
        self._pool = _connection_pool(base_url, connections, ca_file, proxy)
        self._watchdog = _Watchdog()
        self._watchdog.start()

    def post(self, path: str, body: bytes, permit: Permit) -> Response:
        """Send *body* to the endpoint *path*; *permit* is told when it is on the wire.

        Raises TransportError.
        """
        return self._exchange("POST", path, body, permit)

    def get(self, path: str) -> Response:
        """Ask the endpoint *path*; raises TransportError."""
        return self._exchange("GET", path, None, None)

    def close(self) -> None:
        """Close the connections that are not in use, and the others after their answer."""
        self._watchdog.stop()
        self._pool.close()

    def _exchange(
        self, method: str, path: str, body: bytes | None, permit: Permit | None
    ) -> Response:
        exchange: Any = _Exchange(body, permit, time.monotonic() + self._longest_s)
        response = None
        self._watchdog.exchanges.add(exchange)
        try:
            response = self._pool.urlopen(
                method,
                self._path + path,
                body=exchange,  # urllib3 hands it on to our connection as it is
                headers=self._headers,
                retries=_NO_RETRIES,
                redirect=False,
                assert_same_host=False,
                timeout=self._timeout,
                preload_content=False,
                decode_content=False,
            )
            long = path in ABOUT_MANY and response.status in LISTING
            content = _content(response, MAX_BYTES_OF_MANY if long else MAX_BYTES)
            return Response(response.status, response.headers, content)
        except HTTPError as error:
            raise self._failure(error, exchange, answered=response is not None) from error
        finally:
            self._watchdog.exchanges.discard(exchange)

    def _failure(
        self, error: HTTPError, exchange: "_Exchange", *, answered: bool
    ) -> TransportError:
        """Return what *error* means; *answered* says whether the head of an answer came before."""
        problem = type(error).__name__
        if not answered:
            problem = _PROBLEMS_BEFORE_ANSWER.get(problem, problem)
        if exchange.overdue:
            cause = cause_of(TimeoutError(), "whole answer", self._longest_s)
        elif exchange.left_machine:
            cause = cause_of(error, "answer", self._answer_s)
        else:
            cause = cause_of(error, "connection", self._connect_s)
            if isinstance(error, ProxyError):
                cause = of_proxy(cause)
        return TransportError(problem, left_machine=exchange.left_machine, cause=cause)


def _content(response: BaseHTTPResponse, most: int) -> bytes:
    """Return what is in the body; b"" if it is longer than *most* bytes, or cannot be decoded.

    A connection that still holds a part of the body is closed.
    """
    body = bytearray()
    too_long = (response.length_remaining or 0) > most
    while not too_long and (part := response.read(most + 1 - len(body), decode_content=False)):
        body += part
        too_long = len(body) > most
        if response.length_remaining == 0:
            break
    if too_long:
        response.close()
        response.release_conn()
        return b""
    return _decoded(bytes(body), response.headers.get("Content-Encoding", ""), most)


def _decoded(body: bytes, coding: str, most: int) -> bytes:
    """Return *body* without gzip or deflate; b"" if that is not what it is, or too long then."""
    if coding.lower() in {"", "identity"}:
        return body
    for window in _WINDOWS.get(coding.lower(), ()):
        with suppress(zlib.error):
            decoder = zlib.decompressobj(window)
            content = decoder.decompress(body, most + 1)
            if decoder.eof and len(content) <= most:
                return content
    return b""


@dataclass(slots=True, eq=False)
class _Exchange:
    """A request and how far it has come; it travels through urllib3 in the place of the body."""

    body: bytes | None
    permit: Permit | None
    deadline_s: float
    left_machine: bool = False
    sock: socket.socket | None = None
    overdue: bool = False


class _Answer(http.client.HTTPResponse):
    """An answer that is read from after the interim ones (1xx), of which http.client knows one."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status >= 200:
                return version, status, reason
            if status == http.client.SWITCHING_PROTOCOLS:
                break
            http.client.parse_headers(self.fp)
        raise http.client.BadStatusLine("no answer after 1xx")

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            # To http.client it would mean all that ever comes.
            raise ValueError("negative size")
        return size


class _Connection(HTTPConnection):
    """A connection that tells an exchange how far it has come."""

    response_class = _Answer

    def request(
        self,
        method: str,
        url: str,
        body: Any = None,  # noqa: ANN401 - in urllib3 a body, here an _Exchange
        headers: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - as urllib3 has it
    ) -> None:
        """Send a request, after connecting if that has not been done."""
        exchange: _Exchange = body
        if self.sock is None:
            self.connect()
        # From here on it may reach the server, even if sending it fails.
        exchange.left_machine = True
        exchange.sock = self.sock
        super().request(method, url, exchange.body, headers, **options)
        if exchange.permit is not None:
            exchange.permit.depart()


class _TLSConnection(_Connection, HTTPSConnection):
    """The same for https, by a tunnel where there is a proxy."""

    def _tunnel(self) -> None:
        try:
            super()._tunnel()
        except (OSError, http.client.HTTPException) as error:
            # http.client's own words; the proxy's are not to be quoted.
            refused = re.match(r"Tunnel connection failed: (\d+)", str(error))
            reason = ProxyRefusedError(int(refused[1]), "refused") if refused else error
            raise ProxyError("no tunnel", reason) from reason


def _connection_pool(
    base_url: str, connections: int, ca_file: Path | None, proxy: str
) -> HTTPConnectionPool:
    """Return a pool that connects and verifies as requests does by default."""
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=connections)
    request = requests.Request("POST", base_url).prepare()
    proxies = {"https": proxy} if proxy else None
    pool = adapter.get_connection_with_tls_context(request, verify=True, proxies=proxies)
    adapter.cert_verify(pool, base_url, verify=True, cert=None)
    pool.ConnectionCls = _TLSConnection if pool.scheme == "https" else _Connection
    if isinstance(pool, HTTPSConnectionPool):
        _share_context(pool, ca_file)
    return pool


def _share_context(pool: HTTPSConnectionPool, ca_file: Path | None) -> None:
    """Let the connections of *pool* share what urllib3 would make anew for each of them.

    Nearly all of the time and memory of a connection go into its own copy of the certificates.
    """
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context.load_verify_locations(pool.ca_certs, pool.ca_cert_dir)
    if ca_file is not None:
        context.load_verify_locations(ca_file)
        # A company's authorities are seldom made by the letter, and often it names the lower one.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    # urllib3 would set them again for each connection, while OpenSSL may copy them for another.
    context.set_alpn_protocols = lambda _: None  # type: ignore[assignment]
    pool.conn_kw["ssl_context"] = context
    pool.ca_certs = pool.ca_cert_dir = None


class _Watchdog:
    """Ends the ``exchanges`` whose answer is overdue, however slowly it trickles in.

    A socket's own timeout bounds each wait for some bytes, and not all of them together.
    """

    def __init__(self) -> None:
        self.exchanges: set[_Exchange] = set()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to watch, in a thread that does not hold up the end of the process."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(WATCH_INTERVAL_S):
            now_s = time.monotonic()
            for exchange in self.exchanges.copy():
                if exchange.sock is not None and now_s > exchange.deadline_s:
                    exchange.overdue = True
                    # The waiting thread then reads the end of the answer. Not the TLS socket's own
                    # shutdown(), which is not for use beside another thread.
                    with suppress(OSError):
                        socket.socket.shutdown(exchange.sock, socket.SHUT_RDWR)
