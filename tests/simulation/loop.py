"""One event loop for several processes: each can be stopped, continued and killed like a real one."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from fivestage.testing import VirtualTimeLoop

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    ExceptionHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]

MAX_TURNS = 100_000
OUTSIDE = Context()
"""Where what belongs to no process runs: brokers, the network, the scenario."""


class Process:
    """What a group of tasks and timers belongs to; they inherit it through their context."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        """It gets no CPU, for now or, when it is dead, for good."""
        self.continued_at = 0.0
        """When it last got the CPU back."""
        self.on_error: ExceptionHandler | None = None
        self.ready: list[asyncio.Handle] = []
        self.timers: list[asyncio.TimerHandle] = []

    def __repr__(self) -> str:
        return f"<Process {self.name}{'' if self.alive else ' dead'}>"


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class SimLoop(VirtualTimeLoop):
    """A loop in virtual time that runs nothing of a stopped process.

    Nothing of a killed process ever runs again: no ``finally``, no callback. What it has sent is on its way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._jumps.select = self._jump  # type: ignore[method-assign] # nothing comes from outside
        self.complaints: list[dict[str, Any]] = []
        """Errors of what belongs to no process."""
        self.turns = 0
        self._kept: set[asyncio.Task[Any]] = set()
        """Tasks that nothing but their process would hold: collected, they would run their ``finally``."""

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns > MAX_TURNS:
            raise RuntimeError(f"no end after {MAX_TURNS} turns of the loop: something is busy")
        super()._run_once()  # type: ignore[misc] # what asyncio calls for every turn

    def _jump(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is ready and no timer is set")
        self._jumps.waited_s += max(timeout, 0.0)
        return []

    def spawn(self, process: Process, main: Callable[[], Any]) -> asyncio.Task[Any]:
        """Run the coroutine function *main* as *process*."""
        context = copy_context()
        context.run(PROCESS.set, process)
        return context.run(lambda: self.create_task(main(), context=context))

    def stop_process(self, process: Process) -> None:
        """Take the CPU away, as SIGSTOP does."""
        if process.stopped:
            return
        process.stopped = True
        self._kept |= asyncio.all_tasks(self)
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined] # asyncio keeps them there
        for index, handle in enumerate(ready):
            if _process_of(handle) is process:
                process.ready.append(handle)
                ready[index] = _nothing(self)  # the loop has counted them
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        mine = [timer for timer in timers if not timer.cancelled() and _process_of(timer) is process]
        if mine:
            for timer in mine:
                timer._scheduled = False  # type: ignore[attr-defined]
            taken = {id(timer) for timer in mine}
            timers[:] = [timer for timer in timers if id(timer) not in taken]
            heapq.heapify(timers)
            process.timers += mine

    def continue_process(self, process: Process) -> None:
        """Give the CPU back, as SIGCONT does: all timers that are due by now fire at once."""
        if not process.alive or not process.stopped:
            return
        process.stopped = False
        process.continued_at = self.time()
        ready, process.ready = process.ready, []
        timers, process.timers = process.timers, []
        self._ready.extend(ready)  # type: ignore[attr-defined]
        for timer in timers:
            if not timer.cancelled():
                timer._scheduled = True  # type: ignore[attr-defined]
                heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]

    def kill(self, process: Process) -> None:
        """End it at once, as SIGKILL does."""
        self.stop_process(process)
        self._kept |= asyncio.all_tasks(self)
        process.alive = False
        process.ready.clear()
        process.timers.clear()

    def call_soon(  # type: ignore[override] # it does not spell the arguments' types out
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        if context is None:
            context = copy_context()
        process = context.get(PROCESS)
        if process is None or not process.stopped:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        if process.alive:
            process.ready.append(handle)
        return handle

    def call_at(  # type: ignore[override] # likewise
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        if context is None:
            context = copy_context()
        process = context.get(PROCESS)
        if process is None or not process.stopped:
            return super().call_at(when, callback, *args, context=context)
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if process.alive:
            process.timers.append(handle)
        return handle

    def outside(self, delay_s: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call back after a while, whatever happens to the process that asks for it."""
        return self.call_later(delay_s, callback, *args, context=OUTSIDE)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Pass it on to the process whose callback raised."""
        handle = context.get("handle")
        process = None if handle is None else _process_of(handle)
        if process is not None and process.on_error is not None:
            process.on_error(self, context)
        elif "was never retrieved" not in context["message"]:  # of what was cancelled or died: a log line
            self.complaints.append(context)

    def dispose(self) -> None:
        """Close what is left of all tasks, without running them, and the loop."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with contextlib.suppress(RuntimeError):  # a ``finally`` that awaits
                coroutine: Any = task.get_coro()
                coroutine.close()
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        self.close()


def _process_of(handle: asyncio.Handle) -> Process | None:
    context: Context | None = handle._context  # type: ignore[attr-defined]
    return None if context is None else context.get(PROCESS)


def _nothing(loop: asyncio.AbstractEventLoop) -> asyncio.Handle:
    handle = asyncio.Handle(lambda: None, (), loop, OUTSIDE)
    handle.cancel()
    return handle
