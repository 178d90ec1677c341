"""Calls of ``new``, which does not count fields, are checked here."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import fivestage

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(fivestage.__file__).parent


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Return the calls of ``new`` with their modules."""
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "tuples import new" in text:
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "new":
                    yield ".".join(parts), node


def test_each_call_gives_each_field() -> None:
    """Each call gives as many written values as the tuple has fields."""
    found = list(calls())
    assert len(found) >= 7
    for module, call in found:
        kind, values = call.args
        assert isinstance(kind, ast.Name)
        assert isinstance(values, ast.Tuple)
        assert not any(isinstance(value, ast.Starred) for value in values.elts), f"{module}:{call.lineno}"
        fields = getattr(importlib.import_module(module), kind.id)._fields
        assert len(values.elts) == len(fields), f"{module}:{call.lineno}: {kind.id} has {len(fields)}"
