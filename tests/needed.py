"""What only some machines have: a test without it is skipped, in CI it fails."""

import importlib
import os
from typing import Any

import pytest


def skip_or_fail(variable: str, reason: str) -> None:
    """Skip the test, or fail it where *variable* says that nothing may be missing."""
    (pytest.fail if os.environ.get(variable) else pytest.skip)(reason)


def needed(module: str, variable: str) -> Any:
    """Return a module of requirements/docs.txt, or of ours that imports one."""
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        skip_or_fail(variable, f"NOT TESTED: {missing}; make .venv/.docs installs it")
