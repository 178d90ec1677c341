"""Documents are short, plain and linked."""

from __future__ import annotations

import re

import pytest

from support.documents import DOCUMENTS, GENERATED, PAGES, ROOT, text_of

MOST_WORDS = 900
NOT_PLAIN = re.compile(
    r"\b(anew|begun|nobody|somebody|whoever|told|tells|held up|put down|so many|of its own|of their own)\b"
)


def test_the_readme_fits_on_a_page() -> None:
    """It has at most MOST_WORDS words, and every page is linked from it or from the page of benchmarks."""
    readme = text_of("README.md")
    assert len(readme.split()) <= MOST_WORDS
    reached = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]*)\)", readme)}
    reached |= {
        f"docs/{target}" for target in re.findall(r"\]\(([\w-]+\.md)\)", text_of("docs/benchmarks.md"))
    }
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("document", [*DOCUMENTS, *sorted(GENERATED & set(PAGES))])
def test_links(document: str) -> None:
    """A link leads to a file that exists, and to a heading in it."""
    path = ROOT / document
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", path.read_text(encoding="utf-8")):
        there = path.parent / target if target else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), anchor


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_plain_words(document: str) -> None:
    """No archaic words, and none that treat things as people (CONTRIBUTING)."""
    assert NOT_PLAIN.findall(text_of(document)) == []
