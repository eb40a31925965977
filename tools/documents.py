"""What the documents take from the code: make docs writes it, in README.md with cog."""

import json
import os
import subprocess
import sys

from configuration.settings import HERE
from records.results_model import json_schema

SAMPLE = HERE / "docs" / "SAMPLE_RESULTS.json"
SCHEMA = HERE / "docs" / "results.schema.json"


def main() -> None:
    """Write the JSON Schema of the results file."""
    SCHEMA.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")


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


if __name__ == "__main__":
    main()
