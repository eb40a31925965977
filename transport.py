"""requests' transport to one host, without what each of very many calls would pay for nothing."""

import threading
import time
from typing import Any, NamedTuple, cast

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ReadTimeoutError

from pacing import Departure

READ_BYTES = 65536


class _Sending(threading.local):
    """The request that this thread is sending: its departure, and when it has to be over."""

    departure = Departure(0.0)
    until_s = 0.0


_SENDING = _Sending()


class _Connection(HTTPConnection):
    """Notes when a request is on the wire, which is when it counts."""

    def request(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as urllib3 has it
        super().request(*args, **kwargs)
        _SENDING.departure.at_s = time.monotonic()


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

    _pool: HTTPConnectionPool | None = None
    _opening = threading.Lock()

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
        request = requests.PreparedRequest()
        request.method, request.url = "POST", url
        request.headers = headers.copy()
        request.headers["Content-Length"] = str(len(body))
        request.body = body
        _SENDING.departure = departure
        _SENDING.until_s = time.monotonic() + sum(timeouts_s)
        # As build_response() below makes it.
        return cast("Response", self.send(request, timeout=timeouts_s))

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
        return self._pool

    def cert_verify(self, *_: object) -> None:
        """Do nothing: the pool was told to verify when it was made."""

    def build_response(
        self,
        req: requests.PreparedRequest,  # noqa: ARG002 - as requests has it
        resp: BaseHTTPResponse,
    ) -> Any:  # noqa: ANN401
        """Return status, headers and content; requests would add cookies, history and more."""
        return Response(resp.status, resp.headers, _content(resp, _SENDING.until_s))


def _content(answer: BaseHTTPResponse, until_s: float) -> bytes:
    """Return the whole body, unless it trickles in beyond *until_s*."""
    parts = []
    while part := answer.read1(READ_BYTES):
        parts.append(part)
        if time.monotonic() > until_s:
            answer.close()
            raise ReadTimeoutError(answer.connection, answer.url, "the answer took too long")  # type: ignore[arg-type]
    return b"".join(parts)
