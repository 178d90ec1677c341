"""Sections and tables of Markdown documents."""

from __future__ import annotations

import re


def section(text: str, heading: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert found is not None, f"no section {heading!r}"
    return found[1]


def table_under(text: str) -> list[list[str]]:
    """The cells of the first table in a text, row by row, without the header."""
    rows = re.search(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert rows is not None, "no table"
    lines = rows[0].splitlines()[2:]
    assert lines, "an empty table"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def tables_in(text: str) -> list[list[list[str]]]:
    """The cells of all tables in a text, as ``table_under`` has them."""
    return [table_under(found) for found in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)]
