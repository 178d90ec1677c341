"""Runs user code on the bus loop itself: for tests only."""

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

    lag_s, failure, unready, local_queue = 0.0, None, None, None

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._registry = JobRegistry(lambda _: None)  # replaced at the start
        self._host = TaskHost(
            orchestrator.run, self._registry.done, on_wait=partial(report_wait, orchestrator.threads)
        )
        self._scope: Scope | None = None

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor."""
        self._registry.on_finished = on_finished
        self._scope = await self._orchestrator.resources.open()

    def submit(self, job: Job) -> None:
        """See Executor."""
        if self._scope is None:
            raise RuntimeError("the executor has not been started")
        self._registry.add(job)
        self._host.start(job, job.history)

    def cancel(self, job: Job) -> None:
        """See Executor."""
        self._registry.leave(job, asyncio.get_running_loop().time())
        self._host.cancel(job.history)

    def refresh(self) -> None:
        """See Executor."""

    def check(self, _: float) -> bool:
        """See Executor."""
        return False

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        clock = asyncio.get_running_loop().time
        ends_at = clock() + timeout_s
        for job in list(self._registry.jobs.values()):  # what their code still returns is ignored
            self.cancel(job)
            job.end()
        await self._host.stop(max(timeout_s - CLOSE_S, timeout_s / 2))
        if self._scope is not None:
            await self._scope.close(min(CLOSE_S, ends_at - clock()))
        self._orchestrator.threads.close()

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        on_loop = [Abandoned(one.name, one.since) for one in self._registry.left.values()]
        return on_loop + self._orchestrator.threads.abandoned() + self._orchestrator.hedges.abandoned()
