"""What README.md and .env.example promise, held against the code."""

import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values

from configuration.command_line import VERSION
from configuration.settings import HERE, VARIABLES, Settings
from records.exit_statuses import ExitStatus

README = (HERE / "README.md").read_text(encoding="utf-8")
LOCK = HERE / "requirements" / "lock.txt"


def test_env_example_explains_every_variable_and_has_its_default():
    text = (HERE / ".env.example").read_text(encoding="utf-8")
    for group in text.split("\n\n")[1:]:
        assert group.startswith("# "), group
    given = dotenv_values(
        stream=StringIO(re.sub(r"^# ([A-Z_]+=)", r"\1", text, flags=re.MULTILINE))
    )
    assert set(given) == set(VARIABLES)
    for name, value in given.items():
        field = Settings.model_fields[name.lower()]
        if value and not field.is_required():
            default = field.get_default()
            shown = default.relative_to(HERE) if isinstance(default, Path) else default
            assert str(shown) == value, name


def test_the_readme_names_every_variable_and_every_exit_status():
    assert not [name for name in VARIABLES if f"`{name}`" not in README]
    for status in ExitStatus:
        assert f"\n  {status:<4} {status.meaning}\n" in README, status


def test_every_dependency_is_pinned_and_has_its_reason_beside_it():
    for path in {HERE / "requirements.txt", *HERE.glob("requirements/*.txt")} - {LOCK}:
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith(("#", "-r ")):
                assert re.fullmatch(r"[\w-]+==[\w.]+(; [^#]+)? +# \w.+", line), line


def test_the_lock_has_what_requirements_txt_names_and_a_hash_of_everything():
    named = re.findall(r"^([\w-]+==\S+)", (HERE / "requirements.txt").read_text(), re.MULTILINE)
    entries = re.findall(r"^([\w-]+==\S+)[^\n]*((?:\n +.*)+)", LOCK.read_text(), re.MULTILINE)
    asked_for = [entry for entry, rest in entries if "-r requirements.txt" in rest]
    assert asked_for == sorted(named), "run: make lock"
    assert [entry for entry, rest in entries if "--hash=sha256:" not in rest] == []


def test_the_changelog_has_this_version_with_its_date():
    text = (HERE / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(VERSION)} - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE)


@pytest.mark.program
def test_pip_install_says_in_one_line_how_the_job_is_run():
    command = [sys.executable, "-m", "pip", "install", "--no-index", str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if "a job" in line]
    assert "run it in its folder, python3 main.py" in line
