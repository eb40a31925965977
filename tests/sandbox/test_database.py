"""The private database server: what it gives, and that it leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mysql.connector
import pytest

from records.exit_statuses import DatabaseError
from sandbox import database as sandbox_database
from sandbox.database import NoServerError, PrivateDatabase, run_script
from tests.conftest import ROOT
from tests.test_db_connection import connection_to, wait_until

pytestmark = [pytest.mark.database, pytest.mark.program]


@pytest.fixture(scope="module")
def server(database_server: PrivateDatabase) -> Path:
    """Return the server under test, which is that of the other tests."""
    return database_server.server


@pytest.fixture(scope="module")
def private(server) -> Iterator[PrivateDatabase]:
    with PrivateDatabase(server) as started:
        started.load(ROOT / "database_setup.sql")
        yield started


@pytest.fixture
def temp_folder(monkeypatch) -> Iterator[Path]:
    """Let temporary folders appear in a folder of the test's own, with a blank in its name."""
    folder = Path(tempfile.mkdtemp(prefix="a b "))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # forget what was worked out before
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def bare_machine(monkeypatch) -> None:
    """Hide every server that may be installed here."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sandbox_database, "USUAL_FOLDERS", "")
    monkeypatch.setitem(sys.modules, "pylibseekdb", None)


def running_in(folder: Path) -> list[str]:
    """Return the command lines of all processes that mention *folder*."""
    listing = subprocess.check_output(["ps", "-Aww", "-o", "args="], text=True)
    return [line for line in listing.splitlines() if str(folder) in line]


def test_the_job_can_read_and_cannot_write_and_the_clock_is_utc(private):
    account = {"user": private.settings["DB_USER"], "password": private.settings["DB_PASSWORD"]}
    options = private.connection_options(private.settings["DB_NAME"]) | account
    clock = f"{private.version} +00:00"
    with mysql.connector.connect(**options) as connection:
        assert run_script(connection, "SELECT CONCAT(VERSION(), ' ', @@time_zone)") == [[(clock,)]]
        for statement in ("DELETE FROM page_views", "CREATE TABLE t (i INT)"):
            with pytest.raises(mysql.connector.Error, match="denied") as refused:
                run_script(connection, statement)
            assert refused.value.errno == 1142


def test_nobody_comes_in_without_the_password(private):
    if private.kind == "seekdb":
        pytest.skip("its root has no password; its socket is in a folder that only we may enter")
    options = {"host": private.settings["DB_HOST"], "port": int(private.settings["DB_PORT"])}
    for user in ("root", private.settings["DB_USER"], ""):
        with pytest.raises(mysql.connector.Error) as refused:
            mysql.connector.connect(**options, user=user, password="")
        assert refused.value.errno == 1045


def test_data_survive_kill_and_restart_under_the_same_settings(private):
    private.kill()
    with pytest.raises(DatabaseError):
        connection_to(private.settings).connect()
    private.restart()
    with connection_to(private.settings) as connection:
        assert connection.execute_query("SELECT COUNT(*) AS n FROM customers") == [{"n": 15}]


def test_a_second_server_runs_beside_the_first_and_leaves_nothing_behind(
    private, server, temp_folder
):
    with PrivateDatabase(server) as second:
        assert second.settings["DB_PASSWORD"] != private.settings["DB_PASSWORD"]
        assert running_in(temp_folder)
        with (
            mysql.connector.connect(**second.connection_options()) as connection,
            pytest.raises(mysql.connector.Error),
        ):
            run_script(connection, "USE iterable_challenge")
    assert running_in(temp_folder) == []
    assert list(temp_folder.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_the_server_dies_with_a_parent_that_is_killed(server, temp_folder):
    code = (
        "import sys, time; from sandbox.database import PrivateDatabase\n"
        "with PrivateDatabase(sys.argv[1]): print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, server], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "up\n"
        parent.kill()
    wait_until(lambda: not running_in(temp_folder), 10)


def test_a_port_that_somebody_else_took_is_given_up_for_another(server, monkeypatch):
    if server.name == "seekdb":
        pytest.skip("it has no port")
    with socket.socket() as somebody_else:
        somebody_else.bind(("127.0.0.1", 0))
        somebody_else.listen()
        taken = somebody_else.getsockname()[1]
        ports = iter([taken, sandbox_database._free_port()])
        monkeypatch.setattr(sandbox_database, "_free_port", lambda: next(ports))
        with PrivateDatabase(server) as private, connection_to(private.settings, database=""):
            assert private.settings["DB_PORT"] != str(taken)


@pytest.mark.usefixtures("bare_machine")
def test_without_any_server_the_error_says_what_to_install():
    both = r"(?s)apt-get install mariadb.*pip install pylibseekdb"
    with pytest.raises(NoServerError, match=both):
        PrivateDatabase().__enter__()


@pytest.mark.usefixtures("bare_machine")
def test_a_server_that_does_not_start_gives_way_to_the_next(server, temp_folder, monkeypatch):
    if server.name == "seekdb":
        pytest.skip("PATH is searched for the names of MariaDB and MySQL")
    broken = temp_folder / "mariadbd"
    broken.write_text("#!/bin/sh\necho 'confined by policy' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(NoServerError, match=f"{broken} did not start"):
        PrivateDatabase(broken).__enter__()
    # The folders of the shell's own tools are behind, for a server that is a script.
    folders = (str(temp_folder), str(server.parent), "/usr/bin", "/bin")
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    with PrivateDatabase() as private:
        assert private.server == server


@pytest.mark.parametrize("path", ["/nowhere/mariadbd", "/dev/null"])
def test_a_path_that_is_no_server_is_named(path):
    with pytest.raises(NoServerError, match=path):
        PrivateDatabase(path).__enter__()
