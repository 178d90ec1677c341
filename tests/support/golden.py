"""Reviewed lists of the public surface, one file each in ``tests/golden``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parent.parent / "golden"
COMMAND = ".venv/bin/pytest tests/unit/test_golden.py tests/unit/test_golden_metrics.py"


def compare(name: str, found: Sequence[str]) -> None:
    """Compare the running product with a file, line by line.

    The environment variable ``GOLDEN`` says how to handle a difference: ``add`` writes the file unless
    a line of it is missing, ``break`` always writes it.

    Raises:
        AssertionError: they differ.
    """
    path = FOLDER / name
    wanted = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    mode = os.environ.get("GOLDEN", "")
    gone = [line for line in wanted if line not in set(found)]
    if mode == "break" or (mode == "add" and not gone):
        path.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
        return
    new = [line for line in found if line not in set(wanted)]
    assert list(found) == wanted, _message(name, gone, new)


def _message(name: str, gone: list[str], new: list[str]) -> str:
    lines = [f"tests/golden/{name} differs from what runs.", *(f"  - {line}" for line in gone)]
    lines += [f"  + {line}" for line in new]
    if gone:
        lines.append(
            "To take away or rename a line breaks the contract with its readers. Undo that, or agree "
            f"on a new version and run: GOLDEN=break {COMMAND}"
        )
    elif new:
        lines.append(f"Adding is allowed. Review the lines, then run: GOLDEN=add {COMMAND}")
    else:
        lines.append(f"Only the order differs. Run: GOLDEN=add {COMMAND}")
    return "\n".join(lines)
