"""Settings for the tests of a run's steps and of --check, with files in a folder of their own."""

import pytest

from configuration.settings import load_environment_variables
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


def settings_of(environ, **changes):
    """Return the settings in *environ*; *changes* replace variables."""
    return load_environment_variables(None, environ | changes)
