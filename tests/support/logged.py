"""The events that the product's code logs, read from its source."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fivestage
from fivestage.observability.control_log import EVENTS, WARNED

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(fivestage.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "critical"}
LOGGERS = {"log", "write"}
"""Names of loggers, and of a method of one."""
WRITERS = {"log_event", "_write"}
"""Functions with the level and the event as their first arguments."""


class Logged(NamedTuple):
    """An event, as one or more places in the code log it."""

    levels: frozenset[str]
    fields: frozenset[str]
    """The fields whose names stand in the code."""


def logged() -> dict[str, Logged]:
    """Return the events of the product's own loggers."""
    levels: defaultdict[str, set[str]] = defaultdict(set)
    fields: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(ROOT.rglob("*.py")):
        for event, its_levels, its_fields in _calls(ast.parse(path.read_text(encoding="utf-8"))):
            levels[event] |= its_levels
            fields[event] |= its_fields
    for (control, change), event in EVENTS.items():
        levels[event].add("warning" if change in WARNED else "info")
        fields[event] |= {"reason", "lane", "stage" if control == "stage_limit" else "node"}
        if control == "concurrency_limit":
            fields[event] -= {"lane", "node"}
    return {event: Logged(frozenset(levels[event]), frozenset(fields[event])) for event in levels}


def _calls(tree: ast.Module) -> Iterator[tuple[str, set[str], set[str]]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        texts = [
            one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)
        ]
        fields = {one.arg for one in node.keywords if one.arg not in {None, "exc_info"}}
        match node.func:
            case ast.Attribute(value=ast.Name(id="log"), attr=level) if level in LEVELS and texts:
                yield texts[0], {level}, fields
            case ast.Name(id="write") if texts:
                yield texts[0], {"info", "warning"}, fields
            case ast.Name(id=name) if name in WRITERS and len(texts) > 1:
                yield texts[1], {texts[0]}, fields
            case ast.Name(id="announce") if texts:
                yield texts[0], {"info"}, fields
