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
CHAPTERS = (
    "README.md",
    "docs/QUICKSTART.md",
    ".env.example",
    "docs/SAMPLE_RESULTS.md",
    "deploy/README.md",
    "docs/PHASE3_SUMMARY.md",
    "docs/DATABASE.md",
    "docs/MAPPING.md",
    "benchmarks/RESULTS.md",
    "docs/PROJECT_STRUCTURE.md",
)


def make(path: Path) -> None:
    """Write the handbook to *path*."""
    documents = [chapter(path) for path in CHAPTERS]
    book = {**documents[0], "blocks": [part for each in documents for part in each["blocks"]]}
    options = ["--syntax-highlighting=idiomatic"]
    text = pypandoc.convert_text(json.dumps(book), "typst", format="json", extra_args=options)
    source = (STYLE.read_text(encoding="utf-8") + str(text)).encode()
    compiler = typst.Compiler(source, root=HERE, ignore_system_fonts=True, sys_inputs=WORDS)
    compiler.compile(output=path)


def chapter(path: str) -> dict[str, Any]:
    """Return a document as Pandoc's tree, with its links and pictures as the book needs them."""
    text = (HERE / path).read_text(encoding="utf-8")
    if not path.endswith(".md"):
        text = f"# Settings\n\n```shell\n{text}```\n"
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
        content[1][0] = place(path, "" if content[0] == 1 else content[1][0])
    elif kind == "Image":
        content[2][0] = f"/{target(path, content[2][0])}"
    elif kind == "Link" and not content[2][0].startswith("http"):
        file, _, anchor = content[2][0].partition("#")
        chapter_path = target(path, file) if file else path
        if chapter_path not in CHAPTERS:  # paper has nowhere to lead to
            return {"t": "Span", "c": [["", [], []], content[1]]}
        content[2][0] = f"#{place(chapter_path, anchor)}"
    elif kind == "Table":  # each column as wide as its content asks for
        content[2] = [[alignment, {"t": "ColWidthDefault"}] for alignment, _ in content[2]]
    return {"t": kind, "c": content}


def target(path: str, link: str) -> str:
    """Return the file, from the project's folder, that a link in the document *path* leads to."""
    return ((HERE / path).parent / link).resolve().relative_to(HERE).as_posix()


def place(path: str, anchor: str) -> str:
    """Return the name of a heading in the book; without *anchor*, of a chapter's title."""
    return f"chapter-{CHAPTERS.index(path) + 1}" + (f"-{anchor}" if anchor else "")


if __name__ == "__main__":
    make(HANDBOOK)
