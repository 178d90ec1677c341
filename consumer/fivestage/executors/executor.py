"""The interface between the bus loop and whatever runs user code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from fivestage.core.job import Job

if TYPE_CHECKING:
    from fivestage.pipeline.thread_pool import Abandoned

TICK_S = 0.01
"""Seconds between two calls of ``check`` while queries are in flight."""
OnFinished = Callable[[Job], None]
"""Called on the bus loop when the executor has finished with a job."""


class LocalQueue(Protocol):
    """Jobs that an executor starts by itself, one each time another job completes. Used on the bus loop."""

    def enqueue(self, job: Job) -> None:
        """Add *job*; when it has been started, ``Watcher.goes_on`` gets its start and its end."""

    def dequeue(self, job: Job) -> bool:
        """Remove *job*; return False if it has been started."""


class Executor(Protocol):
    """Runs jobs. Every method is called on the bus loop and must not block it.

    The bus loop ends a job at its deadline itself, so an executor may be late, or never report the end.
    """

    async def start(self, on_finished: OnFinished) -> None:
        """Get ready for jobs.

        Args:
            on_finished: Called at most once per job, when its stages have ended. For a job that was cancelled
                only if its stages ended all the same.
        """

    def submit(self, job: Job) -> None:
        """Start *job*, or continue it where its stage history ends; the history grows as the stages end."""

    def cancel(self, job: Job) -> None:
        """Stop working on *job*, which has ended or moves to another worker. Its code may run on."""

    def refresh(self) -> None:
        """Bring the histories of all jobs up to date, where another process writes them."""

    def check(self, now: float) -> bool:
        """Find code that blocks an event loop, and move the other jobs of that loop where necessary.

        Called every TICK_S. Jobs behind such code get ``Job.held_at``, and are moved (``Job.move``) if
        waiting longer would cost them their answer; the job that blocks gets ``Job.is_blocking``. Returns
        whether a loop has stalled, or a worker has died, since the last check.
        """

    async def stop(self, timeout_s: float) -> None:
        """Cancel all jobs and end within *timeout_s* seconds; code that does not end is left behind."""

    @property
    def local_queue(self) -> LocalQueue | None:
        """Where jobs may be added now that it is to start by itself; None if it should start none."""

    @property
    def lag_s(self) -> float:
        """Seconds that the slowest event loop took to respond, or has not responded."""

    @property
    def failure(self) -> str | None:
        """Why jobs will not be run any more; None while the executor works."""

    @property
    def unready(self) -> str | None:
        """Why no job can be run now; None if jobs can be run."""

    def abandoned(self) -> Sequence[Abandoned]:
        """Return the code that runs, on loops and in threads, although no running query waits for it."""
