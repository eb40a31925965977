"""Makes docs/handbook.pdf from the documents: python -m tools.handbook, or make pdf.

Pandoc reads the Markdown and Typst sets the pages by handbook.typ; both are Python packages. The
same documents give the same bytes on every machine: the fonts are Typst's own, there is no date.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pypandoc
import typst

from configuration.command_line import DESCRIPTION, VERSION
from configuration.settings import HERE

HANDBOOK = HERE / "docs" / "handbook.pdf"
STYLE = Path(__file__).with_suffix(".typ")
WORDS = {"title": "Iterable sync", "subtitle": "Handbook", "about": DESCRIPTION, "version": VERSION}
# Documents are chapters; other files are sections of the chapter before them.
FILES = (
    "README.md",
    "docs/QUICKSTART.md",
    ".env.example",
    "docs/MAPPING.md",
    *sorted(path.relative_to(HERE).as_posix() for path in HERE.glob("docs/examples/*.sql")),
    "docs/DATABASE.md",
    "database_setup.sql",
    "phase2_queries.sql",
    "docs/SAMPLE_RESULTS.md",
    "deploy/README.md",
    "docs/PHASE3_SUMMARY.md",
    "benchmarks/RESULTS.md",
    "docs/PROJECT_STRUCTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)


def make(path: Path) -> None:
    """Write the handbook to *path*."""
    parts = [part(path) for path in FILES]
    book = {**parts[0], "blocks": [block for each in parts for block in each["blocks"]]}
    options = ["--syntax-highlighting=idiomatic"]
    text = pypandoc.convert_text(json.dumps(book), "typst", format="json", extra_args=options)
    source = (STYLE.read_text(encoding="utf-8") + str(text)).encode()
    compiler = typst.Compiler(source, root=HERE, ignore_system_fonts=True, sys_inputs=WORDS)
    compiler.compile(output=path)


def part(path: str) -> dict[str, Any]:
    """Return a file as Pandoc's tree, with its links and pictures as the book needs them."""
    text = (HERE / path).read_text(encoding="utf-8")
    if not path.endswith(".md"):
        language = "sql" if path.endswith(".sql") else "shell"
        text = f"## {Path(path).name}\n\n```{language}\n{text}```\n"
    document: dict[str, Any] = json.loads(pypandoc.convert_text(text, "json", format="gfm"))
    return document | {"blocks": adapted(document["blocks"], path)}


def adapted(node: Any, path: str) -> Any:
    """Return a part of Pandoc's tree, changed where a book differs from a folder of files."""
    if isinstance(node, list):
        return [*map(partial(adapted, path=path), node)]
    if not isinstance(node, dict) or "c" not in node:
        return node
    kind, content = node["t"], adapted(node["c"], path)
    if kind == "Header":
        title = content[0] == 1 or not path.endswith(".md")
        content[1][0] = place(path, "" if title else content[1][0])
    elif kind == "Image":
        content[2][0] = f"/{target(path, content[2][0])}"
    elif kind == "Link":
        return link(content, path)
    elif kind == "Table":  # each column as wide as its content asks for
        content[2] = [[alignment, {"t": "ColWidthDefault"}] for alignment, _ in content[2]]
    elif kind == "Para" and content[-1].get("c", "")[-1:] == ":":  # not without what it announces
        raw = [{"t": "RawInline", "c": ["typst", text]} for text in ("#block(sticky: true)[", "]")]
        content = [raw[0], *content, raw[1]]
    return {"t": kind, "c": content}


def link(content: Any, path: str) -> Any:
    """Return a link, which leads into the book or to a site, or else the text of it."""
    if not content[2][0].startswith("http"):
        file, _, anchor = content[2][0].partition("#")
        other = target(path, file) if file else path
        if other not in FILES:  # paper has nowhere to lead to
            return {"t": "Span", "c": [["", [], []], content[1]]}
        content[2][0] = f"#{place(other, anchor)}"
    return {"t": "Link", "c": content}


def target(path: str, link: str) -> str:
    """Return the file, from the project's folder, that a link in the document *path* leads to."""
    return ((HERE / path).parent / link).resolve().relative_to(HERE).as_posix()


def place(path: str, anchor: str) -> str:
    """Return the name of a heading in the book; without *anchor*, of the file's own."""
    return f"file-{FILES.index(path) + 1}" + (f"-{anchor}" if anchor else "")


if __name__ == "__main__":
    make(HANDBOOK)
