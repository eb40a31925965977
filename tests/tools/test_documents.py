"""The documents: what they take from the code is current, and what they tell to type works."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from configuration.settings import HERE
from iterable_api.mapping import JOB_COLUMNS
from records.outcomes import CallStatus, RowStatus
from tests import schema
from tests.test_main import API_KEY, BARE, USERS
from tools.documents import SAMPLE, usage

if not (HERE / ".git").exists():
    pytest.skip("only git knows which files belong to the project", allow_module_level=True)

LISTED = subprocess.run(
    ["git", "ls-files", "-z"], cwd=HERE, capture_output=True, text=True, check=True
)
FILES = [name for name in LISTED.stdout.split("\0") if (HERE / name).is_file()]
DOCUMENTS = [name for name in FILES if name.endswith(".md")]
DOCS = HERE / "docs"
README = (HERE / "README.md").read_text(encoding="utf-8")
SUMMARY = (DOCS / "PHASE3_SUMMARY.md").read_text(encoding="utf-8")
QUICKSTART = (DOCS / "QUICKSTART.md").read_text(encoding="utf-8")
HELP = usage()
STRUCTURE = (DOCS / "PROJECT_STRUCTURE.md").read_text(encoding="utf-8")


def fences(text, language):
    """Return the info string and the content of each code block in *language*."""
    found = re.findall(rf"^```({language}\b[^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


def test_what_the_documents_take_from_the_code_is_as_it_is_now():
    command = [sys.executable, "-m", "cogapp", "--check", "--diff", "README.md"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run: make docs\n{done.stdout}{done.stderr}"


def test_the_documents_stay_within_nine_thousand_words():
    assert sum(len((HERE / name).read_text("utf-8").split()) for name in DOCUMENTS) <= 9000


def test_the_sample_keeps_to_the_schema_and_a_field_that_is_not_in_it_is_noticed():
    sample = json.loads(SAMPLE.read_text(encoding="utf-8"))
    schema.validate(sample)
    assert sorted(row["email"] for row in sample["results"]) == sorted(USERS)
    sample["results"][0]["users_update"]["new"] = 1
    Draft202012Validator(schema.PUBLISHED).validate(sample)
    with pytest.raises(AssertionError, match="new"):
        schema.validate(sample)


def test_the_log_in_the_summary_looks_as_the_job_writes_it():
    log = fences(SUMMARY, "text")[0][1]
    named = re.findall(r"^[\d-]{10}T[\d:.]+Z [A-Z]{4,7} +iterable_sync\.(\w+): ", log, re.MULTILINE)
    assert len(named) == len(log.splitlines()) == 10
    assert set(named) <= {part for name in FILES for part in Path(name).with_suffix("").parts}


def fresh_copy(folder):
    """Copy what git knows, with this interpreter's packages as its .venv."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(HERE / name, folder / name)
    venv = folder / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    for stamp in (".run", ".demo", ".dev"):
        (venv / stamp).touch()


@pytest.mark.database
@pytest.mark.program
def test_the_commands_of_the_quickstart_work(database, iterable, tmp_path):
    # Marked "network" is what fetches or sets up something; fresh_copy() stands in for it.
    script = "".join(code for info, code in fences(QUICKSTART, "console") if info == "console")
    assert script.startswith("make demo\n")
    fresh_copy(tmp_path)
    server = database.server.server
    folders = [str(server.parent)] if server else []
    environ = {
        **BARE,
        **database.settings,
        "PATH": ":".join([*folders, os.environ["PATH"]]),
        "ITERABLE_API_KEY": API_KEY,
        "ITERABLE_API_BASE_URL": iterable.url,
    }
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        check=False,
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    # What the demo delivered, as the text promises.
    assert "\n3\n" in done.stdout
    # The small steps: two that send nothing, one user, the rest.
    assert len(iterable.users) == 3
    assert [event.received for event in iterable.events.values()] == [1, 1, 1]


@pytest.mark.database
def test_the_python_in_the_summary_works(database, iterable, monkeypatch, capsys):
    place = {"ITERABLE_API_KEY": "key", "ITERABLE_API_BASE_URL": iterable.url}
    for name, value in {**database.settings, **place}.items():
        monkeypatch.setenv(name, value)
    for _, code in fences(SUMMARY, "python"):
        exec(code, {})
    assert capsys.readouterr().out == "delivered 200 1\n"


@pytest.mark.parametrize(
    ("text", "heading"),
    [(HERE / "README.md", "Trouble-shooting"), (DOCS / "QUICKSTART.md", "Common problems")],
)
def test_every_message_in_the_tables_of_problems_is_one_of_the_programs(text, heading):
    (table,) = re.findall(rf"^## {heading}\n(.*?)(?:^## |\Z)", text.read_text("utf-8"), re.M | re.S)
    symptoms = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    said = [quoted for symptom in symptoms for quoted in re.findall(r"`([^`]+)`", symptom)]
    said = [part for quoted in said for part in quoted.split("…")]
    sources = [name for name in FILES if name.endswith((".py", "Makefile"))]
    source = "\n".join(
        (HERE / name).read_text("utf-8") for name in sources if not name.startswith("tests/")
    )
    assert said
    assert [each for each in said if each not in source] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_flag_and_every_make_target_that_a_document_names_is_there(name):
    text = (HERE / name).read_text("utf-8")
    flags = re.findall(r"(?:`|main\.py )(--[a-z-]+)(?=[ `])", text)
    assert [flag for flag in flags if flag not in HELP] == []
    targets = re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)
    makefile = (HERE / "Makefile").read_text("utf-8")
    assert [target for target in targets if f"\n{target}: " not in makefile] == []


def test_the_table_of_columns_has_every_column_of_query_2():
    (table,) = re.findall(r"^\| column \| becomes \|\n((?:\|.*\n)+)", README, re.MULTILINE)
    first = [line.split(" | ")[0] for line in table.splitlines()]
    assert set(re.findall(r"`(\w+)`", " ".join(first))) == set(JOB_COLUMNS)


@pytest.mark.parametrize(("title", "words"), [("outcome", RowStatus), ("status", CallStatus)])
def test_every_outcome_and_every_status_is_explained(title, words):
    text = (DOCS / "SAMPLE_RESULTS.md").read_text(encoding="utf-8")
    (table,) = re.findall(rf"^\| `{title}` of .*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(words)


def test_the_structure_names_every_folder_and_program():
    tree = re.findall(r"^```text\n(.*?)^```", STRUCTURE, re.MULTILINE | re.DOTALL)[0]
    named = set(re.findall(r"^(\S+) ", tree, re.MULTILINE))
    folders = {f"{name.partition('/')[0]}/" for name in FILES if "/" in name} - {".ci/", ".github/"}
    programs = {name for name in FILES if re.fullmatch(r"\w+\.(py|sql)", name)}
    assert named == folders | programs | {".ci/run"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_are_there(name):
    path = HERE / name
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        there = path.parent / file if file else path
        assert there.exists(), target
        if anchor:
            found = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, found), target


def slug(heading):
    """Return the anchor that the code host gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
