"""Which event loop a test gets, and how property tests draw their examples."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis

from fivestage.testing import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

HERE = Path(__file__).parent
VIRTUAL = (HERE / "core", HERE / "shell")
REAL_MARKERS = ("kafka", "broker", "realtime")

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=100
)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of tests that have threads or sockets in flight."""
    config.addinivalue_line("markers", "realtime: needs a real event loop, for threads or sockets")


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Virtual time for the core and the shell; the real loop for everything else."""
    in_virtual_time = any(folder in item.path.parents for folder in VIRTUAL)
    if in_virtual_time and not any(item.get_closest_marker(name) for name in REAL_MARKERS):
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}
