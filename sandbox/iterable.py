"""A local Iterable on a real socket: four endpoints that write, some that read, faults on demand.

``python3 -m sandbox.iterable --port 8080`` runs it alone; ``with IterableSandbox() as iterable:``
runs it in a thread of a test or a demo.

The standard library only, and an HTTP reader of its own instead of a web framework: a framework
decides what goes over the wire, and half of the faults are bytes that no framework would send.

``/api/...`` is as in ``endpoints.py``. Besides, it answers whoever asks, in JSON:

    GET  /sandbox/users, /sandbox/events, /sandbox/requests    ?offset=0&limit=1000
    GET  /sandbox/stats, /sandbox/settings
    POST /sandbox/settings  {"latency_ms": 300, "limits": false, ...}: names as GET shows them
    POST /sandbox/faults    [{"kind": "server_error", "times": 2}, ...]: replaces the script
    POST /sandbox/forget    ["sarah@example.com", ...]
    POST /sandbox/disallow  ["page_view", ...]
    POST /sandbox/reset     forgets everything but the settings
"""

import argparse
import asyncio
import contextlib
import gc
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar

from sandbox.bodies import Answer
from sandbox.events import Event
from sandbox.faults import Fault, Script
from sandbox.profiles import User
from sandbox.stand_in import Decision, Received, Request, StandIn

T = TypeVar("T")

_MAX_REQUEST_BYTES: Final = 64_000_000
_HANG_S: Final = 60.0
_DRIP_S: Final = 10.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all


class BadRequestError(Exception):
    """What came is not HTTP as far as this server reads it."""


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Return the next request of a connection.

    Raises:
        asyncio.IncompleteReadError: the client has left.
        BadRequestError: malformed, too large, or without Content-Length.
    """
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        method, target, _version = first.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise BadRequestError from error
    if length > _MAX_REQUEST_BYTES or "transfer-encoding" in headers:
        raise BadRequestError
    body = await reader.readexactly(length) if length else b""
    path, _, query = target.partition("?")
    return Request(method, path, query, headers, body)


def head_of(answer: Answer, began: float, date: str) -> bytes:
    """Return status line and headers; Iterable's own JSON carries its ingress's headers."""
    lines = [
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body) + answer.blanks}",
    ]
    if "Connection" not in answer.headers:
        lines.append("Connection: keep-alive")
    if date:
        lines.append(f"Date: {date}")
    if answer.content_type == "application/json":
        spent_ms = int((time.perf_counter() - began) * 1000)
        lines += ["Vary: Origin", f"Request-Time: {spent_ms}", "Server: iterable-ingress sandbox"]
    return _head(answer.status, lines, answer.headers)


def _head(status: int, lines: list[str], headers: Mapping[str, str]) -> bytes:
    start = f"HTTP/1.1 {status} {_reason(status)}"
    more = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([start, *lines, *more, "", ""]).encode("latin-1")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


class _Connection:
    """One client's connection, kept alive until one side leaves or a fault ends it."""

    def __init__(
        self, stand_in: StandIn, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._stand_in, self._reader, self._writer = stand_in, reader, writer

    async def serve(self) -> None:
        # Leaving is the client's right at any point.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                while await self._serve_one():
                    pass
            except BadRequestError:
                await self._send(Answer(400, b"", "text/plain"), time.perf_counter())
            finally:
                self._writer.close()

    async def _serve_one(self) -> bool:
        """Answer one request; return whether the connection goes on."""
        request = await read_request(self._reader)
        began = time.perf_counter()
        if request.path.startswith("/sandbox/"):
            await self._send(self._stand_in.control(request), began)
        else:
            decision = self._stand_in.decide(request)
            if decision.latency_s:
                await asyncio.sleep(decision.latency_s)
            if not await self._deliver(decision, began):
                return False
        return request.headers.get("connection", "").lower() != "close"

    async def _deliver(self, decision: Decision, began: float) -> bool:
        """Send the answer, in the manner of the fault; return whether the connection goes on."""
        answer, fault = decision.answer, decision.fault
        manner = "whole" if fault is None else fault.manner
        if fault is not None:
            await self._before_answer(fault)
        if answer is None or manner in ("hang", "reset"):
            self._reset()
            return False
        if manner == "truncated":
            await self._send(answer, began, body=answer.body[: len(answer.body) // 2])
            return False
        if fault is not None and manner == "drip":
            head = head_of(answer, began, self._stand_in.date())
            await self._drip(head + answer.body, fault.seconds or _DRIP_S)
            return True
        await self._send(answer, began)
        return answer.headers.get("Connection") != "close"

    async def _before_answer(self, fault: Fault) -> None:
        for status in fault.interim_statuses:
            self._writer.write(_head(status, [], fault.interim_headers))
            await self._writer.drain()
        if fault.manner == "hang":
            # A client that leaves ends the read; one that waits gets nothing.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reader.read(1), fault.seconds or _HANG_S)

    async def _send(self, answer: Answer, began: float, body: bytes | None = None) -> None:
        # One write, one packet; asyncio has set TCP_NODELAY on the socket.
        head = head_of(answer, began, self._stand_in.date())
        self._writer.write(head + (answer.body if body is None else body))
        await self._writer.drain()
        for part in answer.blank_parts():
            self._writer.write(part)
            await self._writer.drain()

    async def _drip(self, data: bytes, seconds: float) -> None:
        for byte in data:
            self._writer.write(bytes((byte,)))
            await self._writer.drain()
            await asyncio.sleep(seconds / len(data))

    def _reset(self) -> None:
        """Drop the connection with a TCP reset instead of an orderly end."""
        self._writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
        )
        self._writer.transport.abort()


async def serve(
    stand_in: StandIn,
    address: tuple[str, int],
    on_ready: Callable[[str], None],
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve until *stop* is set; *on_ready* gets the URL once connections are accepted."""
    host, port = address
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stand_in.connections += 1
        task = asyncio.create_task(_Connection(stand_in, reader, writer).serve())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, host, port, limit=1 << 20, backlog=1024, ssl=tls)
    scheme = "https" if tls else "http"
    on_ready(f"{scheme}://{host}:{server.sockets[0].getsockname()[1]}")
    await stop.wait()
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class IterableSandbox:
    """The stand-in in a thread of this process; its methods may be called from any thread.

    Settings are those of ``/sandbox/settings``, by keyword: ``IterableSandbox(limits=False)``.

    Raises:
        ValueError: unknown setting.
    """

    url: str

    def __init__(self, **settings: object) -> None:
        self._stand_in = StandIn(**settings)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="iterable-sandbox", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._ask(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()

        def on_ready(url: str) -> None:
            self.url = url
            self._ready.set()

        await serve(self._stand_in, ("127.0.0.1", 0), on_ready, self._stop)

    def _ask(self, question: Callable[[], T]) -> T:
        """Run *question* between two requests, in the thread that owns the state."""

        async def answer() -> T:
            return question()

        if not self._thread.is_alive():
            return question()
        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result()

    @property
    def users(self) -> dict[str, User]:
        """A copy of the profiles, by lower-cased email; by userId in a userID-based project."""
        return self._ask(self._stand_in.project.users.copy)

    @property
    def events(self) -> dict[str, Event]:
        """A copy of the events, by id."""
        return self._ask(self._stand_in.project.events.copy)

    @property
    def requests(self) -> list[Received]:
        """A copy of the log, oldest first; what went to /sandbox/ is not in it."""
        return self._ask(lambda: list(self._stand_in.received))

    @property
    def stats(self) -> dict[str, Any]:
        """Counts, as ``/sandbox/stats`` shows them."""
        return self._ask(self._stand_in.stats)

    def change(self, **settings: object) -> None:
        """Change settings, as ``/sandbox/settings`` does; ValueError for an unknown one."""
        self._ask(lambda: self._stand_in.change(settings))

    def set_faults(self, *faults: Fault) -> None:
        """Replace the script of faults; without arguments, end it."""
        self._ask(lambda: setattr(self._stand_in, "script", Script(faults)))

    def forget(self, *identifiers: str) -> None:
        """Refuse these emails or userIds from now on, and delete their profiles."""
        for identifier in identifiers:
            self._ask(partial(self._stand_in.project.forget, identifier))

    def disallow(self, *event_names: str) -> None:
        """Refuse events of these names from now on."""
        self._ask(lambda: self._stand_in.project.disallowed_events.update(event_names))

    def reset(self) -> None:
        """Forget everything but the settings."""
        self._ask(self._stand_in.reset)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m sandbox.iterable", description="Local Iterable."
    )
    parser.add_argument("--port", type=int, required=True, help="0 takes any free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of each answer")
    parser.add_argument("--no-limits", action="store_true", help="accept any rate of requests")
    parser.add_argument("--limit-scale", type=float, default=1.0, help="times the real limits")
    parser.add_argument("--api-key", help="the only key accepted; default: any")
    parser.add_argument("--tls", metavar="PEM", help="a certificate with its key, to serve https")
    return parser.parse_args(argv)


async def _serve_until_signal(stand_in: StandIn, args: argparse.Namespace) -> None:
    tls = None
    if args.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(args.tls)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    address = (args.host, args.port)
    await serve(stand_in, address, lambda url: print(url, flush=True), stop, tls)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM and return 0; 1 if the port is taken."""
    args = parse_args(argv)
    stand_in = StandIn(
        latency_ms=args.latency_ms,
        limits=not args.no_limits,
        limit_scale=args.limit_scale,
        api_key=args.api_key,
    )
    # What it holds has no cycles; looking for them among millions of rows would stop the clock.
    gc.set_threshold(50_000, 20, 1_000_000)
    try:
        asyncio.run(_serve_until_signal(stand_in, args))
    except OSError as error:
        print(f"sandbox.iterable: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
