"""Checks running queries every 10 ms, as long as queries or abandoned code run.

The deadlines of queries have a timer in ``active_jobs``. The watchdog finds code that blocks its event loop,
stages that do not end at their limit, and nodes that must not be called for now.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.lane_state import stuck_nodes
from fivestage.core.blocked_queries import is_overdue
from fivestage.core.outcome import interrupted
from fivestage.executors import TICK_S
from fivestage.executors.abandoned_cpu import SpentCpu
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.core.adaptive.lane_state import LearnedState
    from fivestage.core.job import Job
    from fivestage.core.stage_run import RunningStage
    from fivestage.dispatch.active_jobs import ActiveJobs
    from fivestage.executors import Executor
    from fivestage.pipeline.thread_pool import Abandoned

GRACE_S: Final = 0.02
"""Seconds after its limit within which a stage may still end by itself."""
MAX_LAG_S: Final = 0.05
"""Most seconds of the executor's loop lag that are added to the grace."""
STARVED_S: Final = 0.03
"""Seconds of delay above which a round shows that the machine was busy with other processes, if this process
was on a CPU for less than half of the delay."""
OVERDUE_S: Final = 1.0
"""Seconds that a call may run on after its end before it is overdue."""
OVERDUE_CPU_S: Final = 0.015
"""CPU seconds, used after their ends, for which the abandoned calls of a node count as one more overdue call:
a thread that computes slows down all others, one that waits does not."""


class Watchdog:
    """Makes rounds on the bus loop while queries or abandoned code run.

    Args:
        executor: Runs the code of the queries.
        learned: Receives the names of the stuck nodes.
        max_overdue: The number of overdue calls at which a node gets no further calls.
        cpu_clock: Returns the CPU seconds of this process.
        spent: Measures the CPU that abandoned calls use.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        learned: LearnedState,
        max_overdue: int,
        cpu_clock: Callable[[], float] = time.process_time,
        spent: SpentCpu | None = None,
    ) -> None:
        self._executor = executor
        self._learned = learned
        self._max_overdue = max_overdue
        self._due_at: float | None = None
        self._cpu_clock = cpu_clock
        self._cpu_s = 0.0
        self._cpu = spent or SpentCpu()

    def __repr__(self) -> str:
        return f"<Watchdog {'resting' if self._due_at is None else 'watching'}>"

    def watch(self, active: ActiveJobs) -> None:
        """Start the rounds, unless they are running; they stop when nothing is left to check."""
        if self._due_at is None:
            now = asyncio.get_running_loop().time()
            self._learned.tick(now, frozenset())  # the first query starts before the first round
            self._schedule(active, now + TICK_S)

    def _schedule(self, active: ActiveJobs, due_at: float) -> None:
        self._due_at = due_at
        self._cpu_s = self._cpu_clock()
        asyncio.get_running_loop().call_at(due_at, self._round, active)

    def _round(self, active: ActiveJobs) -> None:
        more = True
        try:
            more = self._check_all(active, asyncio.get_running_loop().time())
        finally:  # an error in one round must not prevent the next
            if more:
                self._schedule(active, asyncio.get_running_loop().time() + TICK_S)
            else:
                self._due_at = None

    def _check_all(self, active: ActiveJobs, now: float) -> bool:
        """Make one round; return whether another is needed."""
        starved = self._is_starved(now)
        if self._executor.check(now) or starved:
            self._learned.disturbed_at = now
        grace_s = GRACE_S + min(self._executor.lag_s, MAX_LAG_S)  # other code may have blocked its loop
        for job in tuple(active.jobs.values()):
            hedge, running = job.history.hedge, job.history.running  # in this order: see drop
            if job.waits_since is not None:
                active.check_wait(job)
            elif (
                running is not None
                and is_overdue(job, running, now, grace_s=grace_s)
                and (hedge is None or is_overdue(job, hedge, now, grace_s=grace_s))
            ):
                self._end_stage(active, job, running, now)
        abandoned = self._executor.abandoned()
        self._cpu.measure(abandoned, now)
        self._learned.tick(now, stuck_nodes(self._overdue(abandoned, now), self._max_overdue))
        return bool(active.jobs or abandoned)

    def _is_starved(self, now: float) -> bool:
        """Return whether this round is late because the process got too little CPU."""
        late_s = now - (now if self._due_at is None else self._due_at)
        return late_s > STARVED_S and self._cpu_clock() - self._cpu_s < late_s / 2

    def _overdue(self, abandoned: Sequence[Abandoned], now: float) -> list[str]:
        """Return the names of nodes: one for each overdue call, and one for each OVERDUE_CPU_S."""
        names = [left.name for left in abandoned if now - left.since > OVERDUE_S]
        spent_s: dict[str, float] = defaultdict(float)
        for left in abandoned:
            spent_s[left.name] += self._cpu.spent_s(left)
        for name, cpu_s in spent_s.items():
            names += [name] * min(int(cpu_s / OVERDUE_CPU_S), self._max_overdue)
        return names

    def _end_stage(self, active: ActiveJobs, job: Job, running: RunningStage, now: float) -> None:
        """Time out a stage that has not ended at its limit, and abandon its code.

        If processing timed out, another node may answer in the time that is left. If another stage did, the
        query ends now, unless that stage is not critical and a later one is.
        """
        self._executor.cancel(job)
        job.move()
        if not job.history.awaits(running):  # it ended at the last moment
            self._executor.submit(job)
            return
        run = interrupted(running, now, "did not end at its limit")
        if running.spec.stage_type is StageType.PROCESSING:
            job.history.fail_over(run)
            self._executor.submit(job)
            return
        job.history.finish(run)
        later = job.plan.stages[running.spec.sequence + 1 :]
        if not running.spec.critical and any(spec.critical for spec in later):
            self._executor.submit(job)
        else:
            active.finished(job)
