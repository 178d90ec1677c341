"""Waits that end in time, whatever is waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def within(coro: Coroutine[Any, Any, Any], limit_s: float) -> Any:
    """What *coro* returns; None when it takes longer than *limit_s*: it is then cancelled and left behind.

    ``asyncio.wait`` rather than ``asyncio.timeout``: a task that swallows its cancellation must not hold
    the caller.
    """
    task = asyncio.ensure_future(coro)
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
    finally:
        leave_behind(task)
    return task.result() if done else None


def leave_behind(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for it no more: it may never end."""
    task.cancel()
    task.add_done_callback(take_note)


def take_note(task: asyncio.Future[Any]) -> None:
    """Take note of how a task ended that nobody waits for, so that the loop does not complain of that."""
    if not task.cancelled():
        task.exception()
