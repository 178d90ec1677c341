"""Pipelines with resources, for services: ``fivestage run support.resourceful_apps:NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fivestage import Pipeline
from fivestage.observability.logging import announce

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fivestage import Query, StageContext

unopened = Pipeline()
closes = Pipeline()


@unopened.resource
def missing_model() -> Iterator[str]:
    """Open a file that does not exist."""
    with open("no-such-model.bin", encoding="utf-8") as file:  # noqa: PTH123 - as authors write it
        yield file.read()


@closes.resource
async def client() -> AsyncIterator[str]:
    """Log when it closes."""
    yield "client"
    announce("client closed")


@closes.node("client", intents={"greeting"})
async def _uses(_query: Query, ctx: StageContext) -> str:
    return ctx.use(client)
