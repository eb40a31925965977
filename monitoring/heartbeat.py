"""Tells a monitor that the run began and how it ended, by the conventions of Healthchecks."""

import uuid
from urllib.parse import urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError

from iterable_api.transport import Network
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


def ping(url: str, run_id: str, network: Network, suffix: str | int, body: str = "") -> None:
    """Tell the monitor at *url* how the run *run_id* stands; do nothing if *url* is empty.

    *suffix* is "start" or the exit status; any but 0 is a failure. The monitor keeps the first
    10 kB of *body*, plain text: no secrets and no customers in it. A ping that fails is one warning
    in the log. The URL is a secret, because whoever knows it can ping: it is never logged.

    *network* says whom to trust, and which proxy leads to an https *url*. A ping to an http one,
    which a proxy could read, uses none.
    """
    problem = ""
    for _ in range(ATTEMPTS if url else 0):
        try:
            status = _post(_target(url, run_id, suffix), body, network)
        except (HTTPError, ValueError, OSError) as error:
            problem = f"cannot be reached: {type(error).__name__}"
        else:
            problem = "" if 200 <= status < 300 else f"answered {status}"
            if status < 500:
                break
    if problem:
        logger.warning("HEARTBEAT_URL %s. %s", problem, NO_HARM)


def _target(url: str, run_id: str, suffix: str | int) -> str:
    """Return the URL of one ping. A success has none but the monitor's own."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/") + (f"/{suffix}" if suffix else "")
    # Healthchecks documents the form with hyphens only.
    query = "&".join(filter(None, (parts.query, f"rid={uuid.UUID(run_id)}")))
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _post(url: str, body: str, network: Network) -> int:
    """Return the answer's status; its body is of no interest."""
    context = network.tls_context()
    way = urllib3.PoolManager(ssl_context=context)
    if network.proxy and url.startswith("https:"):
        way = urllib3.ProxyManager(network.proxy, ssl_context=context)
    with way:
        answer = way.request(
            "POST",
            url,
            body=body.encode(errors="replace")[:MAX_BODY_BYTES],
            headers=HEADERS,
            timeout=urllib3.Timeout(total=TIMEOUT_S),
            # Nor redirects: one could hand the URL to another host, or make a GET of the POST.
            retries=False,
            preload_content=False,
        )
        answer.close()
        return answer.status
