"""The report, as its reader sees it."""

import html
import re
from datetime import UTC, datetime

from monitoring import report

NOW = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)


def write_report_at(folder, now=NOW):
    """Write the report on *folder* at the time *now* and return its path."""
    return report.write_report(folder, now)


def report_text(folder, now=NOW):
    """Return what a reader of the report on *folder* sees, in one line."""
    page = write_report_at(folder, now).read_text()
    page = re.sub(r"<(style|title|desc)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
