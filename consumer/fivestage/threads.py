"""A bounded pool of daemon threads for blocking user code.

``concurrent.futures.ThreadPoolExecutor`` joins its threads when the interpreter ends, so one stuck node
would keep the process alive for ever. These threads are daemons: what does not return is left behind.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import queue
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class _Call:
    """A call on its way to a thread; one that is cancelled lets go of what it would have run."""

    __slots__ = ("abandoned_at", "function", "future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[[], Any]) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.function: Callable[[], Any] | None = function
        self.abandoned_at: float | None = None


class ThreadPool:
    """Runs functions for coroutines, at most *size* at a time; more wait their turn."""

    def __init__(self, size: int, *, name: str = "fivestage-node") -> None:
        self._size = size
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = 0
        self._running: set[_Call] = set()
        self._unfinished = 0
        """Calls handed in and not carried out. Counting those, rather than idle threads, leaves no moment in
        which a thread that has just taken a call looks free for another."""

    def __repr__(self) -> str:
        return f"<ThreadPool {self.busy} busy of {self._size}>"

    @property
    def busy(self) -> int:
        """Threads that are running user code now."""
        return min(self._unfinished, self._threads)

    @property
    def abandoned(self) -> int:
        """Threads that run a call nobody waits for any more."""
        return sum(call.abandoned_at is not None for call in tuple(self._running))

    def stuck(self, now: float, after_s: float) -> int:
        """Threads that have run on for longer than *after_s* since their caller went away."""
        since = [call.abandoned_at for call in tuple(self._running)]
        return sum(at is not None and now - at > after_s for at in since)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call *function* in a thread and wait for what it returns or raises.

        Cancelling the wait frees the caller at once; a call that has begun runs on, one still waiting
        for a thread never begins.
        """
        if self._closed:
            raise RuntimeError("the thread pool is closed")
        loop = asyncio.get_running_loop()
        in_context = contextvars.copy_context().run  # the current span, for instance
        call = _Call(loop, functools.partial(in_context, function, *args))
        self._hand_in(call)
        try:
            return await call.future
        except asyncio.CancelledError:
            call.abandoned_at = loop.time()
            raise
        finally:
            call.function = None

    def close(self) -> None:
        """Let idle threads end, and busy ones after their call. Does not wait."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._calls.put(None)

    def _hand_in(self, call: _Call) -> None:
        with self._lock:
            self._unfinished += 1
            grow = self._threads < min(self._unfinished, self._size)
            self._threads += grow
            name = f"{self._name}-{self._threads}"
        self._calls.put(call)
        if grow:
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            self._running.add(call)
            result, error = _carry_out(call)
            self._running.discard(call)
            with self._lock:
                self._unfinished -= 1
            try:
                call.loop.call_soon_threadsafe(_deliver, call.future, result, error)
            except RuntimeError:  # the loop has closed: nobody waits any more
                continue
        with self._lock:
            self._threads -= 1


def _carry_out(call: _Call) -> tuple[Any, BaseException | None]:
    function = call.function
    if function is None:  # cancelled before it began
        return None, None
    try:
        return function(), None
    except BaseException as raised:  # noqa: BLE001 - a node may raise anything; the thread must survive
        return None, raised


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration | GeneratorExit):  # a future refuses one, a task ends on the other
        future.set_exception(RuntimeError(f"the function raised {type(error).__name__}"))
    else:
        future.set_exception(error)
