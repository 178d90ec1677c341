"""Runs user code on event loops in threads of this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from fivestage.executors.interpreter import InterpreterUse, SwitchInterval
from fivestage.executors.thread.worker import CANCELLED_S, END_S, ThreadWorker
from fivestage.executors.worker_pool import WorkerPool
from fivestage.pipeline.resource_manager import CLOSE_S

if TYPE_CHECKING:
    from fivestage.core.observer import Observer
    from fivestage.executors.executor import OnFinished
    from fivestage.pipeline.orchestrator import Orchestrator
    from fivestage.pipeline.resource_manager import Scope
    from fivestage.pipeline.thread_pool import Abandoned

SHARED_S: Final = 0.1
"""Seconds for which code is taken to compute on that had control of a loop at two checks in a row."""
LAST_CHANCE_S: Final = 0.1
"""Least seconds for the resources of a loop to open, however long those of the process have taken."""


class ThreadExecutor(WorkerPool):
    """Runs jobs on event loops in other threads, so that a node that blocks does not block the bus loop.

    Args:
        orchestrator: Runs the stages.
        observer: Notified when a loop stalls.
        stall_s: Seconds that one step of user code may take.
        spares: The number of further loops that are kept ready.
    """

    failure = None

    def __init__(
        self, orchestrator: Orchestrator, *, observer: Observer, stall_s: float, spares: int = 1
    ) -> None:
        self._orchestrator = orchestrator
        self._scope: Scope | None = None
        self._open_s = orchestrator.resources.start_timeout_s
        self._use = InterpreterUse()
        self._switch_interval = interval = SwitchInterval()
        self._busy_checks = 0
        """Checks in a row at which code of a query had control of a loop."""
        self._shared_until = 0.0
        super().__init__(
            lambda on_finished, on_ready: ThreadWorker(
                orchestrator, on_finished, on_ready, stall_s, self._open_s, lambda: interval.is_long
            ),
            size=1,
            spares=spares,
            stall_ms=round(stall_s * 1000),
            observer=observer,
        )

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor. Returns when the resources of the process and of the first loop are open.

        Raises:
            ResourceError: a resource cannot be opened.
        """
        clock, resources = asyncio.get_running_loop().time, self._orchestrator.resources
        ends_at = clock() + resources.start_timeout_s
        self._scope = await resources.open_process()
        try:
            self._open_s = max(ends_at - clock(), LAST_CHANCE_S)  # at the start both share the time
            self.launch(on_finished)
            self._open_s = resources.start_timeout_s
            first = self.workers[0]
            assert isinstance(first, ThreadWorker)  # noqa: S101 - see above
            await first.opened
        except BaseException:
            await self.stop(END_S)
            raise

    @property
    def local_queue(self) -> ThreadWorker | None:
        """See Executor. With long turns the interpreter is what queries wait for, not their slots."""
        active = self._set.active
        if not active or not active[0].ready or self._switch_interval.is_long or self._ending:
            return None
        assert isinstance(active[0], ThreadWorker)  # noqa: S101 - see __init__
        return active[0]

    def check(self, now: float) -> bool:
        """See Executor."""
        found = super().check(now)
        if not self._ending:
            self._busy_checks = self._busy_checks + 1 if self._is_computing() else 0
            if self._busy_checks > 1:
                self._shared_until = now + SHARED_S
            shared = now < self._shared_until or self._orchestrator.threads.busy > 0
            self._share(shared=shared, busy=self._use.is_busy(now))
        return found

    def _is_computing(self) -> bool:
        """Whether code of a query has control of a loop at this moment."""
        return any(worker.blocking[0] for worker in self.workers)

    def _share(self, *, shared: bool, busy: bool) -> None:
        crowded = any(one.thread is not None for one in self.abandoned())
        self._switch_interval.choose(crowded=crowded, shared=shared, busy=busy)

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        here = self._orchestrator
        return super().abandoned() + here.threads.abandoned() + here.hedges.abandoned()

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        ends_at = asyncio.get_running_loop().time() + timeout_s
        self._share(shared=True, busy=False)  # from now on no check notices what runs
        await self.shut_down(timeout_s)
        self._switch_interval.restore()
        if self._scope is not None:
            left_s = ends_at - asyncio.get_running_loop().time()
            await self._scope.close(min(CLOSE_S, max(left_s, CANCELLED_S)))
        self._orchestrator.threads.close()
