"""A private database server in a temporary folder, for the demo and the tests.

It uses the first of these that starts: an installed ``mariadbd`` or ``mysqld``, else the server in
the PyPI package pylibseekdb, which speaks MySQL's protocol. Only this machine can reach it, its
data are deleted, and it ends with this process. Linux and macOS.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import mysql.connector
from mysql.connector.abstracts import MySQLConnectionAbstract
from mysql.connector.pooling import PooledMySQLConnection as Pooled

DATABASE_NAME: Final = "iterable_challenge"  # as in database_setup.sql
JOB_USER: Final = "iterable_job"
START_LIMIT_S: Final = 60.0

# Folders where packages install a server outside an ordinary user's PATH.
USUAL_FOLDERS = "/usr/sbin:/usr/libexec:/usr/local/sbin:/usr/local/mysql/bin:/opt/homebrew/bin"

NO_SERVER: Final = """\
no database server could be started. Either of these helps:
  apt-get install mariadb-server-core   (Debian, Ubuntu; on macOS: brew install mariadb)
  pip install pylibseekdb               (Linux with glibc; macOS 15 on Apple silicon)"""

# The data need not survive a power failure. They do survive a kill -9 of the server.
OPTIONS: Final = """--innodb-flush-log-at-trx-commit=2 --innodb-flush-method=nosync
    --innodb-doublewrite=0 --character-set-server=utf8mb4 --default-time-zone=+00:00
    --skip-name-resolve --bind-address=127.0.0.1"""
MARIADB_OPTIONS: Final = "--innodb-log-file-size=16M --aria-log-file-size=8388608"
# Without mysqlx=0 it opens a second port; without secure-file-priv it needs a folder in /var/lib.
MYSQL_OPTIONS: Final = """--loose-innodb-redo-log-capacity=64M --loose-mysqlx=0
    --secure-file-priv=NULL --disable-log-bin --performance-schema=OFF"""
# pylibseekdb starts it with these limits, too.
SEEKDB_OPTIONS: Final = """--embedded --nodaemon
    --parameter memory_budget=1G --parameter log_disk_size=2G"""


class NoServerError(RuntimeError):
    """No server could be started; the message says what to install, and what was tried."""


class _StartError(Exception):
    """This server did not start; another one may."""


def find_servers() -> Iterator[Path]:
    """Yield this machine's servers, best first: PATH in order, usual folders, pylibseekdb."""
    folders = f"{os.environ.get('PATH', '')}:{USUAL_FOLDERS}".split(":")
    for folder in filter(None, dict.fromkeys(folders)):
        for name in ("mariadbd", "mysqld"):
            if found := shutil.which(name, path=folder):
                yield Path(found)
    # The package has a program, and a library that starts it with an empty environment. We start
    # the program ourselves, because telemetry is turned off by a variable.
    spec = importlib.util.find_spec("pylibseekdb")
    for folder in (spec and spec.submodule_search_locations) or ():
        if found := shutil.which("seekdb", path=folder):
            yield Path(found)


def run_script(connection: MySQLConnectionAbstract | Pooled, sql: str) -> list[list[Any]]:
    """Run all statements of *sql*; return the rows of each, an empty list if there are none."""
    with connection.cursor() as cursor:
        cursor.execute(sql, map_results=True)
        return [rows for _, rows in cursor.fetchsets()]


class PrivateDatabase:
    """One private server, from ``with`` until the block ends. Enter it in the main thread.

    ``settings``: DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME for the job, with a user that
    may only SELECT. A DB_HOST that begins with '/' is a Unix socket: pylibseekdb has no port.
    ``version``: what SELECT VERSION() says. ``kind``: 'mariadb', 'mysql' or 'seekdb'.
    ``server``: the program that runs.

    A mariadbd or mysqld also gets *options* on its command line.

    Raises on entering:
        NoServerError: nothing started. With *server* given, only that one is tried.
    """

    settings: dict[str, str]
    version: str
    kind: str
    server: Path

    def __init__(self, server: str | Path | None = None, options: Sequence[str] = ()) -> None:
        self._candidates = [Path(server)] if server else None
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        problems = []
        for server in self._candidates or find_servers():
            try:
                with contextlib.ExitStack() as cleanup:
                    self._set_up(server.absolute(), cleanup)
                    self._cleanup = cleanup.pop_all()
                    return self
            except (_StartError, OSError, subprocess.SubprocessError) as error:
                problems.append(f"\n{server} did not start: {error}")
        raise NoServerError(NO_SERVER + "".join(problems))

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def connection_options(self, database: str | None = None) -> dict[str, Any]:
        """Return the options for mysql.connector.connect to log in as root."""
        return {
            "unix_socket": str(self._socket),
            "user": "root",
            "password": self._root_password,
            "database": database or "",
            "charset": "utf8mb4",
            "collation": "utf8mb4_general_ci",  # the only one that all three kinds know
            "time_zone": "+00:00",
            "autocommit": True,
            "connection_timeout": 10,
        }

    def load(self, path: Path) -> None:
        """Run an SQL file as root."""
        with mysql.connector.connect(**self.connection_options()) as connection:
            run_script(connection, path.read_text(encoding="utf-8"))

    def kill(self) -> None:
        """Kill the server (kill -9); its data stay for restart()."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Start the server again on the data it had, with the same address and passwords."""
        self.kill()
        self._start()

    def _set_up(self, server: Path, cleanup: contextlib.ExitStack) -> None:
        self.server = server
        self.kind = _kind_of(server)
        # A socket's path has at most 103 bytes on macOS, of which we need 40.
        temp = tempfile.gettempdir()
        temporary = tempfile.TemporaryDirectory(
            prefix="private-db-",
            dir=temp if len(os.fsencode(temp)) < 60 else "/tmp",  # noqa: S108 - a folder of our own
            ignore_cleanup_errors=True,
        )
        folder = Path(cleanup.enter_context(temporary))
        cleanup.callback(self.kill)
        self._log = folder / "server.log"
        self._job_password = secrets.token_urlsafe(16)
        if self.kind == "seekdb":
            self._prepare_seekdb(folder, cleanup)
        else:
            self._prepare_daemon(folder)
        self._start_on_a_free_port()
        if self.kind == "seekdb":
            with mysql.connector.connect(**self.connection_options()) as connection:
                run_script(connection, self._accounts())
        self.settings = {
            "DB_HOST": str(self._socket) if self.kind == "seekdb" else "127.0.0.1",
            "DB_PORT": str(self._port),
            "DB_USER": JOB_USER,
            "DB_PASSWORD": self._job_password,
            "DB_NAME": DATABASE_NAME,
        }

    def _accounts(self) -> str:
        """Return SQL that creates the two users, one statement per line, as bootstrap requires."""
        root = {
            "mariadb": f"CREATE USER root@'%' IDENTIFIED BY '{self._root_password}';\n"
            "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;\n",
            "mysql": f"ALTER USER root@localhost IDENTIFIED BY '{self._root_password}';\n"
            "RENAME USER root@localhost TO root@'%';\n",
            # Its root has no password, but needs access to our folder. Its time zone is +08:00.
            "seekdb": "SET GLOBAL time_zone = '+00:00';\n",
        }[self.kind]
        job = f"CREATE USER {JOB_USER}@'%' IDENTIFIED BY '{self._job_password}';\n"
        return f"{root}{job}GRANT SELECT ON *.* TO {JOB_USER}@'%';\n"

    def _prepare_daemon(self, folder: Path) -> None:
        """Fill the data folder of MariaDB or MySQL."""
        self._root_password = secrets.token_urlsafe(16)
        self._socket = folder / "s.sock"
        self._command = [str(self.server), "--no-defaults", f"--datadir={folder / 'data'}"]
        more = MARIADB_OPTIONS if self.kind == "mariadb" else MYSQL_OPTIONS
        # In a shared tmpdir, MariaDB would delete the files of other servers when it starts.
        self._command += [*OPTIONS.split(), *more.split(), f"--tmpdir={folder}", *self._options]
        if os.geteuid() == 0:
            self._command.append("--user=root")  # or it refuses to start
        script = folder / "init.sql"
        if self.kind == "mariadb":
            (folder / "data").mkdir()
            script.write_text(_mariadb_system_sql(self.server) + self._accounts())
            how = ["--bootstrap"]  # reads standard input
        else:
            script.write_text(self._accounts())
            how = ["--initialize-insecure", f"--init-file={script}"]
        with self._log.open("wb") as log, script.open("rb") as stdin:
            status = subprocess.call(
                [*self._command, *how], stdin=stdin, stdout=log, stderr=log, timeout=START_LIMIT_S
            )
        if status:
            raise _StartError(self._last_words())

    def _prepare_seekdb(self, folder: Path, cleanup: contextlib.ExitStack) -> None:
        """Create the files that pylibseekdb itself would create."""
        self._root_password = ""
        run = folder / "db" / "run"
        run.mkdir(parents=True)
        self._socket = run / "sql.sock"
        self._command = [str(self.server), f"--base-dir={folder / 'db'}", *SEEKDB_OPTIONS.split()]
        # The server ends when nobody holds this lock any more.
        lock = cleanup.enter_context((run / "seekdb.clients").open("w"))
        fcntl.flock(lock, fcntl.LOCK_SH)

    def _start_on_a_free_port(self) -> None:
        self._port = _free_port()
        try:
            self._start()
        except _StartError as error:
            # Another program may have taken the port in the meantime.
            if "in use" not in str(error):
                raise
            self._port = _free_port()
            self._start()

    def _start(self) -> None:
        command = self._command
        if setpriv := shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin"):
            # On Linux the server then ends with this process, even after kill -9.
            command = [setpriv, "--pdeathsig", "KILL", *command]
        if self.kind != "seekdb":
            command = [*command, f"--port={self._port}", f"--socket={self._socket}"]
            command.append(f"--pid-file={self._socket.with_name('pid')}")
        # A separate session, so that Ctrl-C in the terminal does not reach the server.
        how: dict[str, Any] = {"start_new_session": True, "stdin": subprocess.DEVNULL}
        how["env"] = {**os.environ, "TELEMETRY_ENABLED": "false"}  # or pylibseekdb sends telemetry
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **how)
        deadline_s = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise _StartError(self._last_words())
            time.sleep(0.02)

    def _answers(self) -> bool:
        if not self._socket.exists():
            return False
        try:
            with mysql.connector.connect(**self.connection_options()) as connection:
                [[(self.version,)]] = run_script(connection, "SELECT VERSION()")
        except mysql.connector.Error:
            return False
        return True

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-12:]) or "it gave no reason"


def _kind_of(server: Path) -> str:
    if server.name == "seekdb":
        return "seekdb"
    command = [str(server), "--no-defaults", "--version"]
    said = subprocess.run(command, capture_output=True, check=True, timeout=20).stdout
    return "mariadb" if b"MariaDB" in said else "mysql"


def _mariadb_system_sql(server: Path) -> str:
    """Return SQL that creates MariaDB's system tables, from the files installed with *server*.

    mariadb-install-db does the same, but not every package has it.
    """
    for base in (server.parents[1], server.resolve().parents[1], Path("/usr")):
        for first in sorted(base.glob("share/m*/m*_system_tables.sql")):
            names = ("system_tables", "performance_tables", "system_tables_data")
            files = [first.with_name(first.name.replace(names[0], name)) for name in names]
            tables = "\n".join(file.read_text(encoding="utf-8") for file in files)
            return (
                f"CREATE DATABASE mysql;\nUSE mysql;\nSET @skip_auth_anonymous = 1;\n{tables}\n"
                "DELETE FROM global_priv WHERE User = 'root';\nFLUSH PRIVILEGES;\n"
            )
    raise _StartError("the files for its system tables are not installed")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
