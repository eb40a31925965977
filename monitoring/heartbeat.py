"""Tell a monitor that the run began and how it ended, by the conventions of Healthchecks."""

import queue
import ssl
import threading
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter

from logger_config import get_logger

logger = get_logger(__name__)

# What Healthchecks keeps of a ping. Source: https://healthchecks.io/docs/http_api/
MAX_BODY_BYTES = 10_000
ATTEMPTS = 2
# Connecting, and each wait for some of the answer.
TIMEOUT_S = 2.0
# A whole ping with its retry: the run never waits longer.
LIMIT_S = 5.0
NO_HARM = (
    "The rows of the run are safe, but its monitor was not told. Check the URL and the monitor"
)


class Heartbeat:
    """Pings *url* at the start and the end of one run; does nothing when *url* is empty.

    *run_id* is a UUID, with or without hyphens. A ping that fails is one warning in the log and
    raises nothing. The URL is a secret, because whoever knows it can ping: it is never logged.

    The authorities in *ca_file* are trusted besides the public ones. *proxy* is the http URL of one
    that leads to an https *url* by CONNECT; an http one, which a proxy could read, goes without.

    Raises:
        ValueError: *run_id* is no UUID.

    """

    def __init__(
        self, url: str, run_id: str, *, ca_file: Path | None = None, proxy: str = ""
    ) -> None:
        self._url = url
        self._ca_file = ca_file
        self._proxies = {"https": proxy} if proxy else {}
        # Healthchecks documents the form with hyphens only.
        self._run_id = str(uuid.UUID(run_id))

    def start(self) -> None:
        """Tell that the run has begun."""
        self._ping("/start", "")

    def finish(self, exit_status: int, body: str) -> None:
        """Tell that the run has ended; any *exit_status* but 0 is a failure.

        The monitor keeps the first 10 kB of *body*, plain text: no secrets and no customers in it.
        """
        self._ping(f"/{int(exit_status)}" if exit_status else "", body)

    def _ping(self, suffix: str, body: str) -> None:
        if not self._url:
            return
        problems: queue.SimpleQueue[str] = queue.SimpleQueue()
        # In a thread, because no timeout of requests bounds the look-up of a name or an answer
        # that comes byte by byte. A daemon, so that the process can end without it.
        threading.Thread(
            target=lambda: problems.put(self._send(suffix, _first_bytes(body))),
            name="heartbeat",
            daemon=True,
        ).start()
        try:
            problem = problems.get(timeout=LIMIT_S)
        except queue.Empty:
            problem = f"did not answer in {LIMIT_S:g} s"
        if problem:
            logger.warning("HEARTBEAT_URL %s. %s", problem, NO_HARM)

    def _send(self, suffix: str, body: bytes) -> str:
        """Post *body*, twice if that can help; return what went wrong, empty for nothing."""
        problem = ""
        for _ in range(ATTEMPTS):
            try:
                status = self._post(suffix, body)
            except requests.exceptions.SSLError:
                return "did not answer: TLS failed; ITERABLE_CA_FILE can name a company's own CA"
            except (requests.ConnectionError, requests.Timeout) as error:
                problem = f"did not answer: {type(error).__name__}"
            except Exception as error:  # noqa: BLE001 - no heartbeat is worth a run
                return f"cannot be used: {type(error).__name__}"
            else:
                problem = "" if 200 <= status < 300 else f"answered {status}"
                if status < 500:
                    break
        return problem

    def _post(self, suffix: str, body: bytes) -> int:
        """Return the answer's status; its body is of no interest."""
        with requests.Session() as session:
            # Proxies, .netrc and certificates come from nowhere but the settings.
            session.trust_env = False
            session.proxies = self._proxies
            if self._ca_file is not None:
                session.mount("https://", _TrustingAdapter(self._ca_file))
            with session.post(
                self._address(suffix),
                data=body,
                headers={
                    "Content-Type": "text/plain; charset=utf-8",
                    "User-Agent": "iterable-sync",
                },
                timeout=TIMEOUT_S,
                # A redirect could hand the secret to another host, or turn the POST into a GET.
                allow_redirects=False,
                stream=True,
            ) as response:
                return response.status_code

    def _address(self, suffix: str) -> str:
        """Return the URL with *suffix* on its path and the run id after its own query."""
        parts = urlsplit(self._url)
        path = parts.path.rstrip("/") + suffix
        query = "&".join(filter(None, (parts.query, f"rid={self._run_id}")))
        return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


class _TrustingAdapter(HTTPAdapter):
    """Trusts the authorities in a file besides those that requests trusts."""

    def __init__(self, ca_file: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.load_verify_locations(ca_file)
        # A company's own authority may be the lower one of two.
        self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as requests has it
        super().init_poolmanager(*args, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:  # noqa: ANN401 - as requests has it
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)


def _first_bytes(text: str) -> bytes:
    """Return the start of *text* in UTF-8, cut between two characters."""
    head = text.encode(errors="replace")[:MAX_BODY_BYTES]
    return head.decode(errors="ignore").encode()
