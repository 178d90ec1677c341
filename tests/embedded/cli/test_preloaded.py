"""Commands that tests fork behave as those that users start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import preloaded

COMMAND = [sys.executable, "-m", "fivestage"]
MISSING = {"FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["run", "--help"],
        ["no-such-command"],
        ["config", "check"],
        ["config", "check", "--config", "missing.toml"],
        ["run", "nowhere:app"],
    ],
    ids=" ".join,
)
def test_code_and_texts_are_the_same(tmp_path: Path, arguments: list[str]) -> None:
    """Exit code, standard output and standard error do not depend on how a command was started."""
    command, environment = [*COMMAND, *arguments], {**os.environ, **MISSING}
    forked = preloaded.run(command, cwd=tmp_path, env=environment, timeout=60)
    ordinary = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (forked.returncode, forked.stdout) == (ordinary.returncode, ordinary.stdout)
    assert _without_time(forked.stderr) == _without_time(ordinary.stderr)


def _without_time(text: str) -> str:
    """Return log lines without their times, which come first."""
    return "\n".join(line.partition('"level"')[2] or line for line in text.splitlines())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
@pytest.mark.skipif(os.environ.get(preloaded.START) == "exec", reason="nothing is forked")
def test_a_forked_command_is_a_child(tmp_path: Path) -> None:
    """It is a child of the test's process, not its own program's, and its end by a signal is seen."""
    pipe = subprocess.PIPE
    with preloaded.Popen[str]([*COMMAND, "produce", "-"], cwd=tmp_path, stdin=pipe, stderr=pipe) as process:
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.kill()
        assert process.wait(30) == -9
    assert int(stat[1]) == os.getpid()
    assert preloaded.SERVER.name.encode() in line
