"""Planted mistakes and their list."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
FILES = ("mutants.toml",)
"""Beside this module."""


class MutantError(Exception):
    """A mistake that cannot be planted."""


class Mutant(NamedTuple):
    """One text of the product, replaced by another."""

    name: str
    file: str
    """Relative to the project's root."""
    old: str
    """Found exactly once in the file."""
    new: str
    tests: tuple[str, ...]
    """Ids, files or folders of tests, at least one of which must fail."""

    def changed(self, root: Path) -> str:
        """Return the file's text with the mistake in it.

        Raises:
            MutantError: the old text is not in the file exactly once.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        found = text.count(self.old)
        if found != 1:
            raise MutantError(
                f"{self.name}: its old text stands {found} times in {self.file}, once is needed; "
                "change mutants.toml so that it names the code as it is now"
            )
        return text.replace(self.old, self.new)


def load() -> list[Mutant]:
    """Load all planted mistakes, in the order of the list."""
    folder = Path(__file__).parent
    entries = [
        entry
        for name in FILES
        for entry in tomllib.loads((folder / name).read_text(encoding="utf-8"))["mutant"]
    ]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
