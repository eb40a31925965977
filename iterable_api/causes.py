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


class Line(NamedTuple):
    """One line of the table, for errors of a class and, if it names any, of these numbers.

    ``words`` may hold ``{reason}``, which TLS gives, ``{awaited}`` and ``{seconds}``.
    """

    error: type[BaseException]
    numbers: Container[int | None] | None
    words: str
    advice: str
    lasting: bool = False

    def fits(self, error: BaseException) -> bool:
        """Whether this line is about *error*."""
        number = getattr(error, "errno", None)
        return isinstance(error, self.error) and (self.numbers is None or number in self.numbers)


ADDRESS = "check ITERABLE_API_BASE_URL and the firewall. The job uses no proxy but ITERABLE_PROXY"
PROXY = "check ITERABLE_PROXY, its user and password, and what it lets through"
BETWEEN = "check what stands between (proxy, firewall), or try again later"
TLS = (
    "check ITERABLE_API_BASE_URL, this machine's clock and CA certificates, and what stands between"
)
CERTIFICATE = (
    "check ITERABLE_API_BASE_URL, this machine's clock and CA certificates; where a company "
    "inspects TLS, ITERABLE_CA_FILE must name its CA"
)
UNKNOWN = Cause("the connection failed", ADDRESS)
NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA}
NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EACCES}
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}

# The first line decides that fits the error, or any of those that led to it.
# fmt: off
CAUSES = (
    Line(socket.gaierror, NO_SUCH_NAME, "DNS does not know the host",
         "check ITERABLE_API_BASE_URL and DNS"),
    Line(socket.gaierror, None, "DNS gave no answer", "check this machine's network and DNS"),
    Line(ssl.SSLCertVerificationError, None, "TLS failed: {reason}", CERTIFICATE, True),
    Line(ssl.SSLError, None, "TLS failed: {reason}", TLS),
    Line(TimeoutError, None, "no {awaited} within {seconds:g} s", BETWEEN),
    Line(ConnectionRefusedError, None, "the connection was refused", ADDRESS),
    Line(http.client.RemoteDisconnected, None, "the connection was closed without an answer",
         BETWEEN),
    Line(ConnectionError, None, "the connection was reset", BETWEEN),
    Line(OSError, NO_WAY, "there is no way to the host", ADDRESS),
    Line(OSError, EXHAUSTED, "this machine has no more files, ports or memory",
         "lower ITERABLE_WORKERS, or raise the machine's limits"),
    Line(http.client.IncompleteRead, None, "the answer broke off", BETWEEN),
    Line(http.client.HTTPException, None, "the answer is not HTTP", ADDRESS),
    Line(BaseException, None, *UNKNOWN),
)
# fmt: on


def cause_of(error: BaseException, awaited: str, seconds: float) -> Cause:
    """Return what *error* came of; after a timeout *awaited* did not come within *seconds*."""
    line, found = next((li, e) for li in CAUSES for e in _led_to(error) if li.fits(e))
    words = line.words.format(reason=_reason(found), awaited=awaited, seconds=seconds)
    return Cause(words, line.advice, line.lasting)


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
