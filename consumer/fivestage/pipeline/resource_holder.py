"""Holds one resource open, in a task or a thread that does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from fivestage._asyncio import cancel_once
from fivestage.pipeline.resource import described, log_event

if TYPE_CHECKING:
    from fivestage.pipeline.resource import Resource


class ResourceHolder(Protocol):
    """Opens a resource when it is made, and closes it where it opened it.

    That is the same task or thread, as cancel scopes, task groups and context variables demand.
    """

    @property
    def state(self) -> State:
        """How far it is."""

    def close(self) -> None:
        """Begin to close it, or as soon as it is open. To be called on the loop that it was made on."""

    def leave(self) -> None:
        """The same, and nothing waits for it any more."""


class State:
    """How far a resource is. Written where it is opened, read anywhere."""

    def __init__(self, resource: Resource[Any]) -> None:
        self.resource = resource
        self.value: Any = None
        self.error: BaseException | None = None
        """What its function raised while it opened."""
        self.opened = Future[None]()
        """Done when it is open, or its function has ended without that."""
        self.ended = Future[None]()
        """Done when nothing of its function runs any more."""
        self.closing = False

    def now_open(self, value: Any) -> None:
        """Its function has yielded."""
        self.value = value
        self.opened.set_result(None)

    def now_ended(self, error: BaseException | None) -> None:
        """Its function has ended, or raised *error*."""
        if not self.opened.done():
            self.error = error
            self.opened.set_result(None)
        elif error is not None and not isinstance(error, asyncio.CancelledError):
            event = "a resource failed to close" if self.closing else "a resource has failed while open"
            log_event("error", event, **described(self.resource, error))
        self.ended.set_result(None)


class TaskHolder:
    """Holds an ``async def`` resource open. See Keeper."""

    def __init__(self, resource: Resource[Any]) -> None:
        self.state = State(resource)
        self._close = asyncio.Event()
        self._task = asyncio.create_task(self._hold(), name=f"fivestage-resource-{resource.name}")

    async def _hold(self) -> None:
        state = self.state
        try:
            async with contextlib.asynccontextmanager(state.resource.function)() as value:
                state.now_open(value)
                await self._close.wait()
        except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop
            state.now_ended(error)
        else:
            state.now_ended(None)

    def close(self) -> None:
        """See Keeper."""
        self.state.closing = True
        self._close.set()

    def leave(self) -> None:
        """See Keeper."""
        self.close()
        if not self._task.done():
            cancel_once(self._task)


class ThreadHolder:
    """Holds a ``def`` resource open. See Keeper."""

    def __init__(self, resource: Resource[Any]) -> None:
        self.state = State(resource)
        self._close = threading.Event()
        name = f"fivestage-resource-{resource.name}"
        try:
            threading.Thread(target=self._hold, name=name, daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads now
            self.state.now_ended(error)

    def _hold(self) -> None:
        state = self.state
        try:
            with contextlib.contextmanager(state.resource.function)() as value:
                state.now_open(value)
                self._close.wait()
        except BaseException as error:  # noqa: BLE001 - it is reported, not raised in a thread
            state.now_ended(error)
        else:
            state.now_ended(None)

    def close(self) -> None:
        """See Keeper."""
        self.state.closing = True
        self._close.set()

    leave = close


def keep(resource: Resource[Any]) -> ResourceHolder:
    """Begin to open a resource: on the running loop, or in a thread."""
    return TaskHolder(resource) if resource.is_async else ThreadHolder(resource)
