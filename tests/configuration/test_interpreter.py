"""The wrong Python: one line that says what to run instead, and status 2."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configuration import interpreter
from tests.test_main import BARE, HERE, copy_program
from tests.test_streams import closing

OLD = sorted(Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python3")) + [
    path for n in range(6, 11) if (path := Path(f"/usr/bin/python3.{n}")).exists()
]
PRETENDING = """if True:
    import runpy, sys
    sys.version_info = (3, 8, 10, "final", 0)
    sys.path.insert(0, {folder!r})
    sys.argv = ["main.py", *sys.argv[1:]]
    runpy.run_path({program!r}, run_name="__main__")
"""
MODES = [[], ["--quiet"], ["--check"], ["--demo"]]


def run(python, *args, **environ):
    return subprocess.run(
        [python, *args], capture_output=True, text=True, env=BARE | environ, check=False
    )


def the_line(done):
    """Return the one line of a program that was started with the wrong Python."""
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("main.py: ")
    assert "bug" not in line
    return line


@pytest.mark.parametrize("name", ["main.py", "configuration/interpreter.py"])
def test_an_old_python_can_read_that_it_is_too_old(name):
    ast.parse((HERE / name).read_text(encoding="utf-8"), feature_version=(3, 6))


def test_the_packages_are_those_that_must_be_installed():
    text = (HERE / "requirements.txt").read_text(encoding="utf-8")
    names = set(re.findall(r"^([\w-]+)==", text, flags=re.MULTILINE)) - {"pylibseekdb"}
    imported = {"mysql-connector-python": "mysql", "python-dotenv": "dotenv"}
    assert {imported.get(n, n.replace("-", "_")) for n in names} == set(interpreter.PACKAGES)


@pytest.mark.program
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_python_that_is_too_old_is_told(mode):
    code = PRETENDING.format(folder=str(HERE), program=str(HERE / "main.py"))
    line = the_line(run(sys.executable, "-c", code, *mode))
    assert f"{sys.executable} is Python 3.8.10. " in line
    assert "main.py" in line.partition("3.8.10.")[2]


@pytest.mark.program
@pytest.mark.parametrize("python", OLD, ids=str)
def test_an_old_python_says_so_itself(python):
    assert "is Python 3." in the_line(run(python, HERE / "main.py", "--quiet"))
    assert "without -I" in the_line(run(python, "-I", HERE / "main.py"))


@pytest.mark.program
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("option", ["-I", "-P"])
def test_a_python_that_hides_the_program_is_told(option, mode):
    assert "without -I, -P" in the_line(run(sys.executable, option, HERE / "main.py", *mode))


@pytest.mark.program
def test_so_is_one_that_does_by_its_environment():
    done = run(sys.executable, HERE / "main.py", PYTHONSAFEPATH="1")
    assert "PYTHONSAFEPATH" in the_line(done)


@pytest.mark.program
@pytest.mark.parametrize("option", ["-I", "-P"])
def test_it_is_refused_whatever_its_streams(option):
    closed = subprocess.run(
        [sys.executable, option, HERE / "main.py"],
        preexec_fn=closing(0, 1, 2),
        check=False,
    )
    assert closed.returncode == 2
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run([sys.executable, option, HERE / "main.py"], stderr=full, check=False)
    assert done.returncode == 2


@pytest.mark.program
@pytest.mark.parametrize("mode", [*MODES, ["--report"]], ids=str)
def test_packages_that_are_missing_are_named(tmp_path, mode):
    program = copy_program(tmp_path / "copy")
    done = run(sys.executable, "-S", program, *mode)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"cannot load what the job needs: no {', '.join(interpreter.PACKAGES)}. " in line
    assert ".venv/bin/pip install -r requirements.txt" in line
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.program
def test_the_venv_beside_the_program_is_named_if_there_is_one(tmp_path):
    program = copy_program(tmp_path / "copy")
    python = tmp_path / "copy" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    done = run(sys.executable, "-S", program)
    assert done.stderr.rstrip().endswith(f"Run {python} {program}")


@pytest.mark.program
def test_help_takes_no_packages():
    assert run(sys.executable, "-S", HERE / "main.py", "--help").returncode == 0


@pytest.mark.program
def test_a_package_that_cannot_be_loaded_is_no_bug(tmp_path):
    program = copy_program(tmp_path / "copy")
    (tmp_path / "copy" / "pydantic.py").write_text("import pydantic_core_for_another_python\n")
    done = run(sys.executable, program, "--quiet")
    assert "No module named 'pydantic_core_for_another_python'" in the_line(done)
