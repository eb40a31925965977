"""What is too old is said in a sentence of its own; the versions stand in one place."""

import re
import sqlite3
import tomllib

import pytest

from configuration.interpreter import LEAST as PYTHON
from configuration.settings import HERE
from records.least_versions import MARIADB, MYSQL, SQLITE, dotted, old_server, old_sqlite


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("5.7.44-log", "the server is MySQL 5.7.44, and Query 2 as it comes needs MySQL 8.0"),
        ("10.1.48-MariaDB-0+deb9u2", "the server is MariaDB 10.1.48, and Query 2"),
        ("8.0.11", ""),
        ("8.4.3-commercial", ""),
        ("9.7.4-0+deb", ""),
        ("10.2.6-MariaDB-log", ""),
        ("10.11.19-MariaDB", ""),
        ("5.7.25-OceanBase seekdb-v1.4.0.0", ""),
        ("5.7.25-TiDB-v7.5.0", ""),
        ("something of its own", ""),
        ("", ""),
    ],
)
def test_a_server_that_is_too_old_is_told(version, told):
    assert old_server(version).startswith(told)
    assert bool(old_server(version)) == bool(told)


def test_an_sqlite_that_is_too_old_is_told():
    assert old_sqlite((3, 26, 0)) == old_sqlite(sqlite3.sqlite_version_info) == ""
    assert old_sqlite((3, 25, 3)).startswith(
        "Python's sqlite3 module has SQLite 3.25.3, and STATE_FILE needs 3.26 or newer"
    )


def test_the_readme_states_the_same_versions():
    least = {"Python": PYTHON, "MySQL": MYSQL, "MariaDB": MARIADB, "SQLite": SQLITE}
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| (Python|MySQL|MariaDB|SQLite) \| ([\d.]+) ", readme, re.M))
    assert stated == {name: dotted(version) for name, version in least.items()}


def test_the_linter_knows_the_least_python():
    tools = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["ruff"]["target-version"] == f"py{PYTHON[0]}{PYTHON[1]}"
    assert tools["mypy"]["python_version"] == dotted(PYTHON)
