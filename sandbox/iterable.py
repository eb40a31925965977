"""A local Iterable on a real socket: four endpoints that write, one that reads, faults on demand.

``python3 -m sandbox.iterable --port 8080`` runs it alone; ``with IterableSandbox() as iterable:``
runs it in a thread of a test or a demo.

It reads and writes HTTP itself, because half of the faults are bytes that no web framework would
send.

``/api/...`` has the endpoints of ``endpoints.py``. These paths, with answers in JSON, control it:

    GET  /sandbox/stats
    GET  /sandbox/requests  ?offset=0&limit=1000
    POST /sandbox/settings  {"latency_ms": 300, "limits": false, ...}: see ``settings.py``
    POST /sandbox/faults    [{"kind": "server_error", "times": 2}, ...]: replaces those in force
"""

import argparse
import asyncio
import contextlib
import gc
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from http.client import responses
from typing import Final, Self

from sandbox.bodies import Answer
from sandbox.stand_in import Decision, Received, StandIn

_BLANKS: Final = b" " * 65_536
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER with a time of 0


async def _read_request(reader: asyncio.StreamReader) -> Received:
    """Return the next request of a connection.

    Raises:
        asyncio.IncompleteReadError: the client has closed the connection.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    method, target, _version = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    path, _, query = target.partition("?")
    return Received(time.time(), method, path, query, headers, body)


def _head_of(answer: Answer, began: float) -> bytes:
    """Return status line and headers; JSON answers have those of Iterable's ingress."""
    headers = {
        "Content-Type": answer.content_type,
        "Content-Length": len(answer.body) + answer.blanks,
        "Connection": "keep-alive",
    }
    if answer.content_type == "application/json":
        spent_ms = int((time.perf_counter() - began) * 1000)
        headers["Vary"] = "Origin"
        headers |= {"Request-Time": spent_ms, "Server": "iterable-ingress sandbox"}
    lines = [f"{name}: {value}" for name, value in {**headers, **answer.headers}.items()]
    first = f"HTTP/1.1 {answer.status} {responses.get(answer.status, 'Unknown')}"
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


class _Connection:
    """One client's connection, kept open until one side closes it or a fault ends it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def serve(self, stand_in: StandIn) -> None:
        # The client may leave at any time, and the end of the server cancels each task.
        ends = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)
        with contextlib.closing(self._writer), contextlib.suppress(*ends):
            while await self._serve_one(stand_in):
                pass

    async def _serve_one(self, stand_in: StandIn) -> bool:
        """Answer one request; return whether the connection stays open."""
        request = await _read_request(self._reader)
        began = time.perf_counter()
        decision = stand_in.decide(request)
        if decision.latency_s:
            await asyncio.sleep(decision.latency_s)
        goes_on = await self._deliver(decision, began)
        return goes_on and request.headers.get("connection") != "close"

    async def _deliver(self, decision: Decision, began: float) -> bool:
        """Send the answer as the fault says; return whether the connection stays open."""
        answer, fault = decision.answer, decision.fault
        if answer is None:
            await self._break_off(fault.seconds if fault and fault.kind == "hang" else 0.0)
            return False
        cut = fault is not None and fault.kind == "truncated"
        # One write, so one packet.
        body = answer.body[: len(answer.body) // 2 if cut else None]
        self._writer.write(_head_of(answer, began) + body)
        await self._writer.drain()
        for sent in range(0, answer.blanks, len(_BLANKS)):
            self._writer.write(_BLANKS[: answer.blanks - sent])
            await self._writer.drain()
        return not cut and answer.headers.get("Connection") != "close"

    async def _break_off(self, wait_s: float) -> None:
        """Reset the connection once the client has left or the wait is over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._reader.read(1), wait_s)
        self._writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
        )
        self._writer.transport.abort()


class IterableSandbox(StandIn):
    """The stand-in on a socket of this machine; ``with`` runs it in a thread of this process.

    Raises on entering:
        OSError: the port is taken.
    """

    url: str

    def __init__(
        self, port: int = 0, tls: ssl.SSLContext | None = None, **settings: object
    ) -> None:
        super().__init__(**settings)
        self._port, self._tls = port, tls
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="iterable-sandbox", daemon=True)

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        # Connections inherit it, so that no answer waits for an earlier one.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._socket.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # ends the connections too
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._accept, sock=self._socket, limit=1 << 20, ssl=self._tls
        )
        await self._stop.wait()
        server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        await _Connection(reader, writer).serve(self)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python3 -m sandbox.iterable", description="Local Iterable."
    )
    parser.add_argument("--port", type=int, required=True, help="0 takes any free one")
    parser.add_argument("--tls", metavar="PEM", help="a certificate with its key, to serve https")
    args = parser.parse_args(argv)
    tls = None
    if args.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(args.tls)
    # Its data have no reference cycles; collecting among millions of rows would cause long pauses.
    gc.set_threshold(50_000, 20, 1_000_000)
    # Freeing one large block makes glibc keep such blocks. Otherwise asyncio's read buffers of
    # 256 KiB would come from the kernel each time, and a request would take 20 % longer.
    bytes(1_000_000)
    # Blocked first, or one that came just before the wait would be missed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with IterableSandbox(args.port, tls) as iterable:
        print(iterable.url, flush=True)
        signal.sigwait({signal.SIGINT})


if __name__ == "__main__":
    main()
