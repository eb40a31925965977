"""A real headless browser: the system's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.needed import needed, skip_or_fail

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Page:
    """One tab. ``problems`` collects what the console, the page's policy and its scripts report."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._page: Any = None
        self.problems: list[str] = []

    def open(self, path: Path, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Load a file in a window of *width* CSS pixels that prefers light or dark colours."""
        if self._page:
            self._page.close()
        self._page = self._browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        self._page.on("console", lambda message: self.problems.append(message.text))
        self._page.on("pageerror", lambda error: self.problems.append(str(error)))
        self._page.on("request", self._note_request)
        self._page.goto(path.as_uri())

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.problems.append(request.url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        return self._page.evaluate(expression)

    def screenshot(self, target: Path, *, full: bool = True) -> None:
        """Save the whole page, or what is in the window, as a PNG."""
        self._page.screenshot(path=target, full_page=full)


@contextmanager
def browser() -> Iterator[Page]:
    """Start Chromium without a window and yield its one tab; skip the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        skip_or_fail("EXPECT_BROWSER", "NO BROWSER TEST: on Debian, apt-get install chromium")
    with needed("playwright.sync_api", "EXPECT_BROWSER").sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root, as CI does.
        chromium = playwright.chromium.launch(
            executable_path=program, chromium_sandbox=os.geteuid() != 0
        )
        yield Page(chromium)
        chromium.close()
