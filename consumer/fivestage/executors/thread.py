"""User code on an event loop of its own, in a thread of its own.

Jobs and endings cross between the two loops through two deques; a loop is woken only when nobody has
woken it already, so a burst costs one system call, not one per job.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog

from fivestage.executors.host import JobHost
from fivestage.executors.port import STUCK_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.executors.port import OnFinished
    from fivestage.orchestrator import Orchestrator


SLICE_S = 0.001
log = structlog.get_logger("fivestage.executor")


class Mailbox:
    """Hands jobs to another loop, waking it once for as many as there are.

    They are taken out by slices of time: a loop looks at its timers only between callbacks, and a burst of
    endings must not make the deadlines of other queries wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: deque[tuple[Callable[[Job], None], Job]] = deque()
        self._woken = False

    def put(self, receive: Callable[[Job], None], job: Job) -> None:
        """Have ``receive(job)`` called on the other loop, in order."""
        self._messages.append((receive, job))
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop has ended; whoever watches it knows
                self._woken = False

    def _drain(self) -> None:
        # Cleared before reading: a message put meanwhile wakes the loop again rather than being missed.
        self._woken = False
        messages, slice_end = self._messages, time.monotonic() + SLICE_S
        while messages:
            receive, job = messages.popleft()
            receive(job)
            if messages and time.monotonic() > slice_end:
                self._woken = True
                self._loop.call_soon(self._drain)
                return


class ThreadExecutor:
    """Runs jobs on a second event loop, so that a node that blocks does not block the bus."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._host: JobHost | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: Mailbox | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._pinged_at: float | None = None
        self.last_lag_s = 0.0

    def __repr__(self) -> str:
        alive = self._thread is not None and self._thread.is_alive()
        return f"<ThreadExecutor {'running' if alive else 'stopped'} abandoned={self.abandoned}>"

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor."""
        bus_loop = asyncio.get_running_loop()
        outbox = Mailbox(bus_loop)
        self._host = JobHost(self._orchestrator, lambda job: outbox.put(on_finished, job))
        ready = bus_loop.create_future()

        def tell(loop: asyncio.AbstractEventLoop) -> None:
            if not ready.done():  # the start may have been cancelled
                ready.set_result(loop)

        def main() -> None:
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(_log_without_text)
            loop.call_soon(bus_loop.call_soon_threadsafe, tell, loop)
            loop.run_forever()
            loop.close()

        self._thread = threading.Thread(target=main, name="fivestage-executor", daemon=True)
        self._thread.start()
        self._loop = await ready
        self._inbox = Mailbox(self._loop)

    def submit(self, job: Job) -> None:
        """See Executor."""
        inbox, host = self._started()
        inbox.put(host.start, job)

    def cancel(self, job: Job) -> None:
        """See Executor."""
        inbox, host = self._started()
        inbox.put(host.cancel, job)

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        self._stopping = True
        if self._loop is None or self._host is None or not self._loop.is_running():
            return
        stopped = asyncio.run_coroutine_threadsafe(self._host.stop(timeout_s), self._loop)
        await asyncio.wait({asyncio.wrap_future(stopped)}, timeout=timeout_s)
        with contextlib.suppress(RuntimeError):  # a node may have ended the loop
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._orchestrator.threads.close()
        self._loop = None

    def ping(self) -> None:
        """See Executor."""
        if self._loop is None or self._pinged_at is not None:
            return
        self._pinged_at = time.monotonic()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._pong)

    def _pong(self) -> None:
        pinged_at = self._pinged_at
        if pinged_at is not None:
            self.last_lag_s = time.monotonic() - pinged_at
            self._pinged_at = None

    def lag_s(self, now: float) -> float:
        """See Executor."""
        pinged_at = self._pinged_at
        return 0.0 if pinged_at is None else now - pinged_at

    @property
    def failure(self) -> str | None:
        """See Executor."""
        if self._stopping or self._thread is None or self._thread.is_alive():
            return None
        return "a node has ended the event loop of the nodes (SystemExit in a task, or loop.stop())"

    @property
    def abandoned(self) -> int:
        """See Executor."""
        return (self._host.abandoned if self._host else 0) + self._orchestrator.threads.abandoned

    def stuck(self, now: float) -> int:
        """See Executor."""
        on_loop = self._host.stuck(now, STUCK_AFTER_S) if self._host else 0
        return on_loop + self._orchestrator.threads.stuck(now, STUCK_AFTER_S)

    def _started(self) -> tuple[Mailbox, JobHost]:
        if self._inbox is None or self._host is None:
            raise RuntimeError("the executor has not been started")
        return self._inbox, self._host


def _log_without_text(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a node's own tasks raise is told by its class: the text may hold a query."""
    error = context.get("exception")
    said = str(context.get("message", "")).partition("<")[0][:80]  # what follows describes objects
    log.error("trouble in a node's own tasks", said=said, error_type=type(error).__name__)
