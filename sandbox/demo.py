"""Provides everything the job needs for a first run, while it runs."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.database import PrivateDatabase
from sandbox.iterable import IterableSandbox

SETUP = Path(__file__).resolve().parent.parent / "database_setup.sql"
API_KEY = "sandbox-key"


@contextmanager
def demo_environment() -> Iterator[dict[str, str]]:
    """Yield the job's variables for a private database and a local Iterable; stop both at the end.

    The log file is in a temporary folder, so that only the results remain.

    Raises:
        NoServerError: no database server could be started; the message says what to install.

    """
    with (
        tempfile.TemporaryDirectory(prefix="iterable-demo-") as folder,
        PrivateDatabase() as database,
        IterableSandbox(api_key=API_KEY) as iterable,
    ):
        database.load(SETUP)
        yield {
            **database.settings,
            "ITERABLE_API_KEY": API_KEY,
            "ITERABLE_API_BASE_URL": iterable.url,
            "LOG_LEVEL": "INFO",
            "LOG_FILE": str(Path(folder, "iterable_integration.log")),
            "STATE_FILE": str(Path(folder, "state.sqlite3")),
        }
