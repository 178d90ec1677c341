"""The documents, and the code blocks and commands that are printed in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = {"docs/chaos.md", "docs/faults.md", "docs/long.md", "docs/metrics.md"}
"""Pages that verbs and tests write."""
PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    ".github/CONTRIBUTING.md",
    ".github/SECURITY.md",
    "deploy/README.md",
    "deploy/kafka-image/README.md",
    "tests/README.md",
    "tests/tools/bench/README.md",
    *(page for page in PAGES if page not in GENERATED),
]
"""Those that are written by hand."""


def text_of(document: str) -> str:
    """The text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def section(heading: str, text: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def blocks(language: str, text: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of all shell blocks, without comments; a line that is continued counts as one."""
    joined = [re.sub(r" *\\\n *", " ", block) for block in blocks("sh", text)]
    lines = [line for block in joined for line in block.splitlines()]
    return [re.sub(r" +# .*", "", line).strip() for line in lines if line.strip()]
