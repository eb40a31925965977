"""The handbook: it can be made of the documents as they are, and always comes out the same."""

import pytest

from configuration.command_line import VERSION
from configuration.settings import HERE
from tests.needed import needed

pytestmark = pytest.mark.program


@pytest.fixture
def handbook():
    return needed("tools.handbook", "EXPECT_HANDBOOK")


@pytest.fixture
def reader():
    return needed("pypdf", "EXPECT_HANDBOOK").PdfReader


def entries(outline, level=1):
    for entry in outline:
        if isinstance(entry, list):
            yield from entries(entry, level + 1)
        else:
            yield level, entry.title


def test_every_document_is_a_chapter_and_the_same_documents_give_the_same_bytes(
    handbook, reader, tmp_path
):
    one, other = tmp_path / "one.pdf", tmp_path / "other.pdf"
    handbook.make(one)
    handbook.make(other)
    assert one.read_bytes() == other.read_bytes()
    book = reader(one)
    titles = {title: level for level, title in entries(book.outline)}
    chapters = [name for name in handbook.FILES if name.endswith(".md")]
    numbered = [title.partition(" ")[0] for title, level in titles.items() if level == 1]
    assert numbered == [str(number + 1) for number in range(len(chapters))]
    pages = [page.extract_text().splitlines() for page in book.pages[1:]]
    assert [lines[-1].strip() for lines in pages] == [str(n + 2) for n in range(len(pages))]
    # No heading, and nothing that announces what comes, ends a page.
    ends = [lines[-2].strip() for lines in pages]
    assert [e for e in ends if e in titles or (e.endswith(":") and e[0] not in "-#")] == []
    fonts = {
        font["/BaseFont"].partition("+")[2].partition("-")[0]
        for page in book.pages
        for font in (each.get_object() for each in page["/Resources"]["/Font"].values())
    }
    assert fonts == {"LibertinusSerif", "DejaVuSansMono"}


def test_the_handbook_in_docs_is_that_of_this_version(reader):
    metadata = reader(HERE / "docs" / "handbook.pdf").metadata
    assert metadata["/Keywords"] == VERSION, "run: make release"
