"""The documents: what code can show is current, and what they tell to type works."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonschema import Draft202012Validator
from pypdf import PdfReader

from configuration.settings import Settings
from delivery import outage, worker_pool
from iterable_api import backoff
from records.columns import JOB_COLUMNS
from records.outcomes import CallStatus, RowStatus
from tests import schema
from tests.test_main import API_KEY, BARE, USERS
from tools import build, handbook, structure
from tools.evidence import collect
from tools.structure import ROOT
from tools.typesetting import PACKAGES

if not (ROOT / ".git").exists():
    pytest.skip("only git knows which files belong to the project", allow_module_level=True)

DOCUMENTS = [
    path for path in structure.files() if path.suffix == ".md" and path.name != "CHANGELOG.md"
]
SUMMARY = (build.DOCS / "PHASE3_SUMMARY.md").read_text(encoding="utf-8")
QUICKSTART = (build.DOCS / "QUICKSTART.md").read_text(encoding="utf-8")
FONTS = {"IBMPlexSans", "DejaVuSans", "DejaVuSansMono"}


def fences(text, language):
    """Return the info string and the content of each code block in *language*."""
    found = re.findall(rf"^```({language}\b[^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


def outdated(blocks):
    """Return the documents that are not as they would be written now."""
    return [
        str(path.relative_to(ROOT))
        for path, text in build.current_texts(blocks)
        if path.read_text(encoding="utf-8") != text
    ]


def test_what_the_sources_show_is_as_they_are_now():
    blocks = build.static_blocks()
    written = [build.block_names(path.read_text("utf-8")) for path in build.DOCS.glob("*.md")]
    from_a_run = {"console", "exchanges", "schema", "indexes"}
    elsewhere = {"help", "results_schema"}
    assert set().union(*written) == blocks.keys() - elsewhere | from_a_run
    del blocks["sizes"]
    assert outdated(blocks) == [], "run: make docs"


def test_the_sizes_are_about_right():
    def numbers(text):
        return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)]

    text = (build.DOCS / "PROJECT_STRUCTURE.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- generated: sizes -->(.*?)<!-- end -->", text, re.DOTALL)
    now = numbers(structure.sizes())
    assert len(numbers(shown)) == len(now)
    for one, other in zip(numbers(shown), now, strict=True):
        assert abs(one - other) <= max(5, other / 10), "run: make docs"


@pytest.mark.database
def test_what_a_run_shows_is_as_it_is_now(database, iterable, tmp_path):
    environ = {
        **database.settings,
        "ITERABLE_API_KEY": API_KEY,
        "ITERABLE_API_BASE_URL": iterable.url,
    }
    iterable.change(api_key=API_KEY)
    evidence = collect(environ, iterable, tmp_path)
    assert outdated(build.live_blocks(evidence)) == [], "run: make docs"
    schema.validate(json.loads(evidence.results))


def test_the_sample_keeps_to_the_schema():
    sample = json.loads(build.SAMPLE.read_text(encoding="utf-8"))
    schema.validate(sample)
    assert [row["email"] for row in sample["results"]] == USERS


@pytest.mark.parametrize(
    "add", [lambda d: d, lambda d: d["run"], lambda d: d["results"][0]["users_update"]]
)
def test_a_field_that_the_schema_does_not_describe_is_noticed(add):
    sample = json.loads(build.SAMPLE.read_text(encoding="utf-8"))
    add(sample)["new"] = 1
    Draft202012Validator(schema.PUBLISHED).validate(sample)
    with pytest.raises(AssertionError, match="new"):
        schema.validate(sample)


def fresh_copy(folder):
    """Copy what git knows, with this interpreter's packages as its .venv."""
    for path in structure.files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    venv = folder / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    for stamp in (".demo", ".dev"):
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
    environ = {
        **database.settings,
        "ITERABLE_API_KEY": "key",
        "ITERABLE_API_BASE_URL": iterable.url,
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for _, code in fences(SUMMARY, "python"):
        exec(code, {})
    out = capsys.readouterr().out
    assert out.startswith("delivered 200 1\n1 sarah.johnson@email.com\n2 ")


@pytest.mark.parametrize(
    ("text", "heading"),
    [(build.README, "Trouble-shooting"), (build.DOCS / "QUICKSTART.md", "Common problems")],
)
def test_every_message_in_the_tables_of_problems_is_one_of_the_programs(text, heading):
    (table,) = re.findall(rf"^## {heading}\n(.*?)^## ", text.read_text("utf-8"), re.M | re.S)
    symptoms = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    said = [quoted for symptom in symptoms for quoted in re.findall(r"`([^`]+)`", symptom)]
    said = [part for quoted in said for part in quoted.split("…")]
    sources = [
        path for path in structure.files() if path.suffix == ".py" or path.name == "Makefile"
    ]
    source = "\n".join(
        (ROOT / path).read_text("utf-8") for path in sources if path.parts[0] != "tests"
    )
    assert len(said) >= 5
    assert [each for each in said if each not in source] == []


def test_the_table_of_columns_has_every_column_of_query_2():
    (table,) = re.findall(r"^## What becomes of each column\n(.*?)^## ", SUMMARY, re.M | re.S)
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(JOB_COLUMNS)


@pytest.mark.parametrize(("title", "words"), [("outcome", RowStatus), ("status", CallStatus)])
def test_every_outcome_and_every_status_is_explained(title, words):
    text = (build.DOCS / "SAMPLE_RESULTS.md").read_text(encoding="utf-8")
    (table,) = re.findall(rf"^\| `{title}` of .*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(words)


@pytest.mark.parametrize(
    "said",
    [
        f"no definite answer for {outage.OUTAGE_S:.0f} s",
        f"get {worker_pool.GRACE_S:.0f} s to finish",
        f"has {Settings.model_fields['iterable_max_attempts'].default} tries",
        f"up to {2**backoff.MAX_BACKOFF_DOUBLINGS} s",
        f"`Retry-After` is obeyed, up to {backoff.MAX_RETRY_AFTER_S:.0f} s",
    ],
)
def test_the_figures_in_the_summary_are_those_of_the_code(said):
    assert said in " ".join(SUMMARY.split())


@pytest.mark.parametrize(
    ("text", "heading"),
    [(SUMMARY, "Part by part"), ((ROOT / "CONTRIBUTING.md").read_text("utf-8"), "Where things go")],
)
def test_the_tables_of_parts_name_every_program_and_package(text, heading):
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?:^## |^The parts)", text, re.M | re.S)
    named = set(re.findall(r"^\| `(\w+(?:\.py|/))`", section, re.MULTILINE))
    programs = {f"{name}.py" for name in structure.PROGRAMS}
    assert named >= programs | {f"{name}/" for name in structure.PACKAGES}


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_to_files_and_headings_that_are_there(path):
    text = re.sub(r"^```.*?^```", "", (ROOT / path).read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        there = (ROOT / path).parent / file if file else ROOT / path
        assert there.exists(), target
        if anchor:
            found = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(handbook.slug, found), target


@pytest.fixture(scope="module")
def printed():
    reader = PdfReader(handbook.HANDBOOK)
    titles = []

    def walk(items):
        for item in items:
            walk(item) if isinstance(item, list) else titles.append(item.title)

    walk(reader.outline)
    return SimpleNamespace(reader=reader, titles=titles)


def test_the_handbook_is_as_its_sources_are_now(printed):
    assert printed.reader.metadata[handbook.DIGEST_KEY] == handbook.digest(), "run: make pdf"


@pytest.mark.parametrize("chapter", handbook.CHAPTERS, ids=lambda chapter: chapter.path)
def test_the_handbook_has_every_heading_of_its_sources(chapter, printed):
    titles = [re.sub(r"^\d+\s+(?=\D)", "", title) for title in printed.titles]
    missing = [heading for heading in handbook.headings(chapter) if heading not in titles]
    assert not missing


def test_the_handbook_carries_its_fonts(printed):
    names = set()
    for page in printed.reader.pages:
        fonts = page["/Resources"].get_object()["/Font"]
        for font in (each.get_object() for each in fonts.values()):
            if font["/Subtype"] != "/Type3":  # which is the emoji, drawn
                descendant = font["/DescendantFonts"][0].get_object()
                assert "/FontFile2" in descendant["/FontDescriptor"].get_object()
                names.add(font["/BaseFont"].partition("+")[2].partition("-")[0])
    # A sign that our fonts lack would have come from another one.
    assert names <= FONTS


def test_the_tools_of_the_handbook_have_versions():
    assert all(re.fullmatch(r"@?[\w/-]+@\d+\.\d+\.\d+", package) for package in PACKAGES)
