"""Test doubles for authors and for our own tests: a bus in memory, virtual time, a pytest fixture.

Nothing is imported before it is used: pytest loads this package in every run where fivestage is installed.
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
