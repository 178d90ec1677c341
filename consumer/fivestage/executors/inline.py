"""User code on the bus loop itself: for tests and for trusted, purely asynchronous nodes."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from fivestage.executors.job_registry import JobRegistry
from fivestage.executors.task_host import TaskHost, report_wait
from fivestage.pipeline.resource_manager import CLOSE_S
from fivestage.pipeline.thread_pool import Abandoned

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.executors.executor import OnFinished
    from fivestage.pipeline.orchestrator import Orchestrator
    from fivestage.pipeline.resource_manager import Scope


class InlineExecutor:
    """Runs jobs as tasks of the calling loop. A node that blocks, blocks everything."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._places: tuple[TaskHost, JobRegistry] | None = None
        self._scope: Scope | None = None

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor."""
        self._scope = await self._orchestrator.resources.open()
        registry = JobRegistry(on_finished)
        on_wait = partial(report_wait, self._orchestrator.threads)
        self._places = TaskHost(self._orchestrator.run, registry.done, on_wait=on_wait), registry

    def submit(self, job: Job) -> None:
        """See Executor."""
        host, registry = self._started()
        registry.place(job)
        host.start(job, job.history)

    def cancel(self, job: Job) -> None:
        """See Executor."""
        host, registry = self._started()
        registry.leave(job, asyncio.get_running_loop().time())
        host.cancel(job, job.history)

    def check(self, _: float) -> bool:
        """See Executor."""
        return False

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        clock = asyncio.get_running_loop().time
        ends_at = clock() + timeout_s
        if self._places is not None:
            host, registry = self._places
            for job in list(registry.jobs.values()):  # what comes back later is too late
                self.cancel(job)
                job.end()
            await host.stop(max(timeout_s - CLOSE_S, timeout_s / 2))
        if self._scope is not None:
            await self._scope.close(min(CLOSE_S, ends_at - clock()))
        self._orchestrator.threads.close()

    lag_s = 0.0
    failure = None
    unready = None

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        left = {} if self._places is None else self._places[1].left
        on_loop = [Abandoned(one.name, one.since) for one in left.values()]
        return on_loop + self._orchestrator.threads.abandoned()

    def _started(self) -> tuple[TaskHost, JobRegistry]:
        if self._places is None:
            raise RuntimeError("the executor has not been started")
        return self._places
