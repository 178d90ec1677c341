"""The orchestrator: one straight way through the five stages.

Runs where user code runs. It writes the trail and decides nothing about the query's end: that is
``core.outcome``, for the bus and for ``process_query`` alike.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from fivestage.app import Pipeline
from fivestage.bounded import Ending, bounded, leave_behind, within
from fivestage.context import Query, StageContext
from fivestage.core.deadline import stage_grant
from fivestage.core.event_json import Envelope, limited_json, result_json, stage_json
from fivestage.core.job import Job
from fivestage.core.outcome import conclude
from fivestage.core.plan import Plan
from fivestage.core.records import NOT_FROM_KAFKA
from fivestage.core.trail import RunningStage, StageRun, Trail
from fivestage.errors import NodeError, NoNodeError
from fivestage.nodes.decision import intent_of, same_intent
from fivestage.threads import ThreadPool
from fivestage_schemas import Outcome, PipelineResult, QueryEvent, StageResult, StageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from fivestage.bounded import StepMonitor
    from fivestage.core.advice import StageAdvice
    from fivestage.core.deadline import StageGrant
    from fivestage.core.plan import StageSpec
    from fivestage.node import Handler

DEFAULT_THREADS = 8


class Orchestrator:
    """Takes queries through the stages of an app.

    Args:
        app: Stages and nodes; the built-in ones when absent.
        plan: Limits and criticality; the defaults of ``Plan.of()`` when absent.
        threads: How many blocking (``def``) stages and nodes may run at a time.
        max_data_bytes: What stages return is left out of the results where it takes more as JSON.

    Example:
        >>> result = await Orchestrator().process_query("What is 15 + 7?")  # doctest: +SKIP
        >>> result.answer  # doctest: +SKIP
        22
    """

    def __init__(
        self,
        app: Pipeline | None = None,
        *,
        plan: Plan | None = None,
        threads: int = DEFAULT_THREADS,
        max_data_bytes: int | None = None,
    ) -> None:
        self.app = app or Pipeline()
        self.plan = plan or Plan.of()
        self.threads = ThreadPool(threads)
        self._max_data_bytes = max_data_bytes
        self._left_out = b"" if max_data_bytes is None else b'"%b"' % (b" " * max_data_bytes)
        """Stands for an answer that was too large to keep; the encoder refuses it for its size."""

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
        task = asyncio.ensure_future(self.run(job, job.trail))
        try:
            await asyncio.wait({task}, timeout=total_s)
        finally:
            job.end()
            leave_behind(task)
        conclusion = conclude(job.trail, job.plan, started_at=now, ends_at=job.ends_at, now=loop.time())
        stages = [stage_json(envelope, run) for run in conclusion.runs]
        return PipelineResult.model_validate_json(result_json(envelope, conclusion, stages))

    async def run(self, job: Job, trail: Trail, monitor: StepMonitor | None = None) -> None:
        """Run the stages of *job* that have not ended; stop at a critical one that fails.

        Args:
            job: The query.
            trail: What has ended, and where to write what happens. The job gets another one when it is moved,
                and this run then has nothing more to say.
            monitor: Told whose code has control.

        Raises:
            asyncio.CancelledError: the job was cancelled from outside; its trail stands as it is.
        """
        if any(run.spec.critical and not run.success for run in trail.runs):
            return  # it was moved after its end
        ctx = self._context(job, trail)
        for spec in job.plan.stages[len(trail.runs) :]:
            if trail.closed:  # a stage swallowed the cancellation
                return
            ctx.stage_type = spec.stage_type
            ctx.attempt = trail.attempt
            stage = _Stage(job, trail, ctx, spec, monitor)
            if spec.stage_type is StageType.PROCESSING:
                run = await self._process(stage)
            else:
                run = await self._attempt(stage, None)
            trail.finish(run)
            if spec.critical and not run.success:
                return

    def _context(self, job: Job, trail: Trail) -> StageContext:
        """What the stages see; for a job that was moved, with what its stages have returned so far."""
        clock = asyncio.get_running_loop().time
        ctx = StageContext(job.query.lane, job.ends_at, clock, StageType.INTENT, self.threads, job.advice)
        for run in trail.runs:
            if run.success and run.data_json is not None:
                ctx.stage_type = run.spec.stage_type
                _show(ctx, json.loads(run.data_json))  # unlike orjson it reads integers of any size
                ctx.node = run.node or ctx.node
        return ctx

    async def _process(self, stage: _Stage) -> StageRun:
        """Call the chosen node; while one fails and there is time for the next, call that."""
        trail, ctx = stage.trail, stage.ctx
        while True:
            node = self._next_node(stage)
            if node is None:
                return trail.superseded[-1] if trail.superseded else self._refused(stage)
            ctx.node = node
            run = await self._attempt(stage, node)
            if run.success or run.outcome is Outcome.SKIPPED or trail.closed:
                return run
            trail.fail_over(run)
            ctx.attempt = trail.attempt

    def _next_node(self, stage: _Stage) -> str | None:
        """The node to call now: decision's choice, else the best of those that take the same intent.

        After a failure the remaining time must cover what the next one is known to take.
        """
        ctx, advice = stage.ctx, stage.job.advice
        chosen = ctx.results.get(StageType.DECISION)
        failed = [run.node for run in stage.trail.superseded]
        if not failed and (chosen is None or advice.lets(chosen)):
            return chosen or ""
        intent = intent_of(ctx.results.get(StageType.INTENT))
        others = [name for name in same_intent(self.app.nodes, intent, chosen) if name not in failed]
        left_s = stage.grant(ctx.clock()).seconds
        default_s = stage.advice.need_s or stage.advice.limit_s
        for name in advice.rank(others):
            p95_s = advice.node(name).p95_s
            needed_s = default_s if p95_s is None else min(p95_s, stage.advice.limit_s)
            if not failed or left_s >= needed_s:
                return name
        return None

    def _refused(self, stage: _Stage) -> StageRun:
        """No node may be called: the breaker of the chosen one is open and nobody stands in for it."""
        node = str(stage.ctx.results.get(StageType.DECISION))
        stuck = node in stage.job.advice.stuck
        why = "too many of its calls have not come back" if stuck else "its breaker is open"
        error_type = "node_stuck" if stuck else "breaker_open"
        text = f"node {node!r} is not called: {why}"
        return StageRun(stage.spec, Outcome.ERROR, error=text, error_type=error_type, node=node)

    async def _attempt(self, stage: _Stage, node: str | None) -> StageRun:
        """Call the stage's function once, within what it is granted."""
        job, ctx, spec = stage.job, stage.ctx, stage.spec
        started_at = ctx.clock()
        grant = stage.grant(started_at)
        if grant.refused is not None:
            return StageRun(spec, Outcome.SKIPPED, error=grant.refused, error_type="skipped")
        ctx.stage_deadline = started_at + grant.seconds
        probe = node is not None and job.advice.take_probe(node)
        attempt, name = ctx.attempt, node or None
        stage.trail.start(RunningStage(spec, started_at, grant.seconds, name, attempt, probe))
        ending = await bounded(
            self._call(job.query, ctx),
            ctx.stage_deadline,
            clock=ctx.clock,
            given_up=lambda: stage.trail.closed,
            number=job.number,
            monitor=stage.monitor,
            max_bytes=self._max_data_bytes,
            latest=job.ends_at,
        )
        if ending.outcome is Outcome.SUCCESS:
            ending = self._taken_over(stage.trail, ctx, ending)
        return StageRun(
            spec,
            ending.outcome,
            ending.data_json,
            ending.error,
            ending.error_type,
            name,
            attempt,
            started_at,
            ending.duration_s,
            grant.seconds + ending.extended_s,
            probe,
        )

    async def _call(self, query: Query, ctx: StageContext) -> Any:
        """Call the stage's function the way it must be called."""
        handler = self._handler(ctx)
        if handler.is_async:
            data = await handler.call(query, ctx)
        else:
            data = await ctx.run_sync(handler.call, query, ctx)
            if asyncio.iscoroutine(data):
                data = await data
        if ctx.stage_type is StageType.DECISION:
            self._check_decision(data)
        return data

    def _taken_over(self, trail: Trail, ctx: StageContext, ending: Ending) -> Ending:
        """Let the later stages see what this one returned; if looking at it raises, the stage has failed."""
        try:
            self._take_over(trail, ctx, ending)
        except BaseException as raised:  # noqa: BLE001 - the data may be of a class of the user's own
            return Ending.of_error(raised, ending.duration_s)
        return ending

    def _take_over(self, trail: Trail, ctx: StageContext, ending: Ending) -> None:
        _show(ctx, ending.data)
        if ctx.stage_type is StageType.PROCESSING:
            trail.confidence = ctx.confidence
            trail.answer_json = limited_json(ctx.answer, self._max_data_bytes) or self._left_out

    def _handler(self, ctx: StageContext) -> Handler:
        if ctx.stage_type is not StageType.PROCESSING:
            return self.app.stage(ctx.stage_type)
        if not ctx.node:
            raise NoNodeError("the decision stage chose no node")
        return self.app.find_node(ctx.node).handler

    def _check_decision(self, data: Any) -> None:
        if not isinstance(data, str):
            raise NodeError(f"the decision stage must return a node's name, got {type(data).__name__}")
        self.app.find_node(data)


class _Stage(NamedTuple):
    """One stage of one job, under way."""

    job: Job
    trail: Trail
    ctx: StageContext
    spec: StageSpec
    monitor: StepMonitor | None

    @property
    def advice(self) -> StageAdvice:
        """What is known of the stage."""
        return self.job.advice.stages[self.spec.sequence]

    def grant(self, now: float) -> StageGrant:
        """What the stage may take from *now* on."""
        return stage_grant(self.spec, self.advice, now=now, ends_at=self.job.ends_at)


def _show(ctx: StageContext, data: Any) -> None:
    """Let the later stages see what this one returned."""
    match ctx.stage_type:
        case StageType.DECISION:
            ctx.node = data
        case StageType.PROCESSING:
            ctx.answer, ctx.confidence = answer_of(data)
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
