"""What PROJECT_STRUCTURE.md shows of the files: the tree, who imports whom, and how large it is."""

import ast
import re
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# One line of the tree, so that it fits the width of a page.
WIDTH = 66
# Files that cannot say in themselves what they are.
SAID_HERE = {
    ".editorconfig": "Indents and line ends, for editors",
    "LICENSE": "The licence, and a note on the database driver's",
    "benchmarks/results.svg": "The same as a plot",
    "deploy/iterable-sync.service": "The job as a confined systemd service",
    "deploy/iterable-sync.timer": "The hour at which systemd starts it",
    "docs/SAMPLE_RESULTS.json": "A results file of the demo's three users",
    "docs/handbook.pdf": "The documents as one book, for print and presentation",
    "docs/results.schema.json": "JSON Schema of the results file",
    "main.py": "The job in six steps, from the settings to the exit status",
    "requirements/demo.txt": "A database server for --demo where none is installed",
    "report_template.html": "The page that report.py fills",
}
# They use nearly everything, or everything uses them: in the graph they would hide the rest.
LEFT_OUT_OF_GRAPH = {"main", "preflight", "outcomes", "logger_config"}
# What the sizes are told of, and where it is.
AREAS = {
    "the job": "*.py",
    "its SQL": "*.sql",
    "sandbox": "sandbox/*.py",
    "tests": "tests/*.py",
    "benchmarks": "benchmarks/*.py",
    "docs": "docs/*.py",
}


@cache
def files() -> tuple[Path, ...]:
    """Return the files that git knows, relative to the project's folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 - the developer's own git
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    return tuple(sorted(Path(name) for name in names))


def tree() -> str:
    """Return the tree of files, each with a line that says what it holds."""
    lines = list(_branch(Path(), ""))
    column = 2 + max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{column}}{text}".rstrip() for name, text in lines)


def _branch(folder: Path, indent: str) -> Iterator[tuple[str, str]]:
    inside = [path for path in files() if folder in path.parents or folder == Path()]
    depth = len(folder.parts)
    names = sorted(
        {path.parts[depth] for path in inside}, key=lambda n: (_is_folder(folder / n), n)
    )
    for name in names:
        last = name == names[-1]
        path = folder / name
        sign = "└── " if last else "├── "
        if _is_folder(path):
            yield f"{indent}{sign}{name}/", ""
            yield from _branch(path, indent + ("    " if last else "│   "))
        else:
            yield f"{indent}{sign}{name}", shorten(describe(path))


def _is_folder(path: Path) -> bool:
    return (ROOT / path).is_dir()


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of one of the project's files."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def describe(path: Path) -> str:
    """Return what a file says of itself: its docstring's or comment's first line, its heading."""
    if path.as_posix() in SAID_HERE:
        return SAID_HERE[path.as_posix()]
    if path.suffix == ".py":
        first = (ast.get_docstring(parsed(path)) or "").partition("\n")[0]
        return _plain(path, first)
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".md":
        first = re.search(r"^# (.+)$", text, flags=re.MULTILINE)[1]  # type: ignore[index]
    else:
        comment = re.search(r"^(?:#|--|/\*) (?!!)(.+?)(?:\*/)?$", text, flags=re.MULTILINE)
        first = comment[1].strip() if comment else ""
    return _plain(path, first)


def _plain(path: Path, first: str) -> str:
    if not first:
        raise ValueError(f"{path} does not say what it is: begin it with a comment")
    return re.sub(r"\.(\s.*)?$", "", first.replace("``", "").replace("`", ""))


def shorten(text: str) -> str:
    """Return *text*, cut where a clause ends if it is too long for a line of the tree."""
    if len(text) <= WIDTH:
        return text
    for ends in (r"[:;] ", r", "):
        cuts = [match.start() for match in re.finditer(ends, text[:WIDTH])]
        if cuts and cuts[-1] > 20:
            return text[: cuts[-1]]
    raise ValueError(f"too long for a line of the tree: {text!r}; add a line to SAID_HERE")


def imports() -> dict[str, list[str]]:
    """Return which of the job's modules each of them imports, wherever in it."""
    modules = {path.stem for path in files() if path.suffix == ".py" and len(path.parts) == 1}
    found = {}
    for module in sorted(modules):
        nodes = list(ast.walk(parsed(Path(f"{module}.py"))))
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        names |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        found[module] = sorted(modules & {str(name).partition(".")[0] for name in names})
    return found


def dependencies() -> str:
    """Return the imports between the job's modules as a graph and as a table."""
    uses, users = imports(), defaultdict(list)
    for module, used in uses.items():
        for name in used:
            users[name].append(module)
    graph = ["```mermaid", "flowchart LR"]
    for module, used in uses.items():
        arrows = [name for name in used if name not in LEFT_OUT_OF_GRAPH]
        if module not in LEFT_OUT_OF_GRAPH and arrows:
            graph.append(f"    {module} --> {' & '.join(arrows)}")
    table = ["| module | imports | is imported by |", "| --- | --- | --- |"]
    for module, used in uses.items():
        table.append(f"| `{module}` | {_names(used)} | {_names(users[module])} |")
    left_out = _names(sorted(LEFT_OUT_OF_GRAPH))
    said = f"Left out of the graph, because they would touch nearly everything: {left_out}."
    return "\n".join([*graph, "```", "", said, "", *table])


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"


def sizes() -> str:
    """Return the size of each area, lines to the nearest hundred, and of the job's functions."""
    table = ["| | files | lines |", "| --- | ---: | ---: |"]
    for area, pattern in AREAS.items():
        paths = [path for path in files() if path.match(pattern) and _same_depth(path, pattern)]
        lines = sum(len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in paths)
        table.append(f"| {area} | {len(paths)} | {round(lines, -2):,} |")
    lengths = sorted(_function_lengths("*.py"))
    tests = sum(1 for name, _ in _functions("tests/*.py") if name.startswith("test_"))
    return "\n".join(
        [
            *table,
            "",
            f"The job has {len(lengths)} functions; half of them have at most "
            f"{statistics.median_low(lengths)} lines, and the longest has {lengths[-1]}. "
            f"There are {tests} test functions, many of them run with several cases.",
        ]
    )


def _same_depth(path: Path, pattern: str) -> bool:
    return len(path.parts) == len(Path(pattern).parts)


def _functions(pattern: str) -> Iterator[tuple[str, int]]:
    """Yield the name and the lines of every function of some files."""
    for path in files():
        if path.match(pattern) and _same_depth(path, pattern):
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield node.name, (node.end_lineno or 0) - node.lineno + 1


def _function_lengths(pattern: str) -> list[int]:
    return [lines for _, lines in _functions(pattern)]
