"""Waits that end in time, whatever is waited for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

T = TypeVar("T")

CLEAN_UP_S: Final = 0.1
"""How long a cancelled task may clean up before it is cancelled again."""


async def within(coro: Coroutine[Any, Any, Any], limit_s: float) -> Any:
    """What *coro* returns; None when it takes longer than *limit_s*: it is then cancelled and left behind.

    ``asyncio.wait`` rather than ``asyncio.timeout``: a task that swallows its cancellation must not hold
    the caller.
    """
    task = asyncio.create_task(coro)
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
    finally:
        leave_behind(task)
    return task.result() if done else None


async def first_of(steps: Sequence[Coroutine[Any, Any, T]], prefer: type[Exception] | tuple[()] = ()) -> T:
    """What the first step to succeed returns; the others are cancelled.

    Raises what the last of them raised where none succeeds, or rather an error of the class *prefer*.
    """
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        for ended in asyncio.as_completed(tasks):
            with contextlib.suppress(Exception):  # kept in its task
                return await ended
        preferred = [task for task in tasks if not task.cancelled() and isinstance(task.exception(), prefer)]
        return [*tasks, *preferred][-1].result()
    finally:
        for task in tasks:
            leave_behind(task)
        await asyncio.wait(tasks, timeout=CLEAN_UP_S)


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for it no more: it may never end."""
    cancel_once(task)
    task.add_done_callback(take_note)


def cancel_once(task: asyncio.Task[Any]) -> None:
    """Cancel a task; one that is being cancelled has CLEAN_UP_S first, and is cancelled once more after that.

    A second cancellation cuts what ``finally`` and ``async with`` await. HTTP clients then lose connections
    of their pool for good (encode/httpx#3782). Returns at once.
    """
    if task.cancelling():
        task.get_loop().call_later(CLEAN_UP_S, task.cancel)  # does nothing when it has ended by then
    else:
        task.cancel()


def take_note(task: asyncio.Future[Any]) -> None:
    """Take note of how a task ended that nobody waits for, so that the loop does not complain of that."""
    if not task.cancelled():
        task.exception()
