"""A real headless browser: Chromium, driven through its DevTools protocol over a pipe.

Two descriptors and JSON are all that takes. A driver library would bring 50 MB for one test.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Return the browser on the PATH, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. ``problems`` collects what the console, the page's policy and its scripts report."""

    def __init__(self, reading: int, writing: int) -> None:
        self._answers = os.fdopen(reading, "rb")
        self._orders = os.fdopen(writing, "wb", buffering=0)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self._seen: list[str] = []
        self.problems: list[Any] = []

    def start(self) -> None:
        """Open an empty tab and listen to it."""
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Send one order and return its answer; note what is reported in between."""
        self._number += 1
        order: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            order["sessionId"] = self._session
        self._orders.write(json.dumps(order).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._answers.fileno(), 65536)
            assert more, "the browser has ended"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        method = message.get("method", "")
        self._seen.append(method)
        if method in {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}:
            self.problems.append(message["params"])
        url = message.get("params", {}).get("request", {}).get("url", "")
        if method == "Network.requestWillBeSent" and not url.startswith(("file:", "data:")):
            self.problems.append(url)
        return message

    def open(self, path: Path, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Load a file in a window of *width* CSS pixels that prefers light or dark colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self._seen.clear()
        self.call("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self._seen:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, target: Path) -> None:
        """Save the whole page as a PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        target.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """Close both ends of the pipe, which ends the browser."""
        self._orders.close()
        self._answers.close()


@contextmanager
def browser(program: str) -> Iterator[Page]:
    """Start *program* without a window and yield its one tab."""
    orders, writing = os.pipe()
    reading, answers = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = (
            *("--headless", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            # The sandbox of Chromium refuses to run as root, as CI does.
            *(("--no-sandbox",) if os.geteuid() == 0 else ()),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
        )
        # The protocol's descriptors are 3 and 4; a shell puts them there.
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{orders} 4>&{answers}', program, *options],
            pass_fds=(orders, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(orders)
        os.close(answers)
        page = Page(reading, writing)
        try:
            page.start()
            yield page
        finally:
            page.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
