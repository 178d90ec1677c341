"""Jobs as tasks of one event loop; what inline and thread executors have in common."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.executors.port import OnFinished
    from fivestage.orchestrator import Orchestrator


class JobHost:
    """Starts and cancels jobs. Used from the loop they run on."""

    def __init__(self, orchestrator: Orchestrator, on_finished: OnFinished) -> None:
        self._orchestrator = orchestrator
        self._on_finished = on_finished
        self._tasks: dict[asyncio.Task[None], Job] = {}
        self._left: dict[asyncio.Task[None], float] = {}

    @property
    def abandoned(self) -> int:
        """Jobs that were cancelled and are still running."""
        return len(self._left)

    def stuck(self, now: float, after_s: float) -> int:
        """Jobs that have run on for longer than *after_s* since they were cancelled."""
        return sum(now - at > after_s for at in tuple(self._left.values()))

    def start(self, job: Job) -> None:
        """Begin a job, unless it ended while it was handed over."""
        if job.ended:
            return
        job.task = task = asyncio.get_running_loop().create_task(self._orchestrator.run(job))
        self._tasks[task] = job
        task.add_done_callback(self._done)

    def cancel(self, job: Job) -> None:
        """Ask a job's task to end; until it does, it is abandoned."""
        task = job.task
        if task is None or task.done():
            return
        self._left[task] = asyncio.get_running_loop().time()
        task.add_done_callback(self._came_back)
        task.cancel()

    async def stop(self, timeout_s: float) -> None:
        """Cancel everything and wait a little for it."""
        tasks = dict(self._tasks)
        for task, job in tasks.items():
            job.ended = True
            task.cancel()
        if tasks:
            await asyncio.wait(set(tasks), timeout=timeout_s)

    def _done(self, task: asyncio.Task[None]) -> None:
        job = self._tasks.pop(task)
        job.task = None  # its traceback would hold both until the garbage collector finds them
        if not task.cancelled():
            task.result()  # the orchestrator catches what user code raises: anything here is a bug
            self._on_finished(job)

    def _came_back(self, task: asyncio.Task[None]) -> None:
        self._left.pop(task, None)
