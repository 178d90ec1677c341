from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from .conftest import COMMAND
from .screen import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Fivestage

pytestmark = pytest.mark.broker
MANY = 100_000
"""Lines that take longer to write than the bar waits before it appears."""


@pytest.fixture
def queries(folder: Path) -> Path:
    """Write many expired queries to a file."""
    fields = {"user_input": "1", "deadline": "2020-01-01T00:00:00Z"}
    lines = (json.dumps({"query_id": f"many-{number}", **fields}) for number in range(MANY))
    path = folder / "many.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_bar(environment: dict[str, str], bootstrap: str, queries: Path) -> None:
    """With results in a file the terminal shows a bar; after Ctrl-C it is gone and the cursor is back."""
    command = shlex.join([*COMMAND, "produce", "--file", str(queries), "--bootstrap", bootstrap])
    settings = {**environment, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    with Terminal(["sh", "-c", f"exec {command} >/dev/null"], settings, (100, 24)) as terminal:
        terminal.wait_for("writing many.jsonl")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert terminal.written.rfind(b"\x1b[?25h") > terminal.written.rfind(b"\x1b[?25l")


def test_no_bar_in_a_pipe(fivestage: Fivestage, bootstrap: str) -> None:
    """In a pipe nothing is shown, however long it takes."""
    ran = fivestage("explain", "nothing-of-that-name", "--json", "--bootstrap", bootstrap)
    assert "\x1b" not in ran.out + ran.err
    assert "searching" not in ran.err
