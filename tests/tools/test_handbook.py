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
    titles = [title for level, title in entries(book.outline) if level == 1]
    assert [title[:2] for title in titles] == [f"{n + 1} " for n in range(len(handbook.CHAPTERS))]
    numbers = [page.extract_text().splitlines()[-1].strip() for page in book.pages[1:]]
    assert numbers == [str(number) for number in range(2, len(book.pages) + 1)]
    fonts = {
        font["/BaseFont"].partition("+")[2].partition("-")[0]
        for page in book.pages
        for font in (each.get_object() for each in page["/Resources"]["/Font"].values())
    }
    assert fonts == {"LibertinusSerif", "DejaVuSansMono"}


def test_a_link_leads_into_the_book_or_is_plain_text(handbook):
    def link(target):
        return {"t": "Link", "c": [["", [], []], [], [target, ""]]}

    def adapted(target):
        return handbook.adapted(link(target), "docs/QUICKSTART.md")

    assert adapted("../README.md") == link("#chapter-1")
    assert adapted("../README.md#settings") == link("#chapter-1-settings")
    assert adapted("#verify") == link("#chapter-2-verify")
    assert adapted("https://iterable.com") == link("https://iterable.com")
    assert adapted("../LICENSE") == {"t": "Span", "c": [["", [], []], []]}


def test_the_handbook_in_docs_is_that_of_this_version(reader):
    metadata = reader(HERE / "docs" / "handbook.pdf").metadata
    assert metadata["/Keywords"] == VERSION, "run: make release"
