"""The example apps are run by their own tests."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.documents import ROOT

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/test_app.py"))


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_example(folder: Path) -> None:
    """The tests of the folder pass, from where its README says."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_each_example_is_in_the_readme() -> None:
    """The table of examples has a row for each folder."""
    readme = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    assert [f"`{folder.name}`" in readme for folder in EXAMPLES] == [True] * 3
