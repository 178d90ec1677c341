"""Jobs as tasks of one event loop; what all executors have in common."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from fivestage._asyncio import cancel_once
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fivestage.core.job import Job
    from fivestage.core.stage_history import StageHistory


class TaskHost:
    """Starts and cancels jobs. Used from the loop they run on.

    A job that is moved away and back may have two tasks here for a while: their trails tell them apart.

    Args:
        run: Runs them: ``Orchestrator.run``.
        on_done: Called with the job, its trail, and whether it came to its end, rather than being cancelled.
        monitor: Told whose code has control.
        on_wait: See StageHistory; given to each.
    """

    def __init__(
        self,
        run: Callable[[Job, StageHistory, StepMonitor | None], Coroutine[Any, Any, None]],
        on_done: Callable[[Job, StageHistory, bool], None],
        monitor: StepMonitor | None = None,
        on_wait: Callable[[Job, StageHistory, tuple[float, float] | None], None] | None = None,
    ) -> None:
        self._run = run
        self._on_wait = on_wait
        self._on_done = on_done
        self._monitor = monitor or StepMonitor()
        self._tasks: dict[StageHistory, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<JobHost {len(self._tasks)} running>"

    def start(self, job: Job, history: StageHistory) -> None:
        """Begin a job where *trail* ends, unless it ended or was moved while it was handed over."""
        if history.closed:
            self._on_done(job, history, False)
            return
        history.on_wait = self._on_wait
        running = self._run(job, history, self._monitor)
        self._tasks[history] = task = asyncio.get_running_loop().create_task(running)
        task.add_done_callback(partial(self._done, job, history))

    def cancel(self, _: Job, history: StageHistory) -> None:
        """Ask a job's task to end; what it is cleaning up since its stage's limit is not cut."""
        task = self._tasks.get(history)
        if task is not None:
            cancel_once(task)

    async def stop(self, timeout_s: float) -> None:
        """Cancel everything and wait a little for it."""
        for history, task in self._tasks.items():
            history.closed = True
            cancel_once(task)
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=timeout_s)

    def _done(self, job: Job, history: StageHistory, task: asyncio.Task[None]) -> None:
        del self._tasks[history]
        completed = not task.cancelled()
        self._on_done(job, history, completed)
        if completed:
            task.result()  # the orchestrator catches what user code raises: anything here is a bug


def report_wait(pool: object, job: Job, history: StageHistory, times: tuple[float, float] | None) -> None:
    """Pass on, on the bus loop, what ``StageHistory.on_wait`` was called with; *pool* has the threads."""
    watcher = job.watcher
    if watcher is None:
        return
    if times is None:
        watcher.waits(job, history, pool)
    else:
        watcher.goes_on(job, history, *times)
