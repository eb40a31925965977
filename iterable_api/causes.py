"""Causes why a request got no answer: in words, and what to look at, in one table, ``CAUSES``.

A run's messages and ``--check`` use the same words. They quote nothing but the host's name.
"""

import errno
import http.client
import socket
import ssl
from collections.abc import Container, Iterator
from typing import NamedTuple


class Cause(NamedTuple):
    """What came of a request in place of an answer, and what to do about it.

    One that is ``lasting`` would be met again at once, so that to repeat the request is no use.
    """

    words: str
    advice: str = ""
    lasting: bool = False


ADDRESS = "check ITERABLE_API_BASE_URL and the firewall. The job uses no proxy but ITERABLE_PROXY"
PROXY = "check ITERABLE_PROXY, its user and password, and what it lets through"
BETWEEN = "check what stands between (proxy, firewall), or try again later"
TLS = (
    "check ITERABLE_API_BASE_URL, this machine's clock and CA certificates; where a company "
    "inspects TLS, ITERABLE_CA_FILE must name its CA"
)
RESOURCES = "lower ITERABLE_WORKERS, or raise the machine's limits"
UNKNOWN = Cause("the connection failed", ADDRESS)
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
