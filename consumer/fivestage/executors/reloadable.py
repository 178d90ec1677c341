"""An executor whose app can be replaced while it runs, for development."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from fivestage._asyncio import ignore_result
from fivestage.executors.executor import TICK_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.executors.executor import Executor, OnFinished
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.pipeline.thread_pool import Abandoned
    from fivestage.settings import Settings

STOP_S: Final = 2.8
"""Seconds that the executor of a replaced app may take to stop, once it has no jobs."""

log = structlog.get_logger("fivestage.executor")


class ReloadableExecutor:
    """Runs new jobs with the newest app; the executors of replaced apps finish the jobs that they have.

    See Executor.

    Args:
        make: Makes an executor for an app.
        settings: The settings that *make* gets for the first app.
        app: The first app.
    """

    local_queue = None

    def __init__(
        self, make: Callable[[Settings, Pipeline], Executor], settings: Settings, app: Pipeline
    ) -> None:
        self._make = make
        self._on_finished: OnFinished
        self._current = make(settings, app)
        self._replaced: list[Executor] = []
        """The executors of earlier apps, until they have stopped."""
        self._endings: set[asyncio.Task[None]] = set()
        self._running: dict[Job, Executor] = {}
        """Where each job runs."""
        self._stopping = False

    def __repr__(self) -> str:
        return f"<ReloadableExecutor {self._current} replaced={self._replaced}>"

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor. Raises what the executor of the first app raises."""
        self._on_finished = on_finished
        await self._current.start(self._finished)

    async def reload(self, settings: Settings, app: Pipeline) -> None:
        """Run all further jobs with *app* and *settings*, once its executor is ready.

        If this raises, or is cancelled, the earlier app stays. Raises what the start of an executor raises.
        """
        new = self._make(settings, app)
        await new.start(self._finished)
        old, self._current = self._current, new
        self._replaced.append(old)
        ending = asyncio.create_task(self._end(old), name="end of a replaced app")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        ending.add_done_callback(ignore_result)

    async def _end(self, old: Executor) -> None:
        """Stop the executor of a replaced app when its last job has ended, which deadlines bound."""
        while old in self._running.values() and not self._stopping:  # noqa: ASYNC110 - seldom
            await asyncio.sleep(TICK_S)
        try:
            await old.stop(STOP_S)
        finally:
            self._replaced.remove(old)
        if names := sorted({one.name for one in old.abandoned()}):
            advice = "restart the command; with executor.kind = process such code is killed"
            log.warning("code of the replaced app runs on", nodes=names, advice=advice)

    def submit(self, job: Job) -> None:
        """See Executor."""
        self._running[job] = self._current
        self._current.submit(job)

    def cancel(self, job: Job) -> None:
        """See Executor."""
        self._running.pop(job, self._current).cancel(job)

    def _finished(self, job: Job) -> None:
        self._running.pop(job, None)
        self._on_finished(job)

    def refresh(self) -> None:
        """See Executor."""
        for one in (self._current, *self._replaced):
            one.refresh()

    def check(self, now: float) -> bool:
        """See Executor."""
        found = [one.check(now) for one in (self._current, *self._replaced)]
        return any(found)

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        self._stopping = True
        stopping = asyncio.ensure_future(self._current.stop(timeout_s))
        stopping.add_done_callback(ignore_result)
        await asyncio.wait({stopping, *self._endings}, timeout=timeout_s)
        if stopping.done():
            stopping.result()

    @property
    def lag_s(self) -> float:
        """See Executor."""
        return max(one.lag_s for one in (self._current, *self._replaced))

    @property
    def failure(self) -> str | None:
        """See Executor."""
        return self._current.failure

    @property
    def unready(self) -> str | None:
        """See Executor."""
        return self._current.unready

    def abandoned(self) -> list[Abandoned]:
        """See Executor. Without the code of earlier apps: the nodes of the current one may be mended."""
        return list(self._current.abandoned())
