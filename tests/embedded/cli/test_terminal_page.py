from __future__ import annotations

import re
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.documents import commands, text_of

from .conftest import COMMAND, LIMIT_S
from .screen import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Fivestage, RunningCommand, Start

pytestmark = pytest.mark.broker
PRINTED = commands(text_of("docs/terminal.md"))
QUESTION = '{"query_id":"a","user_input":"What is 15 + 7?"}\n'


@pytest.fixture(scope="module")
def settings(
    environment: dict[str, str],
    fivestage: Fivestage,
    start_for_session: Start,
    service: RunningCommand,
    bootstrap: str,
) -> dict[str, str]:
    """Ask the question of the page; return the environment of its commands."""
    fivestage("produce", "-", "--bootstrap", bootstrap, stdin=QUESTION)
    watching = start_for_session("watch", "--from-beginning", "--json", "--bootstrap", bootstrap)
    watching.line_with('{"query_id":"a"')
    watching.process.kill()
    port = str(service.ready["admin_port"])
    own = {"FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS": bootstrap, "FIVESTAGE_ADMIN__PORT": port}
    return {**environment, **own, "TERM": "xterm-256color"}


@pytest.mark.parametrize("line", PRINTED)
def test_printed_commands(settings: dict[str, str], folder: Path, line: str) -> None:
    """Each command of the page runs as printed; those that follow something end with Ctrl-C.

    Other modules ask too, so the first result may be another query's, which ``explain --file`` then says.
    """
    runs_on = line == "fivestage top" or ("watch" in line and "--max" not in line)
    shown = re.sub(r"(^|\| )fivestage ", rf"\1{shlex.join(COMMAND)} ", f"{line} ").strip()
    if runs_on:
        with Terminal(["bash", "-c", f"exec {shown}"], settings, (120, 40)) as terminal:
            terminal.wait_for("fivestage ready" if "top" in line else "following fivestage.results")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.end() == 0
        return
    command = ["bash", "-c", shown]
    ran = subprocess.run(
        command, cwd=folder, env=settings, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    of_another = ran.returncode == 1 and "searched 1 lines" in ran.stderr
    assert ran.returncode == 0 or ("--file" in line and of_another), ran.stderr
