"""Prints what an app declares: its stages, nodes and resources, and what was found about them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fivestage.cli import rows
from fivestage.cli.check.findings import DECLARED, is_builtin
from fivestage.pipeline.node import Handler

if TYPE_CHECKING:
    from fivestage.cli.check.findings import Findings
    from fivestage.pipeline.node import Node
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.pipeline.resource import Resource

BUILT_IN: Final = "built in"
_SHOWN_ELSEWHERE: Final = {"handler", "intents", "is_builtin"}


def print_app(app: Pipeline, found: Findings) -> None:
    """Print an app and what was found about it to standard output."""
    console = rows.OutputConsole()
    table = [("stage", str(one), *_called(app.stage(one)), "") for one in DECLARED]
    table += [("node", name, *_called(node.handler), _declared(node)) for name, node in app.nodes.items()]
    table += [
        ("resource", one.name, _kind(one), _shown(_place_of(one.function)), _life(one))
        for one in app.resources.values()
    ]
    lines = [tuple(map(rows.clean, line)) for line in table]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        console.print(padded.rstrip(), soft_wrap=True)
    for word, texts, style in (("error", found.errors, "red"), ("warning", found.warnings, "yellow")):
        for text in texts:
            console.print(f"{word}: {rows.clean(text)}", style=style, soft_wrap=True)
    if not found.errors and not found.warnings:
        console.print("no problems found", soft_wrap=True)


def as_object(app: Pipeline, found: Findings) -> dict[str, Any]:
    """The same as a JSON object."""
    stages = {str(one): _as_object(app.stage(one)) for one in DECLARED}
    nodes = {
        name: _as_object(node.handler) | {"intents": sorted(node.intents), "options": options_of(node)}
        for name, node in app.nodes.items()
    }
    resources = {
        one.name: {"async": one.is_async, "place": _place_of(one.function)} for one in app.resources.values()
    }
    return {
        "works": not found.errors,
        "errors": found.errors,
        "warnings": found.warnings,
        "stages": stages,
        "nodes": nodes,
        "resources": resources,
    }


def _as_object(handler: Handler) -> dict[str, Any]:
    place = ":".join(map(str, handler.place)) if handler.place else None
    return {"async": handler.is_async, "built_in": is_builtin(handler), "place": place}


def _called(handler: Handler) -> tuple[str, str]:
    """How a function is called, and where it is."""
    if is_builtin(handler):
        return BUILT_IN, ""
    return _kind(handler), _shown(handler.where)


def _kind(one: Handler | Resource[Any]) -> str:
    return "async def" if one.is_async else "def"


def _life(resource: Resource[Any]) -> str:
    return "one per event loop" if resource.is_async else "one per process"


def _declared(node: Node) -> str:
    """Intents and options of a node in words."""
    options = [f"{name}={value}" for name, value in options_of(node).items()]
    return "  ".join([", ".join(sorted(node.intents)) or "no intents", *options])


def options_of(declared: Any) -> dict[str, str]:
    """The fields of a dataclass that differ from their defaults, as texts; those of nested ones too."""
    found: dict[str, str] = {}
    for one in dataclasses.fields(declared):
        value = getattr(declared, one.name)
        if one.name in _SHOWN_ELSEWHERE or value == one.default:
            continue
        if one.name == "excused":
            found["not_failures"] = _text(value[1:])  # the first one is always there
        elif dataclasses.is_dataclass(value) and not isinstance(value, Handler | type):
            found |= options_of(value)
        elif one.name == "timeout_s":
            found["timeout_ms"] = f"{value * 1000:g}"  # as it was declared
        else:
            found[one.name] = _text(value)
    return found


def _text(value: Any) -> str:
    """A value without addresses in memory: names of classes and functions."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    return name if isinstance(name, str) else repr(value)


def _place_of(function: Any) -> str:
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


def _shown(place: str) -> str:
    """A path relative to the current folder, where it is inside of it."""
    file, _, line = place.rpartition(":")
    try:
        return f"{Path(os.path.realpath(file)).relative_to(Path.cwd())}:{line}"
    except ValueError:
        return place
