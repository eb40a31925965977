"""The structure of the code: what stands where, and who may import whom."""

import ast
import importlib
import inspect
import re
from enum import Enum
from functools import cache

import pytest

from configuration.settings import HERE

# From bottom to top. A module imports only what stands below its own layer, and its own package.
LAYERS = (
    {"logger_config"},
    {"records"},
    {"iterable_api"},
    {"monitoring"},
    {"db_connection", "iterable_client"},
    {"delivery"},
    {"configuration"},
    {"main"},
)
PROGRAMS = {"main", "db_connection", "iterable_client", "logger_config"}
JOB = set().union(*LAYERS)
PACKAGES = JOB - PROGRAMS
AROUND = {"benchmarks", "sandbox", "tests", "tools"}
# The only modules that may import a library themselves.
EDGES = {
    "mysql": {"db_connection"},
    "requests": {"iterable_api.transport"},
    "urllib3": {"iterable_api.transport", "monitoring.heartbeat"},
    "sqlite3": {"records.delivery_ledger"},
    "dotenv": {"configuration.env_file"},
    "pydantic": {"configuration.settings", "records.results_files"},
    "prometheus_client": {"monitoring.metrics"},
    "jinja2": {"monitoring.report"},
    "tqdm": {"monitoring.console"},
}
HTTP, SQL = {"requests", "urllib3"}, {"mysql"}
# What these never reach, not even through others.
NEVER_REACHED = {
    "logger_config": HTTP | SQL,
    "records": HTTP | SQL,
    "iterable_api": SQL,
    "monitoring": SQL,
    "db_connection": HTTP,
    "iterable_client": SQL,
    "delivery": SQL,
}
PATHS = [HERE / f"{name}.py" for name in PROGRAMS] + [
    path for package in PACKAGES for path in (HERE / package).rglob("*.py")
]
MODULES = {
    ".".join(path.relative_to(HERE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PATHS
}


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path):
    """Return every name that a file imports, wherever in it, as dotted as it can be."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name if name in MODULES else name.rpartition(".")[0] or name for name in names}


def top(name):
    return name.partition(".")[0]


def layer_of(name):
    return next(n for n, layer in enumerate(LAYERS) if top(name) in layer)


def reached_from(module):
    """Return the top-level names that a module imports, itself or through others."""
    seen, found, waiting = set(), set(), [module]
    while waiting:
        current = waiting.pop()
        if current in MODULES and current not in seen:
            seen.add(current)
            names = imports(MODULES[current])
            found |= {top(name) for name in names}
            # Importing a module runs its package's __init__ first.
            waiting += [*names, top(current)]
    return found


def test_at_the_top_are_four_programs_and_twelve_folders_at_most():
    assert {path.stem for path in HERE.glob("*.py")} == PROGRAMS
    visible = {p.name for p in HERE.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))}
    assert visible == PACKAGES | AROUND | {"deploy", "docs", "requirements"}
    assert len(visible) <= 12


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_stands_below_it(module):
    names = {name for name in imports(MODULES[module]) if top(name) != top(module)}
    assert not [name for name in names if top(name) in JOB and layer_of(name) >= layer_of(module)]
    assert {top(name) for name in names} & AROUND <= ({"sandbox"} if module == "main" else set())


def test_the_sandbox_knows_nothing_of_the_job():
    for path in (HERE / "sandbox").glob("*.py"):
        assert not {top(name) for name in imports(path)} & (JOB | {"tests"}), path


@pytest.mark.parametrize("library", EDGES)
def test_each_library_has_its_place(library):
    users = {m for m, path in MODULES.items() if library in map(top, imports(path))}
    assert users == EDGES[library]


def test_what_a_module_never_reaches():
    for module in MODULES:
        assert not reached_from(module) & NEVER_REACHED.get(top(module), set()), module


def test_nothing_is_imported_by_a_name_made_at_run_time():
    for path in PATHS:
        # To look whether a package is there imports nothing.
        text = path.read_text(encoding="utf-8").replace("from importlib.util import find_spec", "")
        assert not re.search(r"__import__|importlib", text), path


def test_no_private_method_of_a_library_is_overridden():
    found = set()
    for module in MODULES.keys() - {"main"}:
        for cls in vars(importlib.import_module(module)).values():
            if not inspect.isclass(cls) or cls.__module__ != module or issubclass(cls, Enum):
                continue
            names = {n for n in vars(cls) if re.match("_[^_]", n) and callable(getattr(cls, n))}
            for base in cls.__mro__[1:]:
                if base.__module__ not in MODULES:
                    found |= {f"{module}.{cls.__name__}.{n}" for n in names & vars(base).keys()}
    assert not found


def test_only_the_settings_and_main_read_the_environment_and_only_main_exits():
    texts = {module: path.read_text("utf-8") for module, path in MODULES.items()}
    readers = {top(module) for module, text in texts.items() if "os.environ" in text}
    assert readers <= {"main", "configuration"}
    assert {module for module, text in texts.items() if "sys.exit" in text} == {"main"}


def test_the_six_steps_stand_in_one_function_in_their_order():
    functions = [n for n in ast.walk(tree(HERE / "main.py")) if isinstance(n, ast.FunctionDef)]
    (job,) = [f for f in functions if "[STEP" in ast.unparse(f)]
    assert job.name == "run_integration"
    assert re.findall(r"\[STEP (\d)\]", ast.unparse(job)) == list("123456")
    assert {f.name for f in functions} >= {"load_environment_variables", "main"}


def test_what_ends_a_run_is_caught_in_one_place_and_collected_in_another():
    catchers = [
        module
        for module, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and node.type
        and "RunError" in ast.unparse(node.type)
    ]
    assert sorted(catchers) == ["configuration.check", "main"]
