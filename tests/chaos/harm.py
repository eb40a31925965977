"""What breaks around the job in run.py: connections at any byte, and disks that fill."""

import contextlib
import math
import select
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all
STALL_LIMIT_S = 120.0
DISK_BYTES = 16 << 20

# Does something to a client's connection, or around it; says whether the rest is passed on.
Harm = Callable[[socket.socket], bool]


class Proxy:
    """Passes on what a server says, and does *harm* after *after* bytes of it.

    ``port``: where it listens. ``passed``: the bytes that came from the server so far.
    """

    def __init__(self, host: str, port: int, after: float, harm: Harm) -> None:
        self._address, self._after, self._harm = (host, port), after, harm
        self.passed = 0

    def __enter__(self) -> "Proxy":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would not wake who waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.socket() as server, contextlib.suppress(OSError):
            server.connect(self._address)
            while True:
                # One thread for both ways: a socket that another thread reads cannot be reset.
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    if not (data := client.recv(1 << 16)):
                        return
                    server.sendall(data)
                if server in ready and not (
                    (data := server.recv(1 << 14)) and self._pass_on(data, client)
                ):
                    return

    def _pass_on(self, data: bytes, client: socket.socket) -> bool:
        """Return whether the connection goes on."""
        left = int(min(len(data), self._after - self.passed))
        client.sendall(data[:left])
        self.passed += left
        if left < len(data):
            self._after = math.inf
            if not self._harm(client):
                return False
            client.sendall(data[left:])
            self.passed += len(data) - left
        return True


def reset(client: socket.socket) -> bool:
    """Break the connection off with a TCP reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    return False


def close(_: socket.socket) -> bool:
    """End the connection in order, though in the middle of an answer."""
    return False


def stall(client: socket.socket) -> bool:
    """Say nothing more until the client gives up."""
    select.select([client], [], [], STALL_LIMIT_S)
    return False


class SmallDisk:
    """A disk that can be filled: a tmpfs of its own. Mounting takes root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def __enter__(self) -> "SmallDisk":
        self.folder.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", str(self.folder)]
        subprocess.run(mount, check=True, capture_output=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def fill(self, leave: int) -> None:
        """Write until only *leave* bytes are free."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while (free := shutil.disk_usage(self.folder).free) > leave:
                file.write(bytes(min(1 << 20, free - leave)))

    def clear(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def empty(self) -> None:
        """Remove everything."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
