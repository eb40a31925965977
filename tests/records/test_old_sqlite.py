"""The ledger on the oldest SQLite that there is on a machine which the job is promised for."""

import os
import re
import subprocess
import sys

import pytest

from configuration.settings import HERE

FOLDER = HERE / ".cache" / "sqlite"


@pytest.mark.program
def test_every_statement_of_the_ledger_works_on_the_oldest_sqlite():
    found = _on_the_oldest("-c", "import sqlite3; print(sqlite3.sqlite_version)").stdout.strip()
    if not found.startswith("3.26."):
        reason = f"this is SQLite {found}; tests/fetch_sqlite.sh .cache/sqlite gets the oldest one"
        assert "EXPECT_OLD_SQLITE" not in os.environ, reason
        pytest.skip(reason)
    tests = ["tests/records/test_delivery_ledger.py", "tests/delivery/test_planner.py"]
    done = _on_the_oldest("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 30


def _on_the_oldest(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LD_LIBRARY_PATH": str(FOLDER)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environ, cwd=HERE, capture_output=True, text=True, check=False
    )
