"""Jobs that continue in another worker, from their stage history."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fivestage import Orchestrator, Pipeline, Plan, Query, StageContext
from fivestage.core.job import Job
from fivestage.core.stage_history import StageHistory
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage_schemas import Outcome

BIG = 2**100


def app(seen: list[Any]) -> Pipeline:
    """An app that answers with a big integer and records what validation sees."""
    pipeline = Pipeline(builtins=False)

    @pipeline.decision
    async def decide(_query: Query, _ctx: StageContext) -> str:
        return "first"

    @pipeline.node("first")
    async def first(_query: Query, _ctx: StageContext) -> int:
        return BIG

    @pipeline.node("second")
    async def second(_query: Query, _ctx: StageContext) -> int:
        return BIG

    @pipeline.validation
    async def validate(_query: Query, ctx: StageContext) -> bool:
        seen.append((ctx.answer, ctx.node, ctx.attempt))
        return True

    return pipeline


def job(orchestrator: Orchestrator) -> Job:
    """Build a job of a query that has just started."""
    now = asyncio.get_running_loop().time()
    return Job(Query("q", "x"), orchestrator.plan, started_at=now, ends_at=now + 0.25)


async def test_a_moved_job_keeps_its_answer() -> None:
    """A moved job keeps its answer; later stages see the same value and its node."""
    seen: list[Any] = []
    orchestrator = Orchestrator(app(seen))
    one = job(orchestrator)
    await orchestrator.run(one, one.history)
    one.history.runs[2].node = "second"  # as after a failover
    del one.history.runs[3:]
    one.history.start(RunningStage(one.plan.stages[3], one.started_at, 0.04))
    answer_json = one.history.answer_json = b"kept"
    one.move()
    await orchestrator.run(one, one.history)
    assert seen == [(BIG, "first", 1), (BIG, "second", 2)]
    assert (one.history.answer_json, len(one.history.runs)) == (answer_json, 5)


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.TIMEOUT])
async def test_a_job_that_was_moved_after_its_end_runs_nothing(outcome: Outcome) -> None:
    """A job moved after a critical stage failed runs nothing: later stages stay skipped."""
    seen: list[Any] = []
    orchestrator = Orchestrator(app(seen))
    one = job(orchestrator)
    one.history.finish(StageRun(one.plan.stages[0], outcome, started_at=one.started_at))
    one.move()
    await orchestrator.run(one, one.history)
    assert (seen, len(one.history.runs)) == ([], 1)


async def test_a_moved_job_keeps_its_verdict() -> None:
    """Reflection sees the verdict in a moved job, also where validation returned too much for an event."""
    pipeline, seen = app([]), list[Any]()

    @pipeline.reflection
    async def reflect(_query: Query, ctx: StageContext) -> None:
        seen.append(ctx.validated)

    orchestrator = Orchestrator(pipeline)
    one = job(orchestrator)
    await orchestrator.run(one, one.history)
    validation = one.history.runs[3]
    del one.history.runs[4:]
    validation.verdict, validation.data_json = False, None
    one.history.start(RunningStage(one.plan.stages[4], one.started_at, 0.04))
    one.move()
    await orchestrator.run(one, one.history)
    assert (seen, one.history.runs[3].verdict) == ([True, False], False)


async def test_a_job_that_was_moved_after_its_rejection_runs_nothing() -> None:
    """Where a rejected answer is an error, a moved job does not run reflection."""
    orchestrator = Orchestrator(app([]), plan=Plan.of(rejected="error"))
    one = job(orchestrator)
    for spec in one.plan.stages[:4]:
        one.history.finish(StageRun(spec, Outcome.SUCCESS, started_at=one.started_at))
    one.history.runs[3].verdict = False
    one.move()
    await orchestrator.run(one, one.history)
    assert len(one.history.runs) == 4


def running(history: StageHistory, sequence: int, attempt: int = 1) -> RunningStage:
    """Build a running stage."""
    spec = Orchestrator().plan.stages[sequence]
    found = RunningStage(spec, 0.0, 0.1, attempt=attempt)
    history.start(found)
    return found


def test_a_stage_that_ends_at_the_last_moment_is_not_awaited() -> None:
    """The result of a stage that ends as it is cancelled is seen, and the stage is not awaited."""
    history = StageHistory()
    one = running(history, 0)
    assert history.awaits(one)
    history.finish(StageRun(one.spec, Outcome.SUCCESS))
    assert not history.awaits(one)
    history.finish(StageRun(Orchestrator().plan.stages[1], Outcome.SUCCESS))
    two = running(history, 2)
    history.fail_over(StageRun(two.spec, Outcome.ERROR))
    assert not history.awaits(two)
    assert history.awaits(running(history, 2, attempt=2))
