"""Tell a monitor that the run began and how it ended, by the conventions of Healthchecks."""

import ssl
import uuid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from logger_config import get_logger

logger = get_logger(__name__)

# What Healthchecks keeps of a ping. Source: https://healthchecks.io/docs/http_api/
MAX_BODY_BYTES = 10_000
# Of one of the two attempts, from connecting to the head of the answer.
TIMEOUT_S = 2.0
# A redirect is not followed: it could hand the secret to another host, or turn the POST into a GET.
AGAIN = urllib3.Retry(
    1, redirect=False, status_forcelist=range(500, 600), allowed_methods=None, raise_on_status=False
)
HEADERS = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "iterable-sync"}
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
        self._proxy = proxy
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
        if self._url and (problem := self._send(suffix, body.encode(errors="replace"))):
            logger.warning("HEARTBEAT_URL %s. %s", problem, NO_HARM)

    def _send(self, suffix: str, body: bytes) -> str:
        """Post *body*; return what went wrong, empty for nothing."""
        try:
            status = self._post(suffix, body[:MAX_BODY_BYTES])
        except MaxRetryError as error:
            if isinstance(error.reason, SSLError):
                return "did not answer: TLS failed; ITERABLE_CA_FILE can name a company's own CA"
            return f"did not answer: {type(error.reason).__name__}"
        except (HTTPError, ValueError, OSError) as error:
            return f"cannot be used: {type(error).__name__}"
        return "" if 200 <= status < 300 else f"answered {status}"

    def _post(self, suffix: str, body: bytes) -> int:
        """Return the answer's status; its body is of no interest."""
        parts = urlsplit(self._url)
        query = "&".join(filter(None, (parts.query, f"rid={self._run_id}")))
        url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + suffix, query, ""))
        context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
        if self._ca_file is not None:
            context.load_verify_locations(self._ca_file)
            # A company often names the lower one of its authorities.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        way = urllib3.PoolManager(ssl_context=context)
        if self._proxy and parts.scheme == "https":
            way = urllib3.ProxyManager(self._proxy, ssl_context=context)
        with way:
            answer = way.request(
                "POST",
                url,
                body=body,
                headers=HEADERS,
                timeout=urllib3.Timeout(total=TIMEOUT_S),
                retries=AGAIN,
                preload_content=False,
            )
            answer.close()
            return answer.status
