"""What stands between a company and the world: a proxy that tunnels, and a server with TLS."""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import trustme

OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass
class Proxy:
    """A proxy that leads to hosts by CONNECT: ``heads`` is what it was asked, ``relayed`` the rest.

    It answers *answer*, and opens the tunnel only if that is ``OPEN``.
    """

    answer: bytes = OPEN
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    relayed: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return the URL for ITERABLE_PROXY."""
        return f"http://127.0.0.1:{self.port}"

    def serve(self, client: socket.socket) -> None:
        """Lead one connection to where it asks."""
        head = b""
        while b"\r\n\r\n" not in head:
            if not (part := client.recv(65536)):
                return
            head += part
        self.heads.append(head)
        client.sendall(self.answer)
        if self.answer == OPEN:
            host, _, port = head.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                relay(client, server, self.relayed)


def relay(one: socket.socket, other: socket.socket, seen: list[bytes]) -> None:
    """Hand on what comes on either side, until one of them has gone."""
    towards = {one: other, other: one}
    while True:
        # What TLS has decrypted already does not show on the socket.
        held = [each for each in towards if isinstance(each, ssl.SSLSocket) and each.pending()]
        for each in held or select.select([*towards], [], [])[0]:
            if not (data := each.recv(65536)):
                return
            seen.append(data)
            towards[each].sendall(data)


@contextlib.contextmanager
def accepting(serve) -> Iterator[int]:
    """Let *serve* have each connection to the port that this yields, in a thread each."""

    def run(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=run, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@contextlib.contextmanager
def proxy(answer: bytes = OPEN) -> Iterator[Proxy]:
    """Run a proxy on a free port."""
    state = Proxy(answer)
    with accepting(state.serve) as state.port:
        yield state


@contextlib.contextmanager
def with_tls(port: int, authority: trustme.CA) -> Iterator[str]:
    """Yield an https URL for the http server on *port*, with a certificate of *authority*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def serve(connection: socket.socket) -> None:
        with (
            context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection(("127.0.0.1", port)) as server,
        ):
            relay(client, server, [])

    with accepting(serve) as tls_port:
        yield f"https://127.0.0.1:{tls_port}"
