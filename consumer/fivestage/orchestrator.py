"""The orchestrator: one straight way through the five stages.

Runs where user code runs. It writes the trail and decides nothing about the query's end: that is
``core.outcome``, for the bus and for ``process_query`` alike.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from fivestage.app import Pipeline
from fivestage.bounded import Ending, bounded, leave_behind, within
from fivestage.context import Query, StageContext
from fivestage.core.deadline import stage_grant
from fivestage.core.event_json import Envelope, result_json, stage_json, to_json
from fivestage.core.job import Job
from fivestage.core.outcome import conclude
from fivestage.core.plan import Plan
from fivestage.core.records import NOT_FROM_KAFKA
from fivestage.core.trail import RunningStage, StageRun
from fivestage.errors import NodeError, NoNodeError
from fivestage.threads import ThreadPool
from fivestage_schemas import Outcome, PipelineResult, QueryEvent, StageResult, StageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from fivestage.core.plan import StageSpec
    from fivestage.node import Handler

DEFAULT_THREADS = 8


class Orchestrator:
    """Takes queries through the stages of an app.

    Args:
        app: Stages and nodes; the built-in ones when absent.
        plan: Limits and criticality; the defaults of ``Plan.of()`` when absent.
        threads: How many blocking (``def``) stages and nodes may run at a time.

    Example:
        >>> result = await Orchestrator().process_query("What is 15 + 7?")  # doctest: +SKIP
        >>> result.answer  # doctest: +SKIP
        22
    """

    def __init__(
        self, app: Pipeline | None = None, *, plan: Plan | None = None, threads: int = DEFAULT_THREADS
    ) -> None:
        self.app = app or Pipeline()
        self.plan = plan or Plan.of()
        self.threads = ThreadPool(threads)

    def __repr__(self) -> str:
        return f"<Orchestrator {self.app} {self.threads}>"

    async def process_query(
        self,
        user_input: str,
        *,
        query_id: str | None = None,
        lane: str = "prod",
        context: Mapping[str, Any] | None = None,
        budget_ms: int | None = None,
    ) -> PipelineResult:
        """Answer one query without Kafka.

        Returns at the deadline at the latest, also when a stage ignores its cancellation: such a stage
        is left behind. Never raises for what a stage does.

        Raises:
            ValueError: an argument is not what a QueryEvent may have.
        """
        query_id = query_id or str(uuid.uuid4())
        event = QueryEvent(
            query_id=query_id, user_input=user_input, lane=lane, budget_ms=budget_ms, context=context
        )
        loop = asyncio.get_running_loop()
        now = loop.time()
        total_s = self.plan.total_s if budget_ms is None else min(self.plan.total_s, budget_ms / 1000)
        query = Query(query_id, user_input, lane, event.context or {})
        job = Job(query, self.plan, started_at=now, ends_at=now + total_s)
        envelope = Envelope(NOT_FROM_KAFKA, query.query_id, lane, started_wall=time.time(), started_at=now)
        task = asyncio.ensure_future(self.run(job))
        try:
            await asyncio.wait({task}, timeout=total_s)
        finally:
            job.ended = True
            leave_behind(task)
        conclusion = conclude(job.trail, job.plan, started_at=now, ends_at=job.ends_at, now=loop.time())
        stages = [stage_json(envelope, run) for run in conclusion.runs]
        return PipelineResult.model_validate_json(result_json(envelope, conclusion, stages))

    async def run(self, job: Job) -> None:
        """Run the stages of *job*, writing its trail; stop at the first critical one that fails.

        Raises:
            asyncio.CancelledError: the job was cancelled from outside; its trail stands as it is.
        """
        clock = asyncio.get_running_loop().time
        ctx = StageContext(job.query.lane, job.ends_at, clock, self.threads.run, StageType.INTENT)
        for spec in job.plan.stages:
            if job.ended:  # a stage swallowed the cancellation
                return
            run = await self._stage(job, ctx, spec)
            job.trail.finish(run)
            if spec.critical and not run.success:
                return

    async def _stage(self, job: Job, ctx: StageContext, spec: StageSpec) -> StageRun:
        ctx.stage_type = spec.stage_type
        node = ctx.node if spec.stage_type is StageType.PROCESSING else None
        started_at = ctx.clock()
        granted_s = stage_grant(spec, now=started_at, ends_at=job.ends_at)
        if granted_s <= 0:
            return StageRun(spec, Outcome.SKIPPED, error="no time left", error_type="skipped")
        ctx.stage_deadline = started_at + granted_s
        job.trail.start(RunningStage(spec, started_at, granted_s, node))
        call = self._call(job.query, ctx)
        ending = await bounded(call, ctx.stage_deadline, clock=ctx.clock, given_up=lambda: job.ended)
        if ending.outcome is Outcome.SUCCESS:
            ending = _taken_over(job, ctx, ending)
        return StageRun(
            spec,
            ending.outcome,
            ending.data_json,
            ending.error,
            ending.error_type,
            node,
            1,
            started_at,
            ending.duration_s,
            granted_s,
        )

    async def _call(self, query: Query, ctx: StageContext) -> Any:
        """Call the stage's function the way it must be called."""
        handler = self._handler(ctx)
        if handler.is_async:
            data = await handler.call(query, ctx)
        else:
            data = await self.threads.run(handler.call, query, ctx)
            if asyncio.iscoroutine(data):
                data = await data
        if ctx.stage_type is StageType.DECISION:
            self._check_decision(data)
        return data

    def _handler(self, ctx: StageContext) -> Handler:
        if ctx.stage_type is not StageType.PROCESSING:
            return self.app.stage(ctx.stage_type)
        if ctx.node is None:
            raise NoNodeError("the decision stage chose no node")
        return self.app.find_node(ctx.node).handler

    def _check_decision(self, data: Any) -> None:
        if not isinstance(data, str):
            raise NodeError(f"the decision stage must return a node's name, got {type(data).__name__}")
        self.app.find_node(data)


def _taken_over(job: Job, ctx: StageContext, ending: Ending) -> Ending:
    """Let the later stages see what this one returned; if looking at it raises, the stage has failed."""
    try:
        _take_over(job, ctx, ending.data)
    except BaseException as raised:  # noqa: BLE001 - the data may be of a class of the user's own
        return Ending.of_error(raised, ending.duration_s)
    return ending


def _take_over(job: Job, ctx: StageContext, data: Any) -> None:
    match ctx.stage_type:
        case StageType.DECISION:
            ctx.node = data
        case StageType.PROCESSING:
            ctx.answer, ctx.confidence = answer_of(data)
            job.trail.confidence = ctx.confidence
            job.trail.answer_json = to_json(ctx.answer)
        case StageType.VALIDATION:
            ctx.validated = bool(data.get("valid") if isinstance(data, dict) else data)
    ctx.results[ctx.stage_type] = data


def answer_of(data: Any) -> tuple[Any, float | None]:
    """Answer and confidence of what a node returned: a dict with ``answer``, or the answer itself."""
    if not isinstance(data, dict) or "answer" not in data:
        return data, None
    confidence = data.get("confidence")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        return data["answer"], None
    return data["answer"], min(1.0, max(0.0, float(confidence)))


async def run_with_timeout(
    coro: Awaitable[Any], stage_type: StageType, timeout_sec: float | None = None
) -> StageResult:
    """Run one coroutine as a stage, with a limit; one that ignores its cancellation is left behind.

    Args:
        coro: What to run, or any other awaitable.
        stage_type: The stage it counts as.
        timeout_sec: Its limit in seconds; the stage's default when None.

    Returns:
        How it went: ``success`` with ``data``, ``timeout``, or ``error`` with ``error`` and
        ``error_type``. Never raises for what *coro* does; raises CancelledError when the caller is
        cancelled.
    """
    spec = Plan.of().stages[list(StageType).index(stage_type)]
    limit_s = spec.limit_s if timeout_sec is None else timeout_sec
    clock = asyncio.get_running_loop().time
    started_at = clock()
    call = bounded(_awaited(coro), started_at + limit_s, clock=clock, given_up=lambda: True)
    ending = await within(call, limit_s) or Ending.of_timeout(limit_s, clock() - started_at)
    run = StageRun(
        spec,
        ending.outcome,
        ending.data_json,
        ending.error,
        ending.error_type,
        started_at=started_at,
        duration_s=ending.duration_s,
        granted_s=limit_s,
    )
    envelope = Envelope(NOT_FROM_KAFKA, "local", "prod", started_wall=time.time(), started_at=clock())
    return StageResult.model_validate_json(stage_json(envelope, run))


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
