"""Tools for the tests of authors, and for our own: a bus in memory, virtual time, a pytest fixture.

``memory`` runs a pipeline without Kafka, ``virtual_time`` is an event loop that never waits, and
``pytest_plugin`` has the fixture ``run_app``. Called by tests only.

Invariant: nothing is imported before it is used, since pytest loads this package in every run where fivestage
is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fivestage.testing.memory import MemoryBus, MemorySink, MemorySource
    from fivestage.testing.virtual_time import VirtualTimeLoop

__all__ = ["MemoryBus", "MemorySink", "MemorySource", "VirtualTimeLoop"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(
        import_module(f"{__name__}.{'virtual_time' if name == 'VirtualTimeLoop' else 'memory'}"), name
    )
