"""User code on event loops of its own, in threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from fivestage._asyncio import cancel_once
from fivestage.errors import ResourceError
from fivestage.executors.code_location import place_of
from fivestage.executors.interpreter import Crowding
from fivestage.executors.job_registry import JobRegistry
from fivestage.executors.mailbox import Mailbox
from fivestage.executors.stall_detector import StallDetector
from fivestage.executors.task_host import TaskHost, report_wait
from fivestage.executors.worker_pool import WorkerPool
from fivestage.pipeline.default_executor import DefaultExecutor
from fivestage.pipeline.resource_manager import CLOSE_S
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.core.observer import Observer
    from fivestage.core.stage_history import StageHistory
    from fivestage.executors.executor import OnFinished
    from fivestage.pipeline.orchestrator import Orchestrator
    from fivestage.pipeline.resource_manager import ResourceManager, Scope
    from fivestage.pipeline.thread_pool import Abandoned

END_S: Final = CLOSE_S + 1.0
"""How long the tasks and resources of a loop may take to end; then its thread is left as it is."""
LAST_CHANCE_S: Final = 0.1
"""What resources of loops have to open where those of the process have used up the time."""
CANCELLED_S: Final = 0.2
"""How long jobs that have been cancelled may take to end before the resources close."""

log = structlog.get_logger("fivestage.executor")


class ThreadWorker:
    """One loop in one thread. See Worker."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        on_finished: OnFinished,
        on_ready: Callable[[], None],
        stall_s: float,
        open_s: float,
    ) -> None:
        self._open_s = open_s
        self.registry = JobRegistry(on_finished)
        self._on_ready = on_ready
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_log_without_text)
        self._loop.set_default_executor(DefaultExecutor(orchestrator.threads))
        self._monitor = StepMonitor()
        self._stall = StallDetector(self._monitor, stall_s)
        bus = asyncio.get_running_loop()
        self._outbox = outbox = Mailbox(bus)  # a turn of the nodes' loop may be long
        self._host = TaskHost(
            orchestrator.run,
            lambda *ending: outbox.put(self.registry.done, *ending),
            self._monitor,
            lambda *wait: outbox.put(report_wait, orchestrator.threads, *wait),
        )
        self._resources: ResourceManager = orchestrator.resources
        self._scope: Scope | None = None
        self._early: list[tuple[Job, StageHistory]] | None = None
        """The jobs that wait for the resources to open; None when they are open."""
        self.opened: asyncio.Future[None] = bus.create_future()
        """Done when they are, or with the error that ends this worker."""
        self._inbox = Mailbox(self._loop, sender=bus)
        self._pinged_at: float | None = None
        self._last_lag_s = 0.0
        self._asked_to_end_at: float | None = None
        self._is_ending = False
        self._thread = threading.Thread(target=self._main, name="fivestage-executor", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise

    def __repr__(self) -> str:
        return f"<ThreadWorker {'ended' if self.gone else 'running'} {self.registry} {self._monitor}>"

    @property
    def ready(self) -> bool:
        """See Worker."""
        return self.opened.done() and self.opened.exception() is None

    def start(self, job: Job) -> None:
        """See Worker."""
        self.registry.place(job)
        self._inbox.put(self._start, job, job.history)

    def cancel(self, job: Job) -> None:
        """See Worker."""
        self.registry.leave(job, time.monotonic())
        if not self.ready:
            self.registry.excuse(job, time.monotonic())  # its code has not run
        self._inbox.put(self._host.cancel, job, job.history)

    def look(self, now: float, *, elapsed_s: float) -> str | None:
        """See Worker."""
        if self.gone:
            error = self.opened.exception() if self.opened.done() else None
            return "its thread has ended" if error is None else str(error)
        why = self._stall.look(answering=self._pinged_at is None, elapsed_s=elapsed_s)
        if self._pinged_at is None and (self.registry or self.registry.left):
            self._pinged_at = now
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._pong)
        return why

    def _pong(self) -> None:
        pinged_at = self._pinged_at
        if pinged_at is not None:
            self._last_lag_s = time.monotonic() - pinged_at
            self.registry.turned_at = pinged_at
            self._pinged_at = None

    @property
    def lag_s(self) -> float:
        """See Worker."""
        pinged_at = self._pinged_at
        return self._last_lag_s if pinged_at is None else time.monotonic() - pinged_at

    @property
    def stalled_s(self) -> float:
        """See Worker."""
        return self._stall.stalled_s

    def needs_replacement(self, _: float) -> None:
        """See Worker. A loop that turns again is as good as before."""

    @property
    def blocking(self) -> tuple[int, Job | None]:
        """See Worker."""
        number, _ = self._monitor.seen()
        return number, self.registry.blocking(number) if number else None

    @property
    def thread(self) -> tuple[int, int]:
        """See Worker."""
        return os.getpid(), self._thread.native_id or 0

    def place(self) -> str | None:
        """See Worker."""
        return place_of(self._thread.ident)

    def end(self, now: float) -> None:
        """See Worker. A thread whose code does not end cannot be ended: it is left as it is."""
        if self._asked_to_end_at is None:
            self._asked_to_end_at = now
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end)

    @property
    def gone(self) -> bool:
        """See Worker."""
        asked_at = self._asked_to_end_at
        return not self._thread.is_alive() or (asked_at is not None and time.monotonic() - asked_at > END_S)

    def abandoned(self) -> list[Abandoned]:
        """See Worker. The code that has control keeps the thread of the loop."""
        if not self.registry.left:
            return []
        number, _ = self._monitor.seen()
        return self.registry.abandoned(number, self.thread)

    # In the thread

    def _main(self) -> None:
        if self._resources.needs_loop:
            self._early = []
            self._loop.create_task(self._open())
        else:
            self._outbox.put(self._now_open, None)
        while not self._is_ending:  # a node may stop the loop, or raise SystemExit in a task: it goes on
            with contextlib.suppress(BaseException):
                self._loop.run_forever()
        self._loop.close()

    async def _open(self) -> None:
        """Open the resources, then run the jobs that have come meanwhile; without them, end."""
        try:
            self._scope = await self._resources.open_loop(within_s=self._open_s)
        except ResourceError as error:
            self._outbox.put(self._now_open, error)
            self._stop(None)
            return
        self._outbox.put(self._now_open, None)
        early, self._early = self._early or [], None
        for job, history in early:
            self._host.start(job, history)

    def _now_open(self, error: ResourceError | None) -> None:
        """On the bus loop: they are open, or cannot be opened."""
        if error is None:
            self.opened.set_result(None)
            self._on_ready()
        else:
            self.opened.set_exception(error)
            self.opened.exception()  # nothing may be waiting for it

    def _start(self, job: Job, history: StageHistory) -> None:
        if self._early is None:
            self._host.start(job, history)
        else:
            self._early.append((job, history))

    def _end(self) -> None:
        ending = self._loop.create_task(self._close())
        ending.add_done_callback(self._stop)

    async def _close(self) -> None:
        """End the jobs, close the resources, end what else runs here; not bounded, see ``gone``."""
        await self._host.stop(CANCELLED_S)
        if self._scope is not None:
            await self._scope.close()
        this = asyncio.current_task()
        while tasks := asyncio.all_tasks() - {this}:
            for task in tasks:
                cancel_once(task)
            await asyncio.wait(tasks)

    def _stop(self, _: object) -> None:
        self._is_ending = True
        self._loop.stop()


class ThreadExecutor(WorkerPool):
    """Runs jobs on event loops beside the bus, so that a node that blocks does not block the bus."""

    def __init__(
        self, orchestrator: Orchestrator, *, observer: Observer, stall_s: float, spares: int = 1
    ) -> None:
        self._orchestrator = orchestrator
        self._scope: Scope | None = None
        self._open_s = orchestrator.resources.start_timeout_s
        self._crowding = Crowding()
        super().__init__(
            lambda on_finished, on_ready: ThreadWorker(
                orchestrator, on_finished, on_ready, stall_s, self._open_s
            ),
            size=1,
            spares=spares,
            stall_ms=round(stall_s * 1000),
            observer=observer,
        )

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor. Returns when the resources are open.

        Raises:
            ResourceError: one cannot be opened.
        """
        clock, resources = asyncio.get_running_loop().time, self._orchestrator.resources
        ends_at = clock() + resources.start_timeout_s
        self._scope = await resources.open_process()
        try:
            self._open_s = max(ends_at - clock(), LAST_CHANCE_S)  # they share the time, at the start
            self.launch(on_finished)
            self._open_s = resources.start_timeout_s
            first = self.workers[0]
            assert isinstance(first, ThreadWorker)  # noqa: S101 - see above
            await first.opened
        except BaseException:
            await self.stop(END_S)
            raise

    failure = None

    def check(self, now: float) -> bool:
        """See Executor."""
        self._crowding.set(crowded=any(one.thread is not None for one in self.abandoned()))
        return super().check(now)

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        return super().abandoned() + self._orchestrator.threads.abandoned()

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        ends_at = asyncio.get_running_loop().time() + timeout_s
        await self.shut_down(timeout_s)
        self._crowding.set(crowded=False)
        if self._scope is not None:
            left_s = ends_at - asyncio.get_running_loop().time()
            await self._scope.close(min(CLOSE_S, max(left_s, CANCELLED_S)))
        self._orchestrator.threads.close()


def _log_without_text(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log only the class of what a node's own tasks raise: the message may contain query text."""
    error = context.get("exception")
    said = str(context.get("message", "")).partition("<")[0][:80]  # what follows describes objects
    log.error("trouble in a node's own tasks", said=said, error_type=type(error).__name__)
