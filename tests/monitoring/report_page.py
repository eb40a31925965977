"""The report, as its reader sees it."""

import html
import re
from datetime import UTC, datetime

from monitoring.report import write_report

NOW = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)


def report_text(folder, now=NOW):
    """Return what a reader of the report on *folder* sees, in one line."""
    page = write_report(folder, now).read_text()
    page = re.sub(r"<style.*?</style>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
