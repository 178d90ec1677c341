"""Programs that judge the product and are not installed everywhere, such as a browser."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, package: str | None = None) -> str:
    """Return the path of a program; skip the test without it, or fail with FIVESTAGE_REQUIRE_PROGRAMS=1.

    Args:
        name: The program's name.
        package: Debian's package that has it, if that has another name.
    """
    path = shutil.which(name)
    if path is not None:
        return path
    text = f"needs {name} (apt-get install {package or name})"
    if os.environ.get("FIVESTAGE_REQUIRE_PROGRAMS") == "1":
        pytest.fail(text)
    pytest.skip(text)
