"""requests' transport to one host, without what each of very many calls would pay for nothing."""

import socket
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple, cast

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool

from iterable_api.rate_limiter import Departure

LOOK_S = 0.5


class _Overseer:
    """Ends requests whose answer is overdue, however slowly it trickles in.

    A socket's own timeout bounds each wait for some bytes, and not all of them together.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[float, socket.socket]] = {}
        self._over = threading.Event()

    def start(self) -> None:
        """Begin to look, in a thread that does not hold up the end of the process."""
        threading.Thread(target=self._look, name="overseer", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    def expect(self, sock: socket.socket, until_s: float) -> None:
        """Take note that this thread waits for an answer from *sock*."""
        self._waiting[threading.get_ident()] = until_s, sock

    def answered(self) -> None:
        """Take note that this thread waits no more."""
        self._waiting.pop(threading.get_ident(), None)

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            for until_s, sock in list(self._waiting.values()):
                if time.monotonic() > until_s:
                    # The waiting thread then reads the end of the answer. Not the TLS socket's own
                    # shutdown(), which is not for use beside another thread.
                    with suppress(OSError):
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Sending(threading.local):
    """The request that this thread is sending."""

    departure = Departure(0.0)
    until_s = 0.0
    left = False
    overseer: _Overseer | None = None


_SENDING = _Sending()


class _Connection(HTTPConnection):
    """Notes when a request is on the wire, which is when it counts."""

    def request(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as urllib3 has it
        super().request(*args, **kwargs)
        _SENDING.departure.at_s = time.monotonic()
        _SENDING.left = True
        if self.sock is not None and _SENDING.overseer is not None:
            _SENDING.overseer.expect(self.sock, _SENDING.until_s)


class _TLSConnection(_Connection, HTTPSConnection):
    """The same for https."""


class Response(NamedTuple):
    """What of a requests.Response is used here."""

    status_code: int
    headers: Any
    content: bytes


class Transport(HTTPAdapter):
    """requests' own transport, for one host, without what each call would pay for nothing.

    A Session would merge settings, look for proxies and cookies, and build a full Response each
    time. Here proxies, ``.netrc`` and redirects are not even looked at, so the key can go nowhere
    but to the base URL's host; the certificate is verified as ever.
    """

    def __init__(self, connections: int) -> None:
        super().__init__(pool_connections=1, pool_maxsize=connections)
        self._pool: HTTPConnectionPool | None = None
        self._opening = threading.Lock()
        self._overseer = _Overseer()

    def post(
        self,
        url: str,
        headers: CaseInsensitiveDict[str | bytes],
        body: bytes,
        timeouts_s: tuple[float, float],
        departure: Departure,
    ) -> Response:
        """Send one request and return the whole answer.

        *timeouts_s* bound connecting and the answer, each wait for some bytes of it and all of
        them together. *departure* is told when the request is on the wire.

        Raises requests.RequestException and urllib3's HTTPError.
        """
        request = _prepared("POST", url, headers)
        request.headers["Content-Length"] = str(len(body))
        request.body = body
        return self._exchange(request, timeouts_s, departure)

    def get(
        self, url: str, headers: CaseInsensitiveDict[str | bytes], timeouts_s: tuple[float, float]
    ) -> Response:
        """Ask for *url* and return the whole answer; else like post()."""
        return self._exchange(_prepared("GET", url, headers), timeouts_s, Departure(0.0))

    def _exchange(
        self,
        request: requests.PreparedRequest,
        timeouts_s: tuple[float, float],
        departure: Departure,
    ) -> Response:
        _SENDING.departure, _SENDING.left = departure, False
        _SENDING.until_s = time.monotonic() + sum(timeouts_s)
        _SENDING.overseer = self._overseer
        try:
            # As build_response() below makes it.
            return cast("Response", self.send(request, timeout=timeouts_s))
        finally:
            self._overseer.answered()

    def has_left(self) -> bool:
        """Whether this thread's latest request was on the wire when it ended."""
        return _SENDING.left

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._overseer.stop()
        super().close()

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: Any,  # noqa: ANN401 - as requests has it
        proxies: Any = None,  # noqa: ANN401
        cert: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return the one pool; requests would look it up by host and TLS settings."""
        with self._opening:
            if self._pool is None:
                pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
                super().cert_verify(pool, request.url or "", verify, cert)
                pool.ConnectionCls = _TLSConnection if pool.scheme == "https" else _Connection
                self._pool = pool
                self._overseer.start()
        return self._pool

    def cert_verify(self, *_: object) -> None:
        """Do nothing: the pool was told to verify when it was made."""

    def build_response(
        self,
        req: requests.PreparedRequest,  # noqa: ARG002 - as requests has it
        resp: BaseHTTPResponse,
    ) -> Any:  # noqa: ANN401
        """Return status, headers and content; requests would add cookies, history and more."""
        return Response(resp.status, resp.headers, resp.data)


def _prepared(
    method: str, url: str, headers: CaseInsensitiveDict[str | bytes]
) -> requests.PreparedRequest:
    request = requests.PreparedRequest()
    request.method, request.url = method, url
    request.headers = headers.copy()
    return request
