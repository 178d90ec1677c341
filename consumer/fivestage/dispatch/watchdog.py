"""Checks running queries every few milliseconds, while there are any.

Deadlines of queries have another timer (``active_jobs``). The watchdog finds code that does not give control
back, stages that do not end at their limit, and nodes that should not be called for now.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING

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
    from fivestage.core.stage_history import RunningStage
    from fivestage.dispatch.active_jobs import ActiveJobs
    from fivestage.executors import Executor
    from fivestage.pipeline.thread_pool import Abandoned

GRACE_S = 0.02
"""How long after its limit a stage may take to end by itself."""
MAX_LAG_S = 0.05
STARVED_S = 0.03
"""A round that is late by more, while the process was given less than half of that time on a CPU, says that
the machine was busy with other things."""
OVERDUE_S = 1.0
"""How long a call may run on after its end before it is overdue."""
OVERDUE_CPU_S = 0.015
"""So much CPU that calls of a node use after their ends counts as one more overdue call: each thread that
computes takes its share of the interpreter from all others, and what waits for a database uses none."""


class Watchdog:
    """Makes its rounds on the bus loop.

    Args:
        running: The queries that it looks after.
        executor: Where their code runs.
        learned: Keeps which nodes have too many calls that do not return.
        max_overdue: How many calls of one node may be overdue before it gets no more.
        cpu_clock: Seconds that this process has been given on any CPU.
        spent: Measures the CPU that abandoned calls use.
    """

    def __init__(
        self,
        *,
        running: ActiveJobs,
        executor: Executor,
        learned: LearnedState,
        max_overdue: int,
        cpu_clock: Callable[[], float] = time.process_time,
        spent: SpentCpu | None = None,
    ) -> None:
        self._running = running
        self._executor = executor
        self._learned = learned
        self._max_overdue = max_overdue
        self._due_at: float | None = None
        self._cpu_clock = cpu_clock
        self._cpu_s = 0.0
        self._cpu = spent or SpentCpu()
        running.on_first = self.begin

    def __repr__(self) -> str:
        return f"<Watchdog {'resting' if self._due_at is None else 'under way'}>"

    def begin(self) -> None:
        """Make rounds as long as queries run, or code of ended ones runs on."""
        if self._due_at is None:
            now = asyncio.get_running_loop().time()
            self._learned.tick(now, frozenset())  # for the first query, not at the round after it
            self._schedule(now + TICK_S)

    def _schedule(self, due_at: float) -> None:
        self._due_at = due_at
        self._cpu_s = self._cpu_clock()
        asyncio.get_running_loop().call_at(due_at, self._round)

    def _is_starved(self, now: float) -> bool:
        """Whether this round comes late because the process got no CPU."""
        late_s = now - (now if self._due_at is None else self._due_at)
        return late_s > STARVED_S and self._cpu_clock() - self._cpu_s < late_s / 2

    def _round(self) -> None:
        more = True
        try:
            more = self._look_around(asyncio.get_running_loop().time())
        finally:  # whatever goes wrong in one round, the next one comes
            if more:
                self._schedule(asyncio.get_running_loop().time() + TICK_S)
            else:
                self._due_at = None

    def _look_around(self, now: float) -> bool:
        """Make a round; whether another is needed."""
        starved = self._is_starved(now)
        if self._executor.check(now) or starved:
            self._learned.disturbed_at = now
        grace_s = GRACE_S + min(self._executor.lag_s, MAX_LAG_S)  # others may have held its loop up
        for job in tuple(self._running.jobs.values()):
            running = job.history.running
            if job.waits_since is not None:
                self._running.look_at_wait(job)
            elif running is not None and is_overdue(job, running, now, grace_s=grace_s):
                self._end_stage(job, running, now)
        abandoned = self._executor.abandoned()
        self._cpu.look(abandoned, now)
        self._learned.tick(now, stuck_nodes(self._overdue(abandoned, now), self._max_overdue))
        return bool(self._running.jobs or abandoned)

    def _overdue(self, abandoned: Sequence[Abandoned], now: float) -> list[str]:
        """The names of the nodes whose calls are overdue: each as often as it has such calls."""
        names = [left.name for left in abandoned if now - left.since > OVERDUE_S]
        spent_s: dict[str, float] = defaultdict(float)
        for left in abandoned:
            spent_s[left.name] += self._cpu.spent_s(left)
        for name, cpu_s in spent_s.items():
            names += [name] * min(int(cpu_s / OVERDUE_CPU_S), self._max_overdue)
        return names

    def _end_stage(self, job: Job, running: RunningStage, now: float) -> None:
        """End a stage that has not ended at its limit as a timeout, and abandon its code.

        Another node may answer in the remaining time. Otherwise the query ends now, not at the deadline.
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
            self._executor.submit(job)  # there is no answer yet
        else:
            self._running.finished(job)
