"""An executor as the service uses it: jobs are submitted, and returned finished."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from typing import TYPE_CHECKING

from fivestage import Query
from fivestage.core.job import Job
from fivestage.core.observer import Observer
from fivestage.executors.executor import TICK_S
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fivestage import Plan
    from fivestage.core.routing_snapshot import RoutingSnapshot
    from fivestage.core.stage_run import StageRun
    from fivestage.executors import Executor

LIMIT_S = 60.0
"""Ends a test that hangs."""


class Replacements(Observer):
    """The code that stalled workers, and the reasons of their replacement."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.stalled: list[str] = []

    def executor_stalled(self, name: str, where: str | None) -> None:  # noqa: ARG002
        self.stalled.append(name)

    def executor_replaced(self, reason: str) -> None:
        self.reasons.append(reason)


class Bus:
    """Submits jobs to an executor and checks it regularly, as the dispatcher does.

    Args:
        executor: The executor under test.
        plan: The limits of the jobs.
    """

    def __init__(self, executor: Executor, plan: Plan) -> None:
        self.executor = executor
        self.finished: list[Job] = []
        self.threads: set[int] = set()
        """The threads in which ends of jobs were reported."""
        self._plan = plan
        self._checking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.executor.start(self._finish)
        self._checking = asyncio.create_task(self._check())

    async def stop(self, timeout_s: float = 10.0) -> None:
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None
            await self.executor.stop(timeout_s)

    def _finish(self, job: Job) -> None:
        self.finished.append(job)
        self.threads.add(threading.get_ident())

    async def _check(self) -> None:
        while True:
            self.executor.check(asyncio.get_running_loop().time())
            await asyncio.sleep(TICK_S)

    def submit(self, text: str, routing: RoutingSnapshot | None = None) -> Job:
        """Start a query; its node is the first word of *text*."""
        now, query = asyncio.get_running_loop().time(), Query("q", text, context={"n": [1, None]})
        job = Job(query, self._plan, started_at=now, ends_at=now + self._plan.total_s, routing=routing)
        self.executor.submit(job)
        return job

    def give_up(self, job: Job) -> None:
        """End a job as its deadline does."""
        job.end()
        self.executor.cancel(job)

    async def ask(self, text: str) -> Job:
        """Submit a query and wait for its end."""
        job = self.submit(text)
        await self.ended(job)
        return job

    async def ended(self, *jobs: Job) -> None:
        """Wait for the end of jobs."""
        await until(lambda: set(jobs) <= set(self.finished), f"the end of {len(jobs)} jobs")

    async def processing(self, job: Job) -> None:
        """Wait until a job's node has been called."""
        await until(lambda: running_stage(job) is StageType.PROCESSING, "a job's node is called")


@contextlib.asynccontextmanager
async def started(bus: Bus) -> AsyncIterator[None]:
    """Start a bus, and stop it at the end."""
    await bus.start()
    try:
        yield
    finally:
        await bus.stop()


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for a condition; *what* names it in a failure."""
    ends_at = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > ends_at:
            raise AssertionError(f"not within {LIMIT_S:g} s: {what or source_of(condition)}")
        await asyncio.sleep(0.002)


def source_of(condition: Callable[[], object]) -> str:
    """Return the source lines of a condition."""
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)


def running_stage(job: Job) -> StageType | None:
    """Return the running stage, as the service sees it."""
    running = job.history.running
    return None if running is None else running.spec.stage_type


def answer_of(job: Job) -> bytes | None:
    """Return the answer of a query whose five stages succeeded."""
    assert [run.outcome for run in job.history.runs] == [Outcome.SUCCESS] * 5, job.history.runs
    return job.history.answer_json


def node_run(job: Job) -> StageRun:
    """Return the run of the node."""
    return job.history.runs[2]
