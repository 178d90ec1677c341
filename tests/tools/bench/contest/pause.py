"""What each stage does: it waits once, or with ``--never-wait`` not at all."""

from __future__ import annotations

import asyncio
import sys

WAITS = "--never-wait" not in sys.argv


async def pause() -> None:
    """Wait for a future that the loop resolves in its next round, as for a reply that is there already."""
    if WAITS:
        loop = asyncio.get_running_loop()
        reply = loop.create_future()
        loop.call_soon(_arrive, reply)
        await reply


def _arrive(reply: asyncio.Future[None]) -> None:
    if not reply.done():  # the task that waited may have been cancelled
        reply.set_result(None)
