"""Tools for the tests of authors, and for our own: calls of a node, a bus in memory, virtual time, a fixture.

``calls`` calls one node, ``memory`` runs a pipeline without Kafka, ``virtual_time`` is an event loop that
never waits, and ``pytest_plugin`` has the fixture ``run_app``. Called by tests only.

Invariant: nothing is imported before it is used, since pytest loads this package in every run where fivestage
is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fivestage.testing.calls import call_node
    from fivestage.testing.memory import MemoryBus, MemorySink, MemorySource
    from fivestage.testing.virtual_time import VirtualTimeLoop

__all__ = ["MemoryBus", "MemorySink", "MemorySource", "VirtualTimeLoop", "call_node"]

_MODULES = {"VirtualTimeLoop": "virtual_time", "call_node": "calls"}
"""Where the names are that are not in ``memory``."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'memory')}"), name)
