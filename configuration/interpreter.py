"""Whether this Python will do, and what to run if not.

Any Python from 3.6 on must be able to read this file, as well as main.py: it is the first to run.

Raises:
    ImportError: when imported by a Python that is too old.

"""

import sys
from importlib.util import find_spec
from pathlib import Path

LEAST = (3, 11)
# What the packages of requirements.txt are imported as.
PACKAGES = (
    "dotenv",
    "jinja2",
    "mysql",
    "prometheus_client",
    "pydantic",
    "requests",
    "tqdm",
    "urllib3",
)
HERE = Path(__file__).resolve().parent.parent


def require_packages() -> None:
    """Make sure that the packages are installed, before anything is done.

    Raises ImportError that names those that are not.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError("no " + ", ".join(missing))


def problem_of_import(error: ImportError) -> str:
    """Return what to do about a package that is not there, or cannot be loaded."""
    return f"{sys.executable} cannot load what the job needs: {error}. {_instead()}"


def _instead(*, old_enough: bool = True) -> str:
    """Return what to run: the .venv beside main.py, unless that is what runs."""
    venv = HERE / ".venv"
    python = venv / "bin" / "python"
    runs_already = Path(sys.prefix).resolve() == venv.resolve()
    if runs_already and old_enough:
        return f"Run {sys.executable} -m pip install -r {HERE / 'requirements.txt'}"
    if runs_already or not python.exists():
        make = "python3 -m venv --clear .venv && .venv/bin/pip install -r requirements.txt"
        least = ".".join(str(number) for number in LEAST)
        return f"With Python {least} or newer, in {HERE}: {make}; then .venv/bin/python main.py"
    return f"Run {python} {HERE / 'main.py'}"


if sys.version_info < LEAST:
    version = ".".join(str(number) for number in sys.version_info[:3])
    raise ImportError(f"{sys.executable} is Python {version}. {_instead(old_enough=False)}")
