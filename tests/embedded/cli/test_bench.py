"""``fivestage bench`` on the embedded broker."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from support.developed import LIMIT_S, MODULE, PARTS
from support.documents import commands, text_of
from support.preloaded import run

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

pytestmark = pytest.mark.broker


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder to its end."""
    return run(
        [sys.executable, "-m", "fivestage", "bench", "myapp:app", *arguments],
        cwd=folder,
        timeout=LIMIT_S,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an app."""
    (tmp_path / "myapp.py").write_text(MODULE)
    (tmp_path / "parts.py").write_text(PARTS.format("one"))
    return tmp_path


def test_measures(folder: Path) -> None:
    """Each query of each load has an end, the app's node answers, and there is a picture."""
    (folder / "questions.txt").write_text("hello\n\nwhat is it?\n")
    ran = bench(folder, "--questions", "questions.txt", "--seconds", "5", "--json", "--out", "bench.html")
    assert ran.returncode in {0, 1}, ran.stderr  # 1: a machine without a core to spare
    *loads, last = map(json.loads, ran.stdout.splitlines())
    assert loads
    for load in loads:
        assert sum(load["outcomes"].values()) == load["sent"] > 0
        assert set(load["nodes"]) <= {"word"}
    assert last["best_load_per_s"] >= 10
    assert "<svg" in (folder / "bench.html").read_text()


def test_printed_command(folder: Path) -> None:
    """The command of docs/authors.md, with less time, prints loads and verdict, and writes its picture."""
    (line,) = [line for line in commands(text_of("docs/authors.md")) if line.startswith("fivestage bench")]
    name, *arguments = shlex.split(line.replace("--seconds 30", "--seconds 5"))
    assert (name, *arguments[:2]) == ("fivestage", "bench", "myapp:app")
    ran = bench(folder, *arguments[2:])
    assert "in time/s" in ran.stdout, ran.stderr
    assert "answered by word" in ran.stdout
    assert "processing" in ran.stdout
    assert "<svg" in (folder / "bench.svg").read_text()


def test_broken_app(folder: Path) -> None:
    """An app that cannot be imported is named, with its traceback from the service's log."""
    (folder / "parts.py").write_text("WORD = \n")
    ran = bench(folder, "--seconds", "5")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "SyntaxError" in ran.stderr
    assert ran.stderr.splitlines()[0] == (
        'fivestage: asks in turn, as no --question is given: "What is 15 + 7?", "hello there", "What is the '
        'capital of France?"'
    )


def test_resource_that_does_not_open(folder: Path) -> None:
    """The first failure of a resource ends the command, with what it raised; nothing waits for a retry."""
    resource = "\n\n@app.resource\nasync def http():\n    raise RuntimeError('no net')\n    yield\n"
    (folder / "myapp.py").write_text(MODULE + resource)
    ran = bench(folder, "--seconds", "5")
    assert (ran.returncode, ran.stdout) == (1, "")
    place = f"{folder / 'myapp.py'}:{len(MODULE.splitlines()) + 5}, in http"
    said = f"fivestage: resource 'http' did not open: RuntimeError: no net, at {place}; the service's log:"
    assert ran.stderr.splitlines()[1] == said
    assert 1 <= ran.stderr.count("a resource did not open") < 5  # in executor.start_timeout_ms there are more


def test_settings_of_another_broker(folder: Path) -> None:
    """Credentials of the settings are not needed for the embedded broker."""
    (folder / "f.toml").write_text(
        "[kafka]\nbootstrap_servers = 'broker.example:9093'\nsecurity_protocol = 'SASL_SSL'\n"
        "sasl_mechanism = 'SCRAM-SHA-512'\nsasl_username = 'me'\nsasl_password = 'secret'\n"
    )
    ran = bench(folder, "--seconds", "5", "--config", "f.toml", "-q", "hello")
    assert "in time/s" in ran.stdout, ran.stderr


def test_settings_that_are_wrong(folder: Path) -> None:
    """The service's own reason is in the first line, also where its log is text."""
    (folder / "f.toml").write_text("logging.format = 'text'\n[nodes.other]\na = 1\n")
    ran = bench(folder, "--seconds", "5", "--config", "f.toml", "-q", "hello")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "exit code 2: nodes.other: there is no node" in ran.stderr.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--out", "bench.png"), "a .svg or a .html file"),
        (("--questions", "none.txt"), "cannot read none.txt"),
        (("--questions", "empty.txt"), "has no questions"),
    ],
)
def test_wrong_use(folder: Path, arguments: tuple[str, ...], why: str) -> None:
    """Wrong use is found before anything is started."""
    (folder / "empty.txt").write_text("\n")
    ran = bench(folder, *arguments)
    assert ran.returncode == 2
    assert why in ran.stderr
