"""Tell a monitor that the run began and how it ended, by the conventions of Healthchecks."""

import uuid
from urllib.parse import urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError

from iterable_api.transport import DIRECT, Network
from logger_config import get_logger

logger = get_logger(__name__)

# What Healthchecks keeps of a ping. Source: https://healthchecks.io/docs/http_api/
MAX_BODY_BYTES = 10_000
# Not urllib3's own repeats: it logs them with the URL, which is secret.
ATTEMPTS = 2
# Of one attempt, from connecting to the head of the answer.
TIMEOUT_S = 2.0
HEADERS = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "iterable-sync"}
NO_HARM = (
    "The rows of the run are safe, but its monitor was not told. Check the URL and the monitor; "
    "ITERABLE_CA_FILE can name a company's own CA"
)


class Heartbeat:
    """Pings *url* at the start and the end of one run; does nothing when *url* is empty.

    *run_id* is a UUID, with or without hyphens. A ping that fails is one warning in the log and
    raises nothing. The URL is a secret, because whoever knows it can ping: it is never logged.

    *network* says whom to trust, and which proxy leads to an https *url*. A ping to an http one,
    which a proxy could read, uses none.

    Raises:
        ValueError: *run_id* is no UUID.

    """

    def __init__(self, url: str, run_id: str, network: Network = DIRECT) -> None:
        self._url = url
        self._network = network
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
        problem = ""
        for _ in range(ATTEMPTS if self._url else 0):
            try:
                status = self._post(suffix, body.encode(errors="replace")[:MAX_BODY_BYTES])
            except (HTTPError, ValueError, OSError) as error:
                problem = f"cannot be reached: {type(error).__name__}"
            else:
                problem = "" if 200 <= status < 300 else f"answered {status}"
                if status < 500:
                    break
        if problem:
            logger.warning("HEARTBEAT_URL %s. %s", problem, NO_HARM)

    def _post(self, suffix: str, body: bytes) -> int:
        """Return the answer's status; its body is of no interest."""
        parts = urlsplit(self._url)
        query = "&".join(filter(None, (parts.query, f"rid={self._run_id}")))
        url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + suffix, query, ""))
        context, proxy = self._network.tls_context(), self._network.proxy
        way = urllib3.PoolManager(ssl_context=context)
        if proxy and parts.scheme == "https":
            way = urllib3.ProxyManager(proxy, ssl_context=context)
        with way:
            answer = way.request(
                "POST",
                url,
                body=body,
                headers=HEADERS,
                timeout=urllib3.Timeout(total=TIMEOUT_S),
                # Nor redirects: one could hand the URL to another host, or make a GET of the POST.
                retries=False,
                preload_content=False,
            )
            answer.close()
            return answer.status
