"""Holds one resource open, in a task or a thread that does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from fivestage._asyncio import cancel_once
from fivestage.pipeline.resource import error_fields, log_event

if TYPE_CHECKING:
    from fivestage.pipeline.resource import Resource


class ResourceHolder:
    """Opens a resource at once, and later closes it in the same task or thread.

    Cancel scopes, task groups and context variables demand that. The fields are written in that task or
    thread, and read anywhere.
    """

    def __init__(self, resource: Resource[Any], close: asyncio.Event | threading.Event) -> None:
        self.resource = resource
        self.value: Any = None
        """What the resource's function yielded."""
        self.error: BaseException | None = None
        """What the function raised before it yielded."""
        self.opened = Future[None]()
        """Done when the resource is open, or could not be opened."""
        self.ended = Future[None]()
        """Done when the function has ended."""
        self._close = close
        self._closing = False

    def close(self) -> None:
        """Start to close the resource, now or once it is open. Called on the loop that made this holder."""
        self._closing = True
        self._close.set()

    def leave(self) -> None:
        """Close the resource; the caller does not wait for its end."""
        self.close()

    def _set_open(self, value: Any) -> None:
        self.value = value
        self.opened.set_result(None)

    def _set_ended(self, error: BaseException | None) -> None:
        if not self.opened.done():
            self.error = error
            self.opened.set_result(None)
        elif error is not None and not isinstance(error, asyncio.CancelledError):
            event = "a resource failed to close" if self._closing else "a resource has failed while open"
            log_event("error", event, **error_fields(self.resource, error))
        self.ended.set_result(None)


class TaskHolder(ResourceHolder):
    """Holds an ``async def`` resource open, in a task."""

    def __init__(self, resource: Resource[Any]) -> None:
        self._close_event = asyncio.Event()
        super().__init__(resource, self._close_event)
        self._task = asyncio.create_task(self._hold(), name=f"fivestage-resource-{resource.name}")

    async def _hold(self) -> None:
        try:
            async with contextlib.asynccontextmanager(self.resource.function)() as value:
                self._set_open(value)
                await self._close_event.wait()
        except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop
            self._set_ended(error)
        else:
            self._set_ended(None)

    def leave(self) -> None:
        """See ResourceHolder; cancels the task."""
        self.close()
        if not self._task.done():
            cancel_once(self._task)


class ThreadHolder(ResourceHolder):
    """Holds a ``def`` resource open, in a daemon thread."""

    def __init__(self, resource: Resource[Any]) -> None:
        super().__init__(resource, threading.Event())
        name = f"fivestage-resource-{resource.name}"
        try:
            target = contextvars.copy_context().run
            threading.Thread(target=target, args=(self._hold,), name=name, daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads now
            self._set_ended(error)

    def _hold(self) -> None:
        try:
            with contextlib.contextmanager(self.resource.function)() as value:
                self._set_open(value)
                self._close.wait()
        except BaseException as error:  # noqa: BLE001 - it is reported, not raised in a thread
            self._set_ended(error)
        else:
            self._set_ended(None)


def hold(resource: Resource[Any]) -> ResourceHolder:
    """Start to open a resource: on the running loop, or in a thread."""
    return TaskHolder(resource) if resource.is_async else ThreadHolder(resource)
