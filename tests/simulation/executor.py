"""Where queries run in a simulation: quick, slow, at fault, or never ending."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.trail import RunningStage, StageRun
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from random import Random

    from fivestage.core.job import Job
    from fivestage.core.trail import Trail
    from fivestage.executors.port import OnFinished
    from fivestage.threads import Abandoned

QUICK_S = 0.03
SLOW_S = 0.35


class Manners(NamedTuple):
    """How likely it is that a query does not end soon and well."""

    slow: float
    """It takes up to SLOW_S."""
    stuck: float
    """One of its stages never ends."""
    failing: float
    """One of its stages raises."""


class SimExecutor:
    """Runs nothing, and says after a while that it has run.

    Args:
        random: Decides what becomes of each query.
        manners: With what likelihood.
    """

    def __init__(self, random: Random, manners: Manners) -> None:
        self._random = random
        self._manners = manners
        self._on_finished: OnFinished = lambda job: None  # noqa: ARG005
        self.lag_s = 0.0
        self.failure: str | None = None
        self.unready: str | None = None

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor."""
        self._on_finished = on_finished

    def submit(self, job: Job) -> None:
        """See Executor."""
        loop, draw, manners = asyncio.get_running_loop(), self._random.random(), self._manners
        left = job.plan.stages[len(job.trail.runs) :]
        if draw < manners.stuck:
            spec = self._random.choice(left)
            for before in left[: left.index(spec)]:
                job.trail.finish(_run(before, loop.time(), Outcome.SUCCESS))
            job.trail.start(RunningStage(spec, loop.time(), spec.limit_s))
            return
        slow = draw < manners.stuck + manners.slow
        failing = self._random.random() < manners.failing
        delay_s = self._random.random() * (SLOW_S if slow else QUICK_S)
        loop.call_later(delay_s, self._finish, job, job.trail, failing)

    def _finish(self, job: Job, trail: Trail, failing: bool) -> None:  # noqa: FBT001
        if not trail.closed:
            now = asyncio.get_running_loop().time()
            for spec in job.plan.stages[len(trail.runs) :]:
                failed = failing and spec.sequence == 2
                trail.finish(_run(spec, now, Outcome.ERROR if failed else Outcome.SUCCESS))
                if failed:
                    break
            trail.answer_json = b'"an answer"'
        self._on_finished(job)

    def cancel(self, job: Job) -> None:
        """See Executor; what was to end later still does, for nobody."""
        job.trail.closed = True

    def check(self, _: float) -> bool:
        """See Executor."""
        return False

    async def stop(self, _: float) -> None:
        """See Executor."""

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        return []


def _run(spec: object, now: float, outcome: Outcome) -> StageRun:
    failed = outcome is Outcome.ERROR
    return StageRun(
        spec,  # type: ignore[arg-type]
        outcome,
        data_json=None if failed else b"1",
        error="it raised" if failed else None,
        error_type="RuntimeError" if failed else None,
        started_at=now,
        granted_s=0.1,
    )
