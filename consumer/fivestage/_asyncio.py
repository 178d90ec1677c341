"""Bounded waits: cancel a task that takes too long, and go on without waiting for its end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable, Sequence

T = TypeVar("T")

CLEAN_UP_S: Final = 0.1
"""Seconds that a cancelled task has to clean up before it is cancelled again."""


async def wait_at_most(limit_s: float, work: Awaitable[T]) -> asyncio.Task[T]:
    """Run *work* as a task for at most *limit_s* seconds; return the task, which may not be done.

    A task that takes longer, or whose caller is cancelled, is cancelled and left behind. Unlike
    ``asyncio.timeout`` this also returns when the task ignores its cancellation.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=limit_s)
    finally:
        leave_behind(task)
    return task


async def first_of(steps: Sequence[Coroutine[Any, Any, T]], prefer: type[Exception] | tuple[()] = ()) -> T:
    """Return the result of the first step that succeeds, and cancel the others.

    If none succeeds, raise an error of the class *prefer* if there is one, else the error of ``steps[-1]``.
    """
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        for ended in asyncio.as_completed(tasks):
            with contextlib.suppress(Exception):  # its task keeps the error
                return await ended
        preferred = [task for task in tasks if not task.cancelled() and isinstance(task.exception(), prefer)]
        return [*tasks, *preferred][-1].result()
    finally:
        await cancel_all(tasks, CLEAN_UP_S)


async def cancel_all(tasks: Iterable[asyncio.Task[Any]], limit_s: float) -> None:
    """Cancel tasks and wait until they have ended, for at most *limit_s* seconds."""
    cancelled = list(tasks)
    for task in cancelled:
        leave_behind(task)
    if cancelled:
        await asyncio.wait(cancelled, timeout=limit_s)


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Cancel a task without waiting for its end, which may never come; its error is not logged."""
    cancel_once(task)
    task.add_done_callback(ignore_result)


def cancel_once(task: asyncio.Task[Any]) -> None:
    """Cancel a task; if it is being cancelled already, cancel it again only after CLEAN_UP_S.

    A second cancellation interrupts the awaits of ``finally`` and ``async with``: HTTP clients then lose
    connections of their pool for good (encode/httpx#3782). Returns at once.
    """
    if task.cancelling():
        task.get_loop().call_later(CLEAN_UP_S, task.cancel)  # does nothing to an ended task
    else:
        task.cancel()


def ignore_result(task: asyncio.Future[Any]) -> None:
    """Mark a task's exception as retrieved, so that the loop does not log it."""
    if not task.cancelled():
        task.exception()
