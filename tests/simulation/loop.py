"""One event loop for several processes, each of which can be stopped, continued and killed."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    ExceptionHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]

MAX_TURNS = 100_000
OUTSIDE = Context()
"""Runs what belongs to no process: brokers, the network, the scenario."""


class Process:
    """A process: its tasks and timers inherit it through their context."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        """It gets no CPU, for now or, when killed, for ever."""
        self.continued_at = 0.0
        """When it last got the CPU back."""
        self.on_error: ExceptionHandler | None = None
        self.ready: list[asyncio.Handle] = []
        self.timers: list[asyncio.TimerHandle] = []

    def __repr__(self) -> str:
        return f"<Process {self.name}{'' if self.alive else ' dead'}>"


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class SimLoop(asyncio.BaseEventLoop):
    """A loop in virtual time that runs nothing of a stopped process.

    Its clock jumps to the next timer whenever there is nothing else to do; timers of the same time fire in
    the order they were set. Nothing of a killed process ever runs again: no ``finally``, no callback. Its
    sent requests are on their way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[dict[str, Any]] = []
        """Errors of callbacks that belong to no process."""
        self._now = 0.0
        self._turns = 0
        self._callbacks: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = count()
        self._tasks: list[asyncio.Task[Any]] = []
        """All tasks: ones referenced by a dead process only would run their ``finally`` when
        they are collected."""

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def _run_once(self) -> None:
        """Run one turn; asyncio calls it repeatedly."""
        self._turns += 1
        if self._turns > MAX_TURNS:
            raise RuntimeError(f"no end after {MAX_TURNS} turns of the loop: something is busy")
        callbacks, timers = self._callbacks, self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not callbacks:
            if not timers:
                raise RuntimeError("deadlock: nothing is ready and no timer is set")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            callbacks.append(heapq.heappop(timers)[2])
        for _ in range(len(callbacks)):
            handle = callbacks.popleft()
            if not handle._cancelled:  # quicker than to ask
                handle._run()

    # Processes

    def spawn(self, process: Process, main: Callable[[], Any]) -> asyncio.Task[Any]:
        """Run the coroutine function *main* as *process*."""
        context = copy_context()
        context.run(PROCESS.set, process)
        return context.run(lambda: self.create_task(main(), context=context))

    def stop_process(self, process: Process) -> None:
        """Suspend a process, as SIGSTOP does."""
        if process.stopped:
            return
        process.stopped = True
        for index, handle in enumerate(self._callbacks):
            if _process_of(handle) is process:
                process.ready.append(handle)
                self._callbacks[index] = _nothing(self)  # the current turn has counted them
        mine = {number for _, number, timer in self._timers if _process_of(timer) is process}
        process.timers += [timer for _, number, timer in self._timers if number in mine]
        self._timers = [entry for entry in self._timers if entry[1] not in mine]
        heapq.heapify(self._timers)

    def continue_process(self, process: Process) -> None:
        """Continue a process, as SIGCONT does: all timers that are due fire at once."""
        if not process.alive or not process.stopped:
            return
        process.stopped = False
        process.continued_at = self.time()
        ready, process.ready = process.ready, []
        timers, process.timers = process.timers, []
        self._callbacks.extend(ready)
        for timer in timers:
            heapq.heappush(self._timers, (timer.when(), next(self._numbers), timer))

    def kill(self, process: Process) -> None:
        """Kill a process, as SIGKILL does."""
        self.stop_process(process)
        process.alive = False
        process.ready.clear()
        process.timers.clear()

    # What asyncio calls

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """See asyncio."""
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        self._tasks.append(task)
        return task

    def call_soon(  # type: ignore[override] # it does not spell the arguments' types out
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        if context is None:
            context = copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        process = context.get(PROCESS)
        if process is None or not process.stopped:
            self._callbacks.append(handle)
        elif process.alive:
            process.ready.append(handle)
        return handle

    def call_at(  # type: ignore[override] # likewise
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        if context is None:
            context = copy_context()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        process = context.get(PROCESS)
        if process is None or not process.stopped:
            heapq.heappush(self._timers, (when, next(self._numbers), timer))
        elif process.alive:
            process.timers.append(timer)
        return timer

    def outside(self, delay_s: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call back after a while, even if the calling process ends."""
        return self.call_at(self._now + delay_s, callback, *args, context=OUTSIDE)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Pass it to the process whose callback raised."""
        handle = context.get("handle")
        process = None if handle is None else _process_of(handle)
        if process is not None and process.on_error is not None:
            process.on_error(self, context)
        elif "was never retrieved" not in context["message"]:  # of cancelled or dead tasks: a log line
            self.complaints.append(context)

    def dispose(self) -> None:
        """Close what is left of all tasks without running them, and the loop."""
        asyncio._set_running_loop(self)  # a ``finally`` may start tasks, which are closed here too
        try:
            for task in self._tasks:
                if task.done():
                    continue
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with contextlib.suppress(RuntimeError):  # a ``finally`` that awaits
                    coroutine: Any = task.get_coro()
                    coroutine.close()
        finally:
            asyncio._set_running_loop(None)
        self._callbacks.clear()
        self._timers.clear()
        self.close()


def _process_of(handle: asyncio.Handle) -> Process | None:
    context: Context | None = handle._context  # type: ignore[attr-defined]
    return None if context is None else context.get(PROCESS)


def _nothing(loop: asyncio.AbstractEventLoop) -> asyncio.Handle:
    handle = asyncio.Handle(lambda: None, (), loop, OUTSIDE)
    handle.cancel()
    return handle
