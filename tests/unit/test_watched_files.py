"""The files and modules of an author's app, as a reload sees them."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest

from fivestage.errors import InvalidAppError
from fivestage.service.watched_files import WatchedFiles, drop_compiled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder from which modules are imported; what a test imports is removed at its end."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def write(folder: Path, **texts: str) -> None:
    """Write modules, whose names have ``__`` for the separator of folders."""
    for name, text in texts.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()


def test_module(folder: Path) -> None:
    """For a module: its folder and the packages in it, but no virtual environment and no other folder."""
    write(folder, srcapp="", beside="", package__inner="", other__inner="", venv__lib__installed="")
    (folder / "package" / "__init__.py").touch()
    sources = WatchedFiles.of("srcapp:app")
    assert len(sources) == 4
    write(folder, package__inner="A = 1", other__inner="A = 1", venv__lib__installed="A = 1", fresh="")
    assert [path.name for path in sources.changed()] == ["fresh.py", "inner.py"]
    assert sources.changed() == []
    (folder / "fresh.py").unlink()
    assert [path.name for path in sources.changed()] == ["fresh.py"]


def test_package(folder: Path) -> None:
    """For a package: its folder only; further packages, folders and files are watched where that is asked."""
    write(folder, srcpackage__app="", beside="", shared__inner="")
    (folder / "srcpackage" / "__init__.py").touch()
    (folder / "shared" / "__init__.py").touch()
    (folder / "prompts").mkdir()
    (folder / "prompts" / "one.txt").touch()
    assert len(WatchedFiles.of("srcpackage.app:app")) == 2
    also = [folder / "shared", folder / "prompts", folder / "beside.py"]
    assert len(WatchedFiles.of("srcpackage.app:app", also)) == 6


def test_same_second_and_size(folder: Path) -> None:
    """A file that changes within a second, to the same size, is imported as it now is."""
    write(folder, quick="WORD = 'one'")
    sources = WatchedFiles.of("quick")
    assert importlib.import_module("quick").WORD == "one"
    write(folder, quick="WORD = 'two'")
    changed = sources.changed()
    drop_compiled(changed)
    sources.take_modules()
    assert importlib.import_module("quick").WORD == "two"


def test_modules_are_restored(folder: Path) -> None:
    """Only the app's own modules are imported once more, and the earlier ones can be put back."""
    write(folder, ownapp="import ownpart, json", ownpart="")
    sources = WatchedFiles.of("ownapp")
    importlib.import_module("ownapp")
    before = dict(sys.modules)
    taken = sources.take_modules()
    assert sorted(taken) == ["ownapp", "ownpart"]
    assert "json" in sys.modules
    assert "fivestage" in sys.modules
    importlib.import_module("ownapp")
    assert sys.modules["ownpart"] is not before["ownpart"]
    sources.restore(taken)
    assert sys.modules == before


def test_an_app_that_is_gone(folder: Path) -> None:
    """The file of the app's module or package must stay: another module may have its name."""
    write(folder, homeapp="", homepackage__inner="")
    (folder / "homepackage" / "__init__.py").touch()
    for target, name in {"homeapp:app": "homeapp.py", "homepackage:app": "homepackage/__init__.py"}.items():
        sources = WatchedFiles.of(target)
        assert sources.home == (folder / name).resolve()
        sources.check_home()
        (folder / name).unlink()
        with pytest.raises(InvalidAppError, match=r"\.py is gone: put it back, or end this command"):
            sources.check_home()


@pytest.mark.parametrize(
    ("target", "why"), [("nowhere:app", "no module 'nowhere'"), ("sys:app", "no source")]
)
def test_no_sources(target: str, why: str) -> None:
    """What has no file cannot be watched, and the error says so."""
    with pytest.raises(InvalidAppError, match=why):
        WatchedFiles.of(target)
