"""The pytest fixture ``run_app`` for authors of nodes; needs pytest-asyncio.

Example::

    async def test_greeter(run_app):
        bus = await run_app(app)
        result = await bus.ask("hello")
        assert result.answer == "Hello!"
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.testing.memory import MemoryBus

with contextlib.suppress(ImportError):  # without pytest-asyncio there is no fixture
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def run_app() -> AsyncIterator[Callable[..., Awaitable[MemoryBus]]]:
        """Run pipelines on buses in memory until the test ends.

        The arguments are those of ``fivestage.testing.MemoryBus``.
        """
        from fivestage.testing.memory import MemoryBus  # noqa: PLC0415 - every run of pytest loads this module

        async with contextlib.AsyncExitStack() as stack:

            async def run(app: Pipeline, **options: Any) -> MemoryBus:
                return await stack.enter_async_context(MemoryBus(app, **options))

            yield run
