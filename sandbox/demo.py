"""Everything the job needs for a first run, for as long as the run lasts."""

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

    The log file goes to a temporary folder, so that only the results are left.

    Raises:
        NoServerError: there is no database server to start; the message says what to install.

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
