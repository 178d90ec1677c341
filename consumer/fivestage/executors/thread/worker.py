"""One event loop in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from fivestage._asyncio import cancel_once
from fivestage.errors import ResourceError
from fivestage.executors.code_location import location_of
from fivestage.executors.mailbox import Mailbox
from fivestage.executors.task_host import TaskHost, log_loop_error, report_wait
from fivestage.executors.worker import LoopWorker, ReplacementReason
from fivestage.pipeline.default_executor import DefaultExecutor
from fivestage.pipeline.resource_manager import CLOSE_S
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.core.stage_history import StageHistory
    from fivestage.executors.executor import OnFinished
    from fivestage.pipeline.orchestrator import Orchestrator
    from fivestage.pipeline.resource_manager import Scope
    from fivestage.pipeline.thread_pool import Abandoned

END_S: Final = CLOSE_S + 1.0
"""Seconds that the tasks and resources of a loop may take to end; then the loop's thread is left behind."""
CANCELLED_S: Final = 0.2
"""Seconds that cancelled jobs may take to end before the resources close."""


class ThreadWorker(LoopWorker):
    """Runs jobs on a loop in a thread. See Worker.

    Args:
        orchestrator: Runs the stages.
        on_finished: See Executor.
        on_ready: Called on the bus loop when the resources are open.
        stall_s: Seconds that one step of user code may take.
        open_s: Seconds that the resources of this loop may take to open.
        has_long_turns: Whether the two loops take the interpreter in long turns: see Mailbox.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        on_finished: OnFinished,
        on_ready: Callable[[], None],
        stall_s: float,
        open_s: float,
        has_long_turns: Callable[[], bool],
    ) -> None:
        super().__init__(on_finished, StepMonitor(), stall_s)
        self._open_s = open_s
        self._on_ready = on_ready
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(log_loop_error)
        self._loop.set_default_executor(DefaultExecutor(orchestrator.threads))
        bus = asyncio.get_running_loop()
        self._outbox = outbox = Mailbox(bus)  # without sender: a round of the nodes' loop may be long
        self._host = TaskHost(
            orchestrator.run,
            lambda *ending: outbox.put(self.registry.done, *ending),
            self._monitor,
            lambda *wait: outbox.put(report_wait, orchestrator.threads, *wait),
        )
        self._resources = orchestrator.resources
        self._scope: Scope | None = None
        self._early: list[tuple[Job, StageHistory]] | None = None
        """The jobs that wait for the resources to open; None when they are open."""
        self.opened: asyncio.Future[None] = bus.create_future()
        """Done when the resources are open, or with the error that ends this worker."""
        self._inbox = Mailbox(self._loop, sender=bus, waits_for_sender=has_long_turns)
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
        self.registry.add(job)
        self._inbox.put(self._start, job, job.history)

    def enqueue(self, job: Job) -> None:
        """See LocalQueue."""
        job.place = self
        self.registry.add(job)
        self._host.enqueue(job)

    def dequeue(self, job: Job) -> bool:
        """See LocalQueue."""
        if not self._host.dequeue(job):
            return False
        self.registry.forget(job)
        return True

    def cancel(self, job: Job) -> None:
        """See Worker."""
        if self.dequeue(job):
            return
        self.registry.leave(job, time.monotonic())
        if not self.ready:
            self.registry.mark_as_waiting(job, time.monotonic())  # its code has not run
        self._inbox.put(self._host.cancel, job.history)

    def check(self, now: float, *, elapsed_s: float) -> str | None:
        """See Worker."""
        if self.gone:
            return None
        why = self._stall.check(answering=self._pinged_at is None, elapsed_s=elapsed_s)
        if self._pinged_at is None and (self.registry or self.registry.left):
            self._pinged_at = now
            self._call(self._on_pong)
        return why

    def needs_replacement(self, _: float) -> None:
        """See Worker. Always None: a loop that responds again is as good as before."""

    @property
    def thread(self) -> tuple[int, int]:
        """See Worker."""
        return os.getpid(), self._thread.native_id or 0

    def location(self) -> str | None:
        """See Worker."""
        return location_of(self._thread.ident)

    def end(self, now: float) -> None:
        """See Worker. A thread cannot be ended by force; one whose code does not end is left behind."""
        if self._asked_to_end_at is None:
            self._asked_to_end_at = now
            self._call(lambda: self._loop.create_task(self._close()).add_done_callback(self._stop))

    @property
    def gone(self) -> bool:
        """See Worker. Also true once the thread has been left behind."""
        asked_at = self._asked_to_end_at
        return not self._thread.is_alive() or (asked_at is not None and time.monotonic() - asked_at > END_S)

    @property
    def end_reason(self) -> ReplacementReason:
        """See Worker."""
        return ReplacementReason.THREAD_ENDED if self.error is None else ReplacementReason.NOT_OPEN

    @property
    def error(self) -> str | None:
        """See Worker."""
        error = self.opened.exception() if self.opened.done() else None
        return None if error is None else str(error)

    def abandoned(self) -> list[Abandoned]:
        """See Worker."""
        if not self.registry.left:
            return []
        number, _ = self._monitor.seen()
        return self.registry.abandoned(number, self.thread)

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    def _now_open(self, error: ResourceError | None) -> None:
        """Record that the resources are open, or why they cannot be opened. Called on the bus loop."""
        if error is None:
            self.opened.set_result(None)
            self._on_ready()
        else:
            self.opened.set_exception(error)
            self.opened.exception()  # retrieved: possibly nothing awaits it

    # In the thread

    def _main(self) -> None:
        if self._resources.needs_loop:
            self._early = []
            self._loop.create_task(self._open())
        else:
            self._outbox.put(self._now_open, None)
        while (
            not self._is_ending
        ):  # a node may stop the loop, or raise SystemExit in a task: the loop goes on
            with contextlib.suppress(BaseException):
                self._loop.run_forever()
        self._loop.close()

    async def _open(self) -> None:
        """Open the resources, then start the jobs that have arrived meanwhile; end the loop on a failure."""
        try:
            self._scope = await self._resources.open_loop(within_s=self._open_s)
        except ResourceError as error:
            self._outbox.put(self._now_open, error)
            if self._asked_to_end_at is None:  # else _close ends the loop
                self._stop(None)
            return
        self._outbox.put(self._now_open, None)
        early, self._early = self._early or [], None
        for job, history in early:
            self._host.start(job, history)

    def _start(self, job: Job, history: StageHistory) -> None:
        if self._early is None:
            self._host.start(job, history)
        else:
            self._early.append((job, history))

    async def _close(self) -> None:
        """End the jobs, close the resources, end all other tasks. Not bounded in time: see ``gone``."""
        await self._host.stop(CANCELLED_S)
        if self._scope is not None:
            await self._scope.close()
        this = asyncio.current_task()
        while tasks := asyncio.all_tasks() - {this}:
            for task in tasks:
                cancel_once(task)
            await asyncio.wait(tasks)  # a node's own tasks: what they raise is logged

    def _stop(self, _: object) -> None:
        self._is_ending = True
        self._loop.stop()
