"""HTTP to one host over kept connections, and how far a request came that got no answer.

requests decides how a host is connected to and its certificate verified. A requests.Session would
besides merge settings, look for proxies and cookies and build a full Response, for each of very
many calls. Here proxies, ``.netrc``, cookies and redirects are not even looked at, so that the key
can go nowhere but to the base URL's host.
"""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, Timeout

from iterable_api.rate_limiter import Permit

CONNECT_TIMEOUT_S = 10.0
WATCH_INTERVAL_S = 0.5

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
    """A whole answer, of whatever HTTP status."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes


class TransportError(Exception):
    """Failure to get a whole answer to a request.

    ``problem`` is the name of the cause, such as ReadTimeout or NewConnectionError.
    ``left_machine`` is False when certainly nothing of the request went out, so that the server
    cannot have acted on it.
    """

    def __init__(self, problem: str, *, left_machine: bool) -> None:
        super().__init__(problem)
        self.problem = problem
        self.left_machine = left_machine


class Transport:
    """Sends requests to the API at *base_url*; may be shared by threads.

    *timeout_s* bounds an answer, each wait for some bytes of it and all of them together; it
    bounds connecting too, where ``CONNECT_TIMEOUT_S`` is not less. *connections* are kept open.
    """

    def __init__(self, base_url: str, api_key: str, timeout_s: float, connections: int) -> None:
        self._path = f"{urlsplit(base_url).path.rstrip('/')}/api/"
        self._headers = {
            "Api-Key": api_key,
            "Content-Type": "application/json",
            "User-Agent": "iterable-sync",
        }
        connect_s = min(CONNECT_TIMEOUT_S, timeout_s)
        self._timeout = Timeout(connect=connect_s, read=timeout_s)
        self._longest_s = connect_s + timeout_s
        self._pool = _connection_pool(base_url, connections)
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
            return Response(response.status, response.headers, response.data)
        except HTTPError as error:
            problem = type(error).__name__
            if response is None:
                problem = _PROBLEMS_BEFORE_ANSWER.get(problem, problem)
            raise TransportError(problem, left_machine=exchange.left_machine) from error
        finally:
            self._watchdog.exchanges.discard(exchange)


@dataclass(slots=True, eq=False)
class _Exchange:
    """A request and how far it has come; it travels through urllib3 in the place of the body."""

    body: bytes | None
    permit: Permit | None
    deadline_s: float
    left_machine: bool = False
    sock: socket.socket | None = None


class _Connection(HTTPConnection):
    """A connection that tells an exchange how far it has come."""

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
            exchange.permit.departed_s = time.monotonic()


class _TLSConnection(_Connection, HTTPSConnection):
    """The same for https."""


def _connection_pool(base_url: str, connections: int) -> HTTPConnectionPool:
    """Return a pool that connects and verifies as requests does by default."""
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=connections)
    request = requests.Request("POST", base_url).prepare()
    pool = adapter.get_connection_with_tls_context(request, verify=True)
    adapter.cert_verify(pool, base_url, verify=True, cert=None)
    pool.ConnectionCls = _TLSConnection if pool.scheme == "https" else _Connection
    return pool


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
                    # The waiting thread then reads the end of the answer. Not the TLS socket's own
                    # shutdown(), which is not for use beside another thread.
                    with suppress(OSError):
                        socket.socket.shutdown(exchange.sock, socket.SHUT_RDWR)
