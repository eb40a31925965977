"""What the documents take from the code: make docs writes it into README.md, with cog."""

import os
import subprocess
import sys

from configuration.settings import HERE

SAMPLE = HERE / "docs" / "SAMPLE_RESULTS.json"


def usage() -> str:
    """Return what --help says, as a block of Markdown."""
    done = subprocess.run(
        [sys.executable, HERE / "main.py", "--help"],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return f"```text\n{done.stdout.strip()}\n```"
