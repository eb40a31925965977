"""The structure of the code: what stands where, and who may import whom."""

import ast
import re
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
FOLDERS = PACKAGES | {"benchmarks", "deploy", "docs", "requirements", "sandbox", "tests", "tools"}
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
# What these never reach, not even through others.
NEVER_REACHED = {
    "db_connection": {"requests", "urllib3", "sqlite3", "pydantic"},
    "iterable_client": {"mysql", "sqlite3", "pydantic"},
    "logger_config": {"mysql", "requests", "sqlite3", "pydantic"},
    "records": {"mysql", "requests", "urllib3", "pydantic"},
    "iterable_api": {"mysql", "sqlite3", "pydantic"},
    "monitoring": {"mysql", "sqlite3"},
    "delivery": {"mysql", "pydantic", "dotenv"},
}
SOURCES = [path for name in PROGRAMS for path in [HERE / f"{name}.py"]] + [
    path for package in sorted(PACKAGES) for path in sorted((HERE / package).rglob("*.py"))
]


def module_of(path):
    """Return the dotted name of a source file."""
    name = ".".join(path.relative_to(HERE).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


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


def reached_from(module):
    """Return the top-level names that a module imports, itself or through others."""
    seen, found, waiting = set(), set(), [module]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        # Importing a module runs its package's __init__ first.
        waiting += [name for name in (top(current),) if name in MODULES]
        for name in imports(MODULES[current]):
            found.add(top(name))
            waiting += [each for each in (name, top(name)) if each in MODULES]
    return found


def layer_of(name):
    return next(n for n, layer in enumerate(LAYERS) if top(name) in layer)


def test_at_the_top_are_four_programs_and_twelve_folders():
    assert {path.stem for path in HERE.glob("*.py")} == PROGRAMS
    visible = {p.name for p in HERE.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))}
    assert visible == FOLDERS
    assert len(visible) <= 12


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_stands_below_it(module):
    for name in imports(MODULES[module]):
        if top(name) in JOB and top(name) != top(module):
            assert layer_of(name) < layer_of(module), name


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_reaches_nothing_above_it_through_others_either(module):
    above = set().union(*LAYERS[layer_of(module) :]) - {top(module)}
    assert not reached_from(module) & above
    assert not reached_from(module) & {"tests", "tools", "benchmarks"}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"main"}))
def test_only_main_knows_the_sandbox(module):
    assert "sandbox" not in reached_from(module)


@pytest.mark.parametrize("path", sorted((HERE / "sandbox").glob("*.py")), ids=lambda p: p.stem)
def test_the_sandbox_knows_nothing_of_the_job(path):
    assert not {top(name) for name in imports(path)} & (JOB | {"tests"})


@pytest.mark.parametrize("library", EDGES)
def test_each_library_has_its_place(library):
    users = {m for m, path in MODULES.items() if library in map(top, imports(path))}
    assert users == EDGES[library]


@pytest.mark.parametrize("module", sorted(m for m in MODULES if top(m) in NEVER_REACHED))
def test_what_a_module_never_reaches(module):
    reports = {"monitoring.report", "monitoring.report_history"}
    allowed = {"sqlite3"} if top(module) in {"records", "delivery"} or module in reports else set()
    allowed |= {"pydantic"} if module == "records.results_files" else set()
    assert not reached_from(module) & (NEVER_REACHED[top(module)] - allowed)


def test_nothing_is_imported_by_a_name_made_at_run_time():
    for path in SOURCES:
        # To look whether a package is there imports nothing.
        text = path.read_text(encoding="utf-8").replace("from importlib.util import find_spec", "")
        assert not re.search(r"__import__|importlib", text), path


def test_only_the_settings_and_main_read_the_environment():
    readers = {m for m, path in MODULES.items() if "os.environ" in path.read_text("utf-8")}
    assert {top(module) for module in readers} <= {"main", "configuration"}


def test_nobody_but_main_exits():
    for module, path in MODULES.items():
        assert module == "main" or "sys.exit" not in path.read_text(encoding="utf-8")


def functions(module):
    return [n for n in ast.walk(tree(MODULES[module])) if isinstance(n, ast.FunctionDef)]


def test_the_six_steps_stand_in_one_function_in_their_order():
    (job,) = [f for f in functions("main") if "[STEP" in ast.unparse(f)]
    assert job.name == "run_integration"
    assert re.findall(r"\[STEP (\d)\]", ast.unparse(job)) == list("123456")
    assert {f.name for f in functions("main")} >= {"load_environment_variables", "main"}


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


def test_a_runs_record_is_written_in_two_modules_at_most():
    changing = r"\brun\.(?:\w+(?:, \w+)* = |set_query\(|begin\(|count\(|sent\(|fail\(|finish\()"
    writers = {m for m, path in MODULES.items() if re.search(changing, path.read_text("utf-8"))}
    assert writers <= {"main", "delivery.recorder"}
