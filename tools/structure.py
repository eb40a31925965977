"""What PROJECT_STRUCTURE.md shows of the files: the tree, who imports whom, and how large it is."""

import ast
import re
import statistics
import subprocess
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
    "benchmarks/rival.mjs": "The rival: the official client in a pool of one size",
    "deploy/iterable-sync.service": "The job as a confined systemd service",
    "deploy/iterable-sync.timer": "The hour at which systemd starts it",
    "docs/SAMPLE_RESULTS.json": "A results file of the demo's three users",
    "docs/handbook.pdf": "The documents as one book, for print and presentation",
    "docs/results.schema.json": "JSON Schema of the results file",
    "main.py": "The job in six steps, from the settings to the exit status",
    "requirements/demo.txt": "A database server for --demo where none is installed",
    "monitoring/report_template.html": "The page that report.py fills",
}
PROGRAMS = ("main", "db_connection", "iterable_client", "logger_config")
PACKAGES = ("configuration", "delivery", "iterable_api", "monitoring", "records")
# What the sizes are told of, and where it is.
AREAS = {
    "the four programs": ["*.py"],
    "the packages below them": [f"{package}/*.py" for package in PACKAGES],
    "SQL": ["*.sql"],
    "sandbox": ["sandbox/*.py"],
    "tests": ["tests/*.py", "tests/*/*.py"],
    "benchmarks": ["benchmarks/*.py"],
    "tools": ["tools/*.py"],
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
            package = path / "__init__.py"
            text = describe(package) if package in files() else SAID_HERE.get(f"{name}/", "")
            yield f"{indent}{sign}{name}/", shorten(text)
            # The tests mirror the packages.
            if name != "tests":
                yield from _branch(path, indent + ("    " if last else "│   "))
        elif name != "__init__.py":
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
    return text[:WIDTH].rpartition(" ")[0] + " …"


def imports() -> dict[str, list[str]]:
    """Return which of the job's programs and packages each of them imports, wherever in it."""
    places = (*PROGRAMS, *PACKAGES)
    found: dict[str, set[str]] = {place: set() for place in places}
    for path in files():
        place = path.parts[0].removesuffix(".py")
        if path.suffix == ".py" and place in found:
            nodes = list(ast.walk(parsed(path)))
            names = {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
            names |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
            found[place] |= {name.partition(".")[0] for name in names}
    return {place: [each for each in places if each in found[place] - {place}] for place in places}


def dependencies() -> str:
    """Return the imports between the job's programs and packages as a graph."""
    graph = ["```mermaid", "flowchart TB"]
    for place, used in imports().items():
        # Everything logs, so those arrows would only hide the others.
        arrows = [name for name in used if name != "logger_config"]
        if arrows:
            graph.append(f"    {place} --> {' & '.join(arrows)}")
    return "\n".join([*graph, "```"])


def sizes() -> str:
    """Return the size of each area, lines to the nearest hundred, and of the job's functions."""
    table = ["| | files | lines |", "| --- | ---: | ---: |"]
    for area, patterns in AREAS.items():
        paths = _matching(patterns)
        lines = sum(len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in paths)
        table.append(f"| {area} | {len(paths)} | {round(lines, -2):,} |")
    job = AREAS["the four programs"] + AREAS["the packages below them"]
    lengths = sorted(lines for _, lines in _functions(job))
    tests = sum(1 for name, _ in _functions(AREAS["tests"]) if name.startswith("test_"))
    return "\n".join(
        [
            *table,
            "",
            f"The job has {len(lengths)} functions; half of them have at most "
            f"{statistics.median_low(lengths)} lines, and the longest has {lengths[-1]}. "
            f"There are {tests} test functions, many of them run with several cases.",
        ]
    )


def _matching(patterns: list[str]) -> list[Path]:
    """Return the files of the patterns' own depth that match one of them."""
    return [
        path
        for path in files()
        for pattern in patterns
        if path.match(pattern) and len(path.parts) == len(Path(pattern).parts)
    ]


def _functions(patterns: list[str]) -> Iterator[tuple[str, int]]:
    """Yield the name and the lines of every function of some files."""
    for path in _matching(patterns):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, (node.end_lineno or 0) - node.lineno + 1
