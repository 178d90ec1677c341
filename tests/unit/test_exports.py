"""The public surface: what can be imported, and nothing by accident."""

from __future__ import annotations

import importlib
import inspect
import tomllib
import types
from pathlib import Path

import pytest

import fivestage
from fivestage import errors

ROOT = Path(__file__).parents[2]
MODULES = [
    "fivestage",
    "fivestage.executors",
    "fivestage.nodes.facts",
    "fivestage.nodes.llm",
    "fivestage.testing",
    "fivestage_schemas",
]


def place(name: str) -> tuple[int, str]:
    """Sort key: constants first, then classes, then functions, each by name."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("module", MODULES)
def test_exports_are_sorted_and_there(module: str) -> None:
    """``__all__`` is sorted, without repeats, and everything in it can be imported."""
    loaded = importlib.import_module(module)
    assert loaded.__all__ == sorted(set(loaded.__all__), key=place)
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


@pytest.mark.parametrize("module", ["fivestage", "fivestage_schemas"])
def test_nothing_leaks(module: str) -> None:
    """No public name exists beside ``__all__`` and the submodules."""
    loaded = importlib.import_module(module)
    found = {name: getattr(loaded, name) for name in dir(loaded) if not name.startswith("_")}
    names = {name for name, value in found.items() if not isinstance(value, types.ModuleType)}
    assert names == set(loaded.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """A misspelt name fails as in any other module."""
    with pytest.raises(AttributeError, match="module 'fivestage' has no attribute 'Pipline'"):
        getattr(fivestage, "Pipline")  # noqa: B009 - a type checker finds it otherwise


@pytest.mark.parametrize("module", MODULES)
def test_exports_have_docstrings(module: str) -> None:
    """Every public class and function has a docstring."""
    loaded = importlib.import_module(module)
    exported = {name: getattr(loaded, name) for name in loaded.__all__}
    bare = [n for n, v in exported.items() if (inspect.isclass(v) or inspect.isfunction(v)) and not v.__doc__]
    assert bare == []


@pytest.mark.parametrize("module", MODULES)
def test_exports_are_never_compiled(module: str) -> None:
    """Exported classes and functions are not compiled: users inherit, copy and read them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    compiled = {name.partition("/")[2].removesuffix(".py").replace("/", ".") for name in hook["modules"]}
    assert "fivestage.pipeline.stage_runner" in compiled
    loaded = importlib.import_module(module)
    exported = {name: getattr(loaded, name) for name in loaded.__all__}
    classes = [value for value in exported.values() if inspect.isclass(value) or inspect.isroutine(value)]
    found = {base.__module__ for one in classes for base in getattr(one, "__mro__", (one,))}
    assert found & compiled == set()


def test_every_error_is_public_and_in_the_tree() -> None:
    """All errors derive from one base, are exported at the top, and are in the module's docstring."""
    found = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    assert all(issubclass(value, errors.FivestageError) for value in found.values())
    assert found.keys() == {name for name in fivestage.__all__ if name.endswith("Error")} | {"Unanswerable"}
    assert [name for name in found if name not in (errors.__doc__ or "")] == []
