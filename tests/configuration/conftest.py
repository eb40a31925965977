"""Settings for the tests of a run's steps and of --check, with files in a folder of their own."""

import subprocess
import sys

import pytest
import requests

from configuration.settings import HERE, load_environment_variables
from tests.test_main import API_KEY

# For what has to fail before a database is asked for.
NOWHERE = {
    "DB_HOST": "127.0.0.1",
    "DB_PORT": "1",
    "DB_USER": "u",
    "DB_PASSWORD": "",
    "DB_NAME": "d",
}


@pytest.fixture
def environ(iterable, tmp_path):
    """Return settings without a database."""
    iterable.change(api_key=API_KEY)
    return {
        **NOWHERE,
        "ITERABLE_API_KEY": API_KEY,
        "ITERABLE_API_BASE_URL": iterable.url,
        "RESULTS_DIR": str(tmp_path / "results"),
        "LOG_FILE": str(tmp_path / "logs" / "job.log"),
        "STATE_FILE": str(tmp_path / "state" / "ledger.sqlite3"),
    }


@pytest.fixture
def held():
    """Return what makes another process run Python code, print "held" and wait for the test's end.

    It gets the path in ``path``.
    """
    processes = []

    def hold(code, path):
        program = f"import sys\nfrom pathlib import Path\npath = Path({str(path)!r})\n{code}\n"
        program += "print('held', flush=True)\nsys.stdin.read()"
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=HERE, stdin=pipe, stdout=pipe
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"

    yield hold
    for process in processes:
        process.communicate(b"")


LEDGER_HELD = """
from records.delivery_ledger import DeliveryLedger
ledger = DeliveryLedger(path, 'https://api.iterable.com', 'k')
"""
LOG_HELD = """
from logger_config import setup_logger
setup_logger("INFO", path, quiet=True).info("mine")
"""


def update_user(iterable, fields):
    """Give a user of the project these profile fields, as some other program does."""
    requests.post(
        f"{iterable.url}/api/users/update",
        json={"email": "ann@example.com", "dataFields": fields},
        headers={"Api-Key": API_KEY},
        timeout=10,
    ).raise_for_status()


def settings_of(environ, **changes):
    """Return the settings in *environ*; *changes* replace variables."""
    return load_environment_variables(None, environ | changes)
