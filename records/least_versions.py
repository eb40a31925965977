"""The least versions of what the job runs on: stated here, and looked at by what uses each.

That of Python is in configuration/interpreter.py, which an older one has to be able to read.
"""

import re

SQLITE = (3, 26)
# The first ones with the window function of Query 2.
MYSQL = (8, 0)
MARIADB = (10, 2)


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def old_sqlite(version: tuple[int, ...]) -> str:
    """Return what is to be said of an SQLite that is too old, "" if it is not."""
    if version >= SQLITE:
        return ""
    return (
        f"Python's sqlite3 module has SQLite {dotted(version)}, and STATE_FILE needs "
        f"{dotted(SQLITE)} or newer: use another Python, or a newer system"
    )


def old_server(version: str) -> str:
    """Return what is to be said of a database that is too old, "" if it is not.

    *version* is what SELECT VERSION() says. Relatives of MySQL's with numbers of their own are
    taken as they are.
    """
    found = re.match(r"(\d+)\.(\d+)[\d.]*", version)
    if found is None or re.search(r"OceanBase|TiDB", version):
        return ""
    name, least = ("MariaDB", MARIADB) if "MariaDB" in version else ("MySQL", MYSQL)
    if (int(found[1]), int(found[2])) >= least:
        return ""
    return (
        f"the server is {name} {found[0]}, and Query 2 as it comes needs MySQL {dotted(MYSQL)} or "
        f"MariaDB {dotted(MARIADB)}, or newer"
    )
