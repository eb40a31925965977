"""Why a request got no answer: the table line by line, for the errors that really come."""

import errno
import http.client
import socket
import ssl

import pytest

from iterable_api.transport import CAUSES, UNKNOWN, cause_of


def certificate_error():
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


def tls_error(reason):
    error = ssl.SSLError(1, "[SSL] something")
    error.reason = reason
    return error


# For each line of the table, in its order, errors that it is about, and the words.
LINES: list[list[tuple[BaseException, str]]] = [
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "DNS has no address for the host"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "DNS has no address for the host"),
    ],
    [(certificate_error(), "TLS failed: self-signed certificate")],
    [
        (tls_error("WRONG_VERSION_NUMBER"), "TLS failed: wrong version number"),
        (ssl.SSLError("odd"), "TLS failed: no reason given"),
    ],
    [
        (TimeoutError("timed out"), "no answer within 2.5 s"),
        (OSError(errno.ETIMEDOUT, "x"), "no answer within 2.5 s"),
    ],
    [(ConnectionRefusedError(errno.ECONNREFUSED, "x"), "the connection was refused")],
    [(http.client.RemoteDisconnected("x"), "the connection was closed without an answer")],
    [
        (ConnectionResetError(errno.ECONNRESET, "x"), "the connection was reset"),
        (BrokenPipeError(errno.EPIPE, "x"), "the connection was reset"),
    ],
    [
        (OSError(errno.EHOSTUNREACH, "x"), "there is no way to the host"),
        (OSError(errno.ENETUNREACH, "x"), "there is no way to the host"),
    ],
    [(OSError(errno.EMFILE, "x"), "this machine has no more files, ports or memory")],
    [(http.client.IncompleteRead(b""), "the answer broke off")],
    [(http.client.BadStatusLine("x"), "the answer is not HTTP")],
]


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [(number, *example) for number, examples in enumerate(LINES) for example in examples],
)
def test_each_line_of_the_table_is_about_its_errors(number, error, words):
    cause = cause_of(error, "answer", 2.5)
    assert (cause.words, cause.advice) == (words, CAUSES[number][2].advice)
    assert cause.advice


def test_no_line_of_the_table_is_without_an_example():
    assert len(LINES) == len(CAUSES)


def test_any_other_error_is_a_connection_that_failed():
    for error in (ValueError("x"), OSError("x")):
        assert cause_of(error, "answer", 1) == UNKNOWN


def test_an_error_is_explained_by_what_led_to_it():
    error, middle = ValueError("a library's own"), OSError("another")
    error.__cause__ = middle
    middle.__context__ = ConnectionRefusedError(errno.ECONNREFUSED, "x")
    assert cause_of(error, "answer", 1).words == "the connection was refused"
