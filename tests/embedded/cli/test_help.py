from __future__ import annotations

import platform
import re
import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fivestage.cli import app
from fivestage.observability.build_info import COMPILED
from support.documents import DOCUMENTS, commands, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def _commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Return every command by its path, the groups included."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, *path, name)


COMMANDS = dict(_commands(get_command(app)))


def _examples() -> Iterator[str]:
    for command in COMMANDS.values():
        yield from re.findall(r"`([^`]*\bfivestage [^`]*)`", command.help or "")
    for document in DOCUMENTS:
        yield from (line for line in commands(text_of(document)) if re.search(r"(^|\| *)fivestage ", line))


def test_examples_are_found() -> None:
    """The examples that the tests below check are found."""
    assert len(set(_examples())) >= 10


@pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
def test_help_has_an_example(path: tuple[str, ...]) -> None:
    """--help of every command works, describes it, and shows an example of it."""
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.output)  # build servers enable colours
    assert re.search(rf"Example: .*{' '.join(('fivestage', *path))}\b", text), text


@pytest.mark.parametrize("line", sorted(set(_examples())))
def test_example_parses(line: str) -> None:
    """The commands and options of every example in a help text or a document exist."""
    for part in line.partition("#")[0].split("|"):
        words = shlex.split(part)
        if words[0] != "fivestage":
            continue
        path: tuple[str, ...] = ()
        words = words[1:]
        while words and (*path, words[0]) in COMMANDS:
            path, words = (*path, words[0]), words[1:]
        assert not hasattr(COMMANDS[path], "commands"), f"{line}: no such command"
        COMMANDS[path].make_context("fivestage", words)


def test_no_arguments_shows_help() -> None:
    """``fivestage`` alone shows the commands, with exit code 2: nothing was done."""
    shown = CliRunner().invoke(app, [])
    assert (shown.exit_code, "Usage:" in shown.output) == (2, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_a_shell(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--show-completion`` prints the script of the shell that it is called from."""
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    shown = CliRunner().invoke(app, ["--show-completion"], prog_name="fivestage")
    assert (shown.exit_code, "_FIVESTAGE_COMPLETE=complete_" + shell in shown.output) == (0, True)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["watch", "--nonsense"], ["topics"], ["broker", "--port", "x"]]
)
def test_wrong_use(arguments: list[str]) -> None:
    """Wrong use exits with 2, with only help on standard output."""
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 2
    assert not ran.stdout or "Usage:" in ran.stdout


def test_version() -> None:
    """``--version`` prints the installed version, the kind of build and the version of Python."""
    ran = CliRunner().invoke(app, ["--version"])
    build = "compiled" if COMPILED else "not compiled"
    assert ran.output == f"fivestage {version('fivestage')} ({build}), Python {platform.python_version()}\n"
    assert ran.exit_code == 0
