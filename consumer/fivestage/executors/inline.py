"""User code on the bus loop itself: for tests and for trusted, purely asynchronous nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fivestage.executors.host import JobHost
from fivestage.executors.port import STUCK_AFTER_S

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.executors.port import OnFinished
    from fivestage.orchestrator import Orchestrator


class InlineExecutor:
    """Runs jobs as tasks of the calling loop. A node that blocks, blocks everything."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._host: JobHost | None = None

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor."""
        self._host = JobHost(self._orchestrator, on_finished)

    def submit(self, job: Job) -> None:
        """See Executor."""
        self._started.start(job)

    def cancel(self, job: Job) -> None:
        """See Executor."""
        self._started.cancel(job)

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        if self._host is not None:
            await self._host.stop(timeout_s)
        self._orchestrator.threads.close()

    def ping(self) -> None:
        """See Executor. The loop that asks is the loop that is asked."""

    def lag_s(self, now: float) -> float:  # noqa: ARG002 - the port's signature
        """See Executor."""
        return 0.0

    last_lag_s = 0.0
    failure = None

    @property
    def abandoned(self) -> int:
        """See Executor."""
        return (self._host.abandoned if self._host else 0) + self._orchestrator.threads.abandoned

    def stuck(self, now: float) -> int:
        """See Executor."""
        on_loop = self._host.stuck(now, STUCK_AFTER_S) if self._host else 0
        return on_loop + self._orchestrator.threads.stuck(now, STUCK_AFTER_S)

    @property
    def _started(self) -> JobHost:
        if self._host is None:
            raise RuntimeError("the executor has not been started")
        return self._host
