"""``fivestage new``: its project can be installed, its tests pass, and every command works on it."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from fivestage.cli import app
from support import preloaded
from support.documents import blocks, commands, section, text_of

from .conftest import GENEROUS, variables

if TYPE_CHECKING:
    from pathlib import Path

AUTHORS = text_of("docs/authors.md")
FILES = {"README.md", "app.py", "fivestage.toml", "pyproject.toml", "test_app.py"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that the command has made."""
    folder = tmp_path_factory.mktemp("new") / "shop"
    made = CliRunner().invoke(app, ["new", str(folder)])
    assert made.exit_code == 0, made.output
    assert {path.name for path in folder.iterdir()} == FILES
    return folder


def run(folder: Path, *arguments: str, **environment: str) -> str:
    """Run a module of Python in a folder; return its output."""
    ran = preloaded.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_its_tests_pass_on_the_installed_app(project: Path, tmp_path: Path) -> None:
    """The wheel of the project has the app, and the project's tests pass with it."""
    run(project, "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    wheel = next(tmp_path.glob("shop-0.1.0-*.whl"))
    for name in ("test_app.py", "pyproject.toml"):
        (tmp_path / name).write_text((project / name).read_text(encoding="utf-8"), encoding="utf-8")
    found = run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", PYTHONPATH=str(wheel))
    assert "4 passed" in found


def test_its_readme_works(project: Path) -> None:
    """The commands of its README are those that work: ``check`` finds nothing, ``ask`` gets an answer."""
    (text,) = blocks("sh", (project / "README.md").read_text(encoding="utf-8"))
    lines = [line.partition(" #")[0].strip() for line in text.splitlines()]
    assert lines[1] == "fivestage check app:app -c fivestage.toml"
    assert lines[2] == 'fivestage ask app:app "hello" -c fivestage.toml'
    assert "no problems found" in run(project, *lines[1].split())
    assert "Hello! Ask me something." in run(project, *shlex.split(lines[2]))
    assert lines[4] == "fivestage run app:app -c fivestage.toml"
    assert "valid" in run(project, "fivestage", "config", "check", "--config", "fivestage.toml")


def test_its_code_is_clean(project: Path) -> None:
    """The strict mode of mypy finds nothing in it, and ruff none of the usual mistakes."""
    run(project, "mypy", "--strict", "--config-file=", "app.py", "test_app.py")
    run(project, "ruff", "check", "--isolated", "--select", "E,F,B,I,UP,SIM,RUF", "--line-length", "110", ".")


def test_an_empty_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder may be there, as long as it is empty; its name is the project's."""
    (tmp_path / "my-shop").mkdir()
    monkeypatch.chdir(tmp_path / "my-shop")
    assert CliRunner().invoke(app, ["new", "."]).exit_code == 0
    assert 'name = "my-shop"' in (tmp_path / "my-shop" / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("full", "full is not empty: name a folder that is new or empty"),
        ("file", "cannot create file: File exists"),
        ("a b", "'a b' cannot be the name of a project: use letters"),
    ],
)
def test_refuses_what_it_could_spoil(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """A folder with files, a file, and a name that no project can have exit with 2; nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "file").touch()
    ran = CliRunner().invoke(app, ["new", name])
    assert (ran.exit_code, text in ran.stderr) == (2, True)
    assert {path.name for path in tmp_path.rglob("*")} == {"full", "file", "notes.txt"}


def test_printed_commands(tmp_path: Path) -> None:
    """The commands of docs/authors.md work one after the other."""
    lines = commands(section("Try an app: `ask`, `check`, `dev`, `bench`", AUTHORS))[:3]
    new, check, ask = (shlex.split(line) for line in lines)
    assert new == ["fivestage", "new", "shop"]
    run(tmp_path, *new)
    assert "no problems found" in run(tmp_path / "shop", *check)
    assert "  success  node greeter" in run(tmp_path / "shop", *ask, **variables(GENEROUS))


def test_printed_tests_pass(tmp_path: Path) -> None:
    """The tests that docs/authors.md prints pass on the app that it prints."""
    (node, *_) = blocks("python", section("Clients, pools, models", AUTHORS))
    (tests,) = blocks("python", section("Test a node", AUTHORS))
    (tmp_path / "myapp.py").write_text(node, encoding="utf-8")
    (tmp_path / "test_myapp.py").write_text(tests, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
    assert "2 passed" in run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", PYTHONPATH=".")
