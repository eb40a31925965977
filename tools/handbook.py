"""Makes docs/handbook.pdf from the documents: python -m tools.handbook, or make pdf.

Markdown is read by markdown-it-py, code is coloured by Pygments, diagrams are drawn by Mermaid, and
Chromium sets the pages. It knows no page numbers for a table of contents, so the book is printed
twice: the first print tells on which page each heading stands.
"""

import hashlib
import html
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pypdf import PdfReader, PdfWriter

from configuration.command_line import DESCRIPTION, VERSION
from tools.structure import ROOT
from tools.typesetting import ToolError, draw, fetch_packages, font_faces, print_pdf

HANDBOOK = ROOT / "docs" / "handbook.pdf"
STYLE = ROOT / "tools" / "handbook.css"
DIGEST_KEY = "/SourceDigest"
TITLE = "Iterable sync"
SUBTITLE = "Handbook"
LONG_NAME = 22


class Heading(NamedTuple):
    """A line of the table of contents."""

    level: int
    anchor: str
    title: str


@dataclass(frozen=True)
class Chapter:
    """One document of the book; the sections named in ``without`` stay out of it."""

    path: str
    title: str = ""
    without: Sequence[str] = field(default=())


CHAPTERS = (
    Chapter("docs/QUICKSTART.md"),
    Chapter("docs/PHASE3_SUMMARY.md", title="How it works"),
    # What the other chapters have, or what is of use only beside the code.
    Chapter(
        "README.md",
        title="Reference",
        without=("Try it", "What is sent", "How fast", "The results file", "Dependencies", "More"),
    ),
    Chapter("docs/SAMPLE_RESULTS.md"),
    Chapter("deploy/README.md", title="Deployment"),
    Chapter("benchmarks/RESULTS.md"),
    # The figures change with every commit.
    Chapter("docs/PROJECT_STRUCTURE.md", without=("Statistics",)),
)


def main() -> int:
    """Make the handbook; return the exit status."""
    try:
        fetch_packages()
        make(HANDBOOK)
    except ToolError as error:
        sys.stderr.write(f"make pdf: {error}\n")
        return 1
    pages = len(PdfReader(HANDBOOK).pages)
    sys.stdout.write(f"wrote {HANDBOOK.relative_to(ROOT)}, {pages} pages\n")
    return 0


def make(path: Path) -> None:
    """Write the handbook to *path*."""
    book = Book()
    with TemporaryDirectory(prefix="handbook-") as folder:
        first, second = Path(folder, "first.pdf"), Path(folder, "second.pdf")
        print_pdf(book.page({}), first)
        print_pdf(book.page(page_numbers(first)), second)
        finish(second, path, book.contents)


def finish(printed: Path, path: Path, contents: Sequence[Heading]) -> None:
    """Put an outline, the book's title and the digest of its sources into the PDF; and no dates.

    The outline has the headings for which Chromium printed a place.
    """
    writer = PdfWriter(clone_from=PdfReader(printed))
    writer.metadata = None
    for page in writer.pages:
        page.compress_content_streams()
    numbers, above = page_numbers(printed), None
    for level, anchor, title in contents:
        if anchor in numbers:
            parent = None if level == 1 else above
            item = writer.add_outline_item(
                title=title, page_number=numbers[anchor] - 1, parent=parent
            )
            above = item if level == 1 else above
    writer.add_metadata(
        {
            "/Title": f"{TITLE} – {SUBTITLE}",
            "/Subject": DESCRIPTION,
            "/Creator": "make pdf",
            DIGEST_KEY: digest(),
        }
    )
    writer.write(path)


def page_numbers(path: Path) -> dict[str, int]:
    """Return the page of each link's target in a printed book."""
    reader = PdfReader(path)
    numbers = {}
    for name, target in reader.named_destinations.items():
        page = reader.get_destination_page_number(target)
        if page is not None:
            numbers[name.removeprefix("/")] = page + 1
    return numbers


def digest() -> str:
    """Return a hash of all that the handbook is made from."""
    texts = [source(chapter) for chapter in CHAPTERS]
    texts += [f"{TITLE} {SUBTITLE} {VERSION} {DESCRIPTION} {CHAPTERS}", sample_row()]
    texts += [(ROOT / name).read_text(encoding="utf-8") for name in sorted(SET_BY)]
    texts.append((ROOT / "benchmarks" / "results.svg").read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


SET_BY = ("tools/handbook.css", "tools/handbook.py", "tools/typesetting.py")


def source(chapter: Chapter) -> str:
    """Return a chapter's Markdown, without the sections that stay out of the book."""
    text = (ROOT / chapter.path).read_text(encoding="utf-8")
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    kept = [
        part for part in parts if part.partition("\n")[0].removeprefix("## ") not in chapter.without
    ]
    text = "".join(kept)
    return (
        re.sub(r"^# .+$", f"# {chapter.title}", text, count=1, flags=re.MULTILINE)
        if chapter.title
        else text
    )


def headings(chapter: Chapter) -> list[str]:
    """Return the text of every heading of a chapter, without its signs."""
    text = re.sub(r"^```.*?^```", "", source(chapter), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#{1,4} (.+)$", text, flags=re.MULTILINE)
    return [re.sub(r"`|\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in found]


def sample_row() -> str:
    """Return the sample results file for print: its first row, one field a line."""
    document = json.loads((ROOT / "docs" / "SAMPLE_RESULTS.json").read_text(encoding="utf-8"))
    document["results"] = document["results"][:1]
    return json.dumps(document, indent=2, ensure_ascii=False)


def slug(text: str) -> str:
    """Return the anchor that the code host gives a heading."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


class Book:
    """All chapters as HTML."""

    def __init__(self) -> None:
        self._diagrams: list[str] = []
        self.contents: list[Heading] = []
        self._files = {
            (ROOT / chapter.path).resolve(): f"c{number}"
            for number, chapter in enumerate(CHAPTERS, 1)
        }
        bodies = [self._chapter(n, chapter) for n, chapter in enumerate(CHAPTERS, 1)]
        drawn = iter(draw(self._diagrams))
        body = "\n".join(bodies)
        self._body = re.sub("<!--diagram-->", lambda _: next(drawn), body)

    def page(self, numbers: dict[str, int]) -> str:
        """Return the whole book, with *numbers* in its table of contents."""
        running = "\n".join(
            f"@page c{n} {{ @top-left {{ content: {json.dumps(title)} }} }} #c{n} {{ page: c{n} }}"
            for n, title in enumerate(self._titles(), 1)
        )
        style = STYLE.read_text(encoding="utf-8")
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{TITLE}</title>'
            f"<style>{font_faces()}\n{style}\n{running}</style>"
            f"<body>{cover()}{self._table_of_contents(numbers)}{self._body}</body></html>"
        )

    def _titles(self) -> Iterator[str]:
        for level, _, title in self.contents:
            if level == 1:
                yield title

    def _table_of_contents(self, numbers: dict[str, int]) -> str:
        lines = []
        for level, anchor, title in self.contents:
            page = numbers.get(anchor, "")
            lines.append(
                f'<li class="l{level}"><a href="#{anchor}"><span>{html.escape(title)}</span>'
                f"<i></i><b>{page}</b></a></li>"
            )
        return f'<nav><p class="title">Contents</p><ol>{"".join(lines)}</ol></nav>'

    def _chapter(self, number: int, chapter: Chapter) -> str:
        parser = MarkdownIt("commonmark", {"highlight": colour}).enable("table")
        tokens = parser.parse(source(chapter))
        self._prepare(tokens, number, chapter)
        body = parser.renderer.render(tokens, parser.options, {})
        body = re.sub(r"<pre>.*?</pre>", lambda block: kept_whole(block[0]), body, flags=re.DOTALL)
        body = body.replace("[ ] ", '<span class="box"></span>')
        # Long names may be cut behind these signs.
        body = re.sub(r"<td>.*?</td>", lambda cell: breakable(cell[0]), body, flags=re.DOTALL)
        if chapter.path.endswith("SAMPLE_RESULTS.md"):
            body += (
                '<h2 id="c4-sample">The sample, with the first of its three rows</h2>'
                f"<pre><code>{colour(sample_row(), 'json', '')}</code></pre>"
            ).replace("c4-", f"c{number}-")
            self.contents.append(Heading(2, f"c{number}-sample", "The sample"))
        return f'<section id="c{number}" data-source="{chapter.path}">{body}</section>'

    def _prepare(self, tokens: list[Token], number: int, chapter: Chapter) -> None:
        """Give headings their anchors, make links lead into the book, take diagrams out."""
        for token, following in zip(tokens, [*tokens[1:], None], strict=True):
            if token.type == "heading_open" and following:
                self._heading(token, following, number)
            elif token.type == "inline":
                children = token.children or []
                for place, child in enumerate(children):
                    self._link(child, children[place + 1 : place + 2], chapter)
            elif token.type == "fence" and token.info.startswith("mermaid"):
                self._diagrams.append(token.content)
                token.type, token.content = "html_block", "<figure><!--diagram--></figure>"

    def _heading(self, token: Token, inline: Token, number: int) -> None:
        level = int(token.tag[1])
        text = "".join(child.content for child in inline.children or ())
        anchor = f"c{number}-{slug(text)}"
        title = f"{number}  {text}" if level == 1 else text
        token.attrSet("id", anchor)
        if level == 1:
            token.attrSet("data-number", str(number))
        self.contents.append(Heading(level, anchor, title))

    def _link(self, token: Token, following: list[Token], chapter: Chapter) -> None:
        if token.type == "image":
            token.attrSet(
                "src", ((ROOT / chapter.path).parent / str(token.attrGet("src"))).as_uri()
            )
        elif token.type == "link_open":
            file, _, anchor = str(token.attrGet("href")).partition("#")
            if re.match(r"https?:", file):
                return
            path = ((ROOT / chapter.path).parent / file).resolve() if file else ROOT / chapter.path
            inside = self._files.get(path)
            if inside:
                token.attrSet("href", f"#{inside}-{anchor}" if anchor else f"#{inside}")
                # On paper a chapter has a number, not a path.
                for text in following:
                    if text.content.endswith(".md"):
                        text.content = f"Chapter {inside[1:]}"
            else:
                del token.attrs["href"]


def colour(code: str, language: str, _attrs: str) -> str:
    """Return *code* as HTML, coloured."""
    names = {"": "text", "cron": "text", "console": "bash"}
    lexer = get_lexer_by_name(names.get(language, language), stripnl=False)
    coloured: str = highlight(code, lexer, HtmlFormatter(nowrap=True))
    return coloured


def kept_whole(block: str) -> str:
    """Keep a block of code on one page, if it is not long."""
    return block.replace("<pre>", '<pre class="short">') if block.count("\n") < 32 else block


def breakable(cell: str) -> str:
    """Let long names in a table's cell break behind a dot, a slash or an underscore."""

    def cut(match: re.Match[str]) -> str:
        if len(match[1]) < LONG_NAME:
            return match[0]
        return "<code>" + re.sub(r"(?<=[\w\]])([._/\]])(?=\w)", r"\1<wbr>", match[1]) + "</code>"

    return re.sub(r"<code>(.*?)</code>", cut, cell)


def cover() -> str:
    """Return the first page."""
    lines = "".join(
        f'<path d="M 4 {8 + 14 * n} C 120 {8 + 14 * n} 150 64 262 64"/>'
        f'<circle cx="4" cy="{8 + 14 * n}" r="2.6"/>'
        for n in range(9)
    )
    return (
        '<header class="cover"><svg viewBox="0 0 330 130" aria-hidden="true">'
        f'{lines}<circle cx="276" cy="64" r="14" class="ring"/></svg>'
        f'<p class="name">{TITLE}</p><p class="subtitle">{SUBTITLE}</p>'
        f'<p class="about">{DESCRIPTION}</p><p class="version">Version {VERSION}</p></header>'
    )


if __name__ == "__main__":
    sys.exit(main())
