"""What the documents promise of the house, held against the house."""

import ast
import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from configuration import command_line
from configuration.settings import HERE, VARIABLES, Settings
from tools.build import usage

README = (HERE / "README.md").read_text(encoding="utf-8")
MODULES = {path.stem for path in HERE.glob("*.py")}
SHARED_WORDS = {"logger_config", "outcomes"}
# Who may import whom: rows go from top to bottom and never back.
MAY_IMPORT = {
    "main": MODULES | {"sandbox"},
    "command_line": set(),
    "settings": set(),
    "db_connection": {"row_spool", "logger_config"},
    "row_spool": {"outcomes"},
    "payloads": {"outcomes"},
    "delivery_ledger": {"outcomes"},
    "planning": {"delivery_ledger", "outcomes", "payloads"},
    "pacing": set(),
    "tally": set(),
    "transport": {"pacing"},
    "iterable_client": {"pacing", "payloads", "tally", "transport", *SHARED_WORDS},
    "stopping": {"outcomes"},
    "delivery": {"outcomes", "planning", "stopping"},
    "bulk_search": {"iterable_client", "outcomes", "payloads", "stopping"},
    "bulk_delivery": {"bulk_search", "delivery", "iterable_client", "outcomes", "stopping"},
    "outcomes": set(),
    "results": {"outcomes"},
    "recording": {
        *("delivery", "delivery_ledger", "payloads", "planning", "results", "stopping"),
        *SHARED_WORDS,
    },
    "progress": SHARED_WORDS,
    "run_log": {"progress", "results", "stopping", *SHARED_WORDS},
    "heartbeat": {"logger_config"},
    "preflight": {
        *("command_line", "db_connection", "delivery_ledger", "iterable_client", "payloads"),
        *("run_log", "settings", "stopping", *SHARED_WORDS),
    },
    "metrics": set(),
    "logger_config": set(),
    "report": {"report_charts", "results_reader"},
    "report_charts": set(),
    "results_reader": set(),
}


def imports(path):
    """Return the top-level names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_import_only_what_stands_below_them(module):
    assert imports(HERE / f"{module}.py") & (MODULES | {"sandbox", "tests"}) <= MAY_IMPORT[module]


@pytest.mark.parametrize("path", list((HERE / "sandbox").glob("*.py")), ids=lambda path: path.stem)
def test_the_sandbox_knows_nothing_of_the_job(path):
    assert not imports(path) & (MODULES | {"tests"})


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("mysql", {"db_connection"}),
        # The modules that do HTTP.
        ("requests", {"iterable_client", "transport", "heartbeat"}),
        ("sqlite3", {"delivery_ledger"}),
        ("dotenv", {"settings"}),
        ("pydantic", {"settings"}),
        ("prometheus_client", {"metrics"}),
        ("jinja2", {"report"}),
    ],
)
def test_each_library_has_its_rooms(library, modules):
    assert {name for name in MODULES if library in imports(HERE / f"{name}.py")} == modules


def test_only_settings_and_main_read_the_environment():
    readers = [n for n in MODULES if "os.environ" in (HERE / f"{n}.py").read_text(encoding="utf-8")]
    assert sorted(readers) == ["main", "settings"]


def test_only_main_prints_and_nobody_but_main_exits():
    for module in MODULES - {"main"}:
        assert "sys.exit" not in (HERE / f"{module}.py").read_text(encoding="utf-8")


def test_env_example_has_every_variable_with_its_default(tmp_path):
    text = (HERE / ".env.example").read_text(encoding="utf-8")
    everything = tmp_path / "env"
    everything.write_text(re.sub(r"^# ([A-Z_]+=)", r"\1", text, flags=re.MULTILINE))
    given = dotenv_values(everything)
    assert set(given) == set(VARIABLES)
    for name, value in given.items():
        default = Settings.model_fields[name.lower()].get_default()
        if value and not Settings.model_fields[name.lower()].is_required():
            shown = default.relative_to(HERE) if isinstance(default, Path) else default
            assert str(shown) == value, name


def test_env_example_explains_every_variable():
    text = (HERE / ".env.example").read_text(encoding="utf-8")
    for group in text.split("\n\n")[1:]:
        assert group.startswith("# "), group


@pytest.mark.parametrize("name", VARIABLES)
def test_the_readme_names_every_variable(name):
    assert f"`{name}`" in README


def test_the_readme_shows_the_help_as_it_is():
    assert usage() in README


@pytest.mark.parametrize("module", sorted(MODULES))
def test_contributing_has_a_row_for_every_module(module):
    text = (HERE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert text.count(f"\n| `{module}.py` | ") == 1


@pytest.mark.parametrize("status", command_line.ExitStatus)
def test_the_readme_names_every_exit_status(status):
    assert f"\n  {status:<4} {command_line.MEANINGS[status]}\n" in README


def test_the_readme_gives_every_dependency_its_reason():
    for file in HERE.glob("requirements*.txt"):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"^([\w-]+)==", text, flags=re.MULTILINE):
            assert re.search(rf"^\| `{name}` \| \w+", README, flags=re.MULTILINE), name
