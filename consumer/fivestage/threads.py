"""A bounded pool of daemon threads for blocking user code.

``concurrent.futures.ThreadPoolExecutor`` joins its threads when the interpreter ends, so one stuck node
would keep the process alive for ever. These threads are daemons: what does not return is left behind.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class _Call(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]


class ThreadPool:
    """Runs functions for coroutines, at most *size* at a time; more wait their turn."""

    def __init__(self, size: int, *, name: str = "fivestage-node") -> None:
        self._size = size
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    def __repr__(self) -> str:
        return f"<ThreadPool {self.busy} busy of {self._size}>"

    @property
    def busy(self) -> int:
        """Threads that are running user code now."""
        return self._threads - self._idle

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call *function* in a thread and wait for what it returns or raises.

        Cancelling the wait frees the caller at once; a call that has begun runs on, one still waiting
        for a thread never begins.
        """
        loop = asyncio.get_running_loop()
        call = _Call(loop, loop.create_future(), function, args)
        self._calls.put(call)
        self._grow()
        return await call.future

    def close(self) -> None:
        """Let idle threads end, and busy ones after their call. Does not wait."""
        with self._lock:
            for _ in range(self._threads):
                self._calls.put(None)

    def _grow(self) -> None:
        with self._lock:
            if self._threads >= self._size or self._idle >= self._calls.qsize():
                return
            self._threads += 1
            self._idle += 1
            name = f"{self._name}-{self._threads}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                self._idle -= 1
            if not call.future.cancelled():
                _carry_out(call)
            with self._lock:
                self._idle += 1
        with self._lock:
            self._threads -= 1
            self._idle -= 1


def _carry_out(call: _Call) -> None:
    result, error = None, None
    try:
        result = call.function(*call.args)
    except BaseException as raised:  # noqa: BLE001 - a node may raise anything; the thread must survive
        error = raised
    try:
        call.loop.call_soon_threadsafe(_deliver, call.future, result, error)
    except RuntimeError:  # the loop has closed: nobody waits any more
        return


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # a future refuses it
        future.set_exception(RuntimeError("the function raised StopIteration"))
    else:
        future.set_exception(error)
