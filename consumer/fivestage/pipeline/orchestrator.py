"""Runs queries through the stages of an app, for an executor or directly, without Kafka."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any, Self

from fivestage._asyncio import wait_at_most
from fivestage.core.codec.data_json import as_json
from fivestage.core.codec.encode import Encoder
from fivestage.core.codec.event_json import Envelope, EventJson
from fivestage.core.deadline import DEADLINE_HEADER
from fivestage.core.job import Job
from fivestage.core.outcome import conclude
from fivestage.core.plan import Plan
from fivestage.core.records import NOT_FROM_KAFKA, Output
from fivestage.core.stage_run import StageRun
from fivestage.errors import ResourceError
from fivestage.pipeline.bounded_call import as_coroutine
from fivestage.pipeline.bounds import Bounds
from fivestage.pipeline.call_result import CallResult
from fivestage.pipeline.context import Query
from fivestage.pipeline.job_calls import Shared
from fivestage.pipeline.node_capacity import NodeCapacities
from fivestage.pipeline.node_settings import NodeSettings
from fivestage.pipeline.pipeline import Pipeline
from fivestage.pipeline.resource_manager import ResourceManager
from fivestage.pipeline.stage_results import DataLimit
from fivestage.pipeline.stage_runner import StageRunner
from fivestage.pipeline.thread_pool import ThreadPool
from fivestage_schemas import PipelineResult, QueryEvent, StageResult, StageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.stage_history import StageHistory
    from fivestage.pipeline.node_settings import Tables
    from fivestage.pipeline.resource_manager import Scope
    from fivestage.pipeline.step_monitor import StepMonitor

DEFAULT_THREADS = 8
DEFAULT_START_TIMEOUT_MS = 60_000


class Orchestrator:
    """Runs queries through the stages of an app.

    Reads no file and no variable of the environment. ``nodes=Settings.load(path).for_nodes(app)`` gives nodes
    the settings that the service would give them.

    Args:
        app: Stages and nodes; ``Pipeline()``, the built-in ones, if None.
        plan: Time limits, and which stages are critical; ``Plan.of()`` if None.
        threads: How many blocking (``def``) stages and nodes may run at a time.
        max_data_bytes: Data of a stage that takes more bytes as JSON is left out of the stage's result, with
            ``error_type`` ``result_too_large``; a query whose event takes more ends as an error. None = no
            limit.
        start_timeout_ms: Milliseconds that the app's resources may take to open.
        nodes: The settings of nodes and resources: for each name a mapping, or an instance of its model.
        deadline_header: The header of ``ctx.headers()`` with the time that is left; empty = none.

    Raises:
        ConfigurationError: *nodes* has an unknown name, or does not fit the models of the app's nodes.

    Example:
        >>> result = await Orchestrator().process_query("What is 15 + 7?")  # doctest: +SKIP
        >>> result.answer  # doctest: +SKIP
        22

    An app with resources needs ``async with``, which opens the resources on the running loop, closes them
    there, and raises ResourceError if one cannot be opened; none is tried twice. An ``async with`` within
    that of the same orchestrator raises RuntimeError.

        >>> async with Orchestrator(app) as orchestrator:  # doctest: +SKIP
        ...     result = await orchestrator.process_query("What is 15 + 7?")
    """

    def __init__(
        self,
        app: Pipeline | None = None,
        *,
        plan: Plan | None = None,
        threads: int = DEFAULT_THREADS,
        max_data_bytes: int | None = None,
        start_timeout_ms: int = DEFAULT_START_TIMEOUT_MS,
        nodes: NodeSettings | Tables | None = None,
        deadline_header: str = DEADLINE_HEADER,
    ) -> None:
        self.app = app or Pipeline()
        self.plan = plan or Plan.of()
        self.threads = ThreadPool(threads)
        settings = nodes if isinstance(nodes, NodeSettings) else NodeSettings.of(self.app, nodes)
        self.resources = ResourceManager(
            self.app.resources, start_timeout_s=start_timeout_ms / 1000, settings=settings
        )
        """Opened by ``async with``, or by the executor that runs jobs."""
        self._scope: Scope | None = None
        self._max_event_bytes = max_data_bytes
        limit = DataLimit.of(max_data_bytes)
        capacities = NodeCapacities()
        self.hedges = capacities.hedges
        """Has the calls that were overtaken and run on."""
        self._shared = Shared(self.app, self.threads, self.resources, limit, deadline_header, capacities)

    def __repr__(self) -> str:
        return f"<Orchestrator {self.app} {self.threads}>"

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise RuntimeError("this Orchestrator is in an `async with` already; make one for each")
        self._scope = await self.resources.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            await scope.close()

    async def process_query(
        self,
        user_input: str,
        *,
        query_id: str | None = None,
        lane: str = "prod",
        context: Mapping[str, Any] | None = None,
        budget_ms: int | None = None,
        allow_partial: bool | None = None,
    ) -> PipelineResult:
        """Answer one query without Kafka.

        Returns at the deadline at the latest: a stage that ignores its cancellation is left behind. The wait
        for a free thread counts as the query's time. What a stage raises is in the result, not raised.

        Args:
            user_input: The question.
            query_id: Its id, 1 to 128 characters of ``A-Za-z0-9._:-``; a random UUID if None.
            lane: The lane, for ``ctx.lane`` and the events.
            context: A JSON object for ``query.context``.
            budget_ms: Milliseconds that the query may take, at most the plan's total.
            allow_partial: Whether it may succeed with an answer that its node offered before its limit; if
                None, as the plan says.

        Returns:
            What the service would publish: ``answer``, ``status``, the stages' results and so on.

        Raises:
            ValueError: an argument is not what a QueryEvent may have.
            ResourceError: the app's resources are not open on the running loop.

        Example:
            >>> import asyncio
            >>> result = asyncio.run(Orchestrator().process_query("What is 15 + 7?"))
            >>> result.answer, result.node, result.validated
            (22, 'math', True)
        """
        if self.app.resources and (missing := self.resources.missing()):
            raise ResourceError(
                f"resources that are not open here: {', '.join(missing)}; ask within `async with "
                "Orchestrator(app) as orchestrator:`, or replace them with app.override"
            )
        query_id = query_id or str(uuid.uuid4())
        event = QueryEvent(
            query_id=query_id,
            user_input=user_input,
            lane=lane,
            budget_ms=budget_ms,
            context=context,
            allow_partial=allow_partial,
        )
        loop = asyncio.get_running_loop()
        now = loop.time()
        total_s = self.plan.total_s if budget_ms is None else min(self.plan.total_s, budget_ms / 1000)
        # A copy, as from Kafka: no query may see another's changes.
        query = Query(query_id, user_input, lane, _copied(event.context) if event.context else {})
        ends_at, allowed = now + total_s, event.allow_partial
        job = Job(query, self.plan, started_at=now, ends_at=ends_at, due_at=ends_at, allow_partial=allowed)
        envelope = Envelope(NOT_FROM_KAFKA, query.query_id, lane, started_wall=time.time(), started_at=now)
        try:
            await wait_at_most(total_s, self.run(job, job.history))
        finally:
            job.end()
        outcome = conclude(job.history, job.plan, started_at=now, ends_at=job.ends_at, now=loop.time())
        return PipelineResult.model_validate_json(self._event(envelope, outcome))

    def _event(self, envelope: Envelope, outcome: QueryOutcome) -> bytes:
        """Return the terminal event; one that would be too large is what the service publishes instead."""
        if self._max_event_bytes is None:
            events = EventJson(envelope)
            return events.result(outcome, [events.stage(run, outcome.earlier) for run in outcome.runs])
        size = self._max_event_bytes
        encoder = Encoder(source="local", max_record_bytes=size, max_dead_letter_bytes=size)
        records, _ = encoder.concluded(envelope, outcome)
        return next(record.value or b"" for record in records if record.output is Output.RESULTS)

    async def run(self, job: Job, history: StageHistory, monitor: StepMonitor | None = None) -> None:
        """Run the stages of *job* that have not ended; stop after one that ends the query.

        Args:
            job: The query.
            history: The stages that have ended; gets the others as they end. When the job is moved to another
                executor the job gets a new history, and this one is closed.
            monitor: Shows the executor whose code has control of the loop.

        Raises:
            asyncio.CancelledError: the job was cancelled from outside; its history stays as it is.
        """
        if not any(run.ends_query for run in history.runs):  # else the job was moved after that
            runner = StageRunner(self._shared, job, history, monitor)
            try:
                await runner.run()
            finally:
                runner.close()


async def run_with_timeout(
    coro: Awaitable[Any], stage_type: StageType, timeout_sec: float | None = None
) -> StageResult:
    """Run one coroutine as a stage, within a time limit.

    Args:
        coro: The coroutine, or another awaitable. If it ignores its cancellation, it is left behind.
        stage_type: The stage that the result names.
        timeout_sec: The limit in seconds; the stage's default if None.

    Returns:
        The stage's result: ``outcome`` is ``success`` with ``data`` (JSON), ``timeout``, or ``error`` with
        ``error`` and ``error_type``.

    Raises:
        asyncio.CancelledError: the caller was cancelled. What *coro* raises is not raised.

    Example:
        >>> import asyncio
        >>> async def answer():
        ...     return {"answer": 22}
        >>> asyncio.run(run_with_timeout(answer(), StageType.PROCESSING, 0.1)).data
        {'answer': 22}
    """
    spec = Plan.of().stages[list(StageType).index(stage_type)]
    limit_s = spec.limit_s if timeout_sec is None else timeout_sec
    clock = asyncio.get_running_loop().time
    started_at = clock()
    bounds = Bounds(lambda: True)
    try:
        task = await wait_at_most(limit_s, bounds.run(as_coroutine(coro), started_at + limit_s))
    finally:
        bounds.close()
    if task.cancelled():  # by what *coro* awaited: the caller was not
        result = CallResult.of_error(asyncio.CancelledError(), clock() - started_at)
    else:
        result = task.result() if task.done() else CallResult.of_timeout(limit_s, clock() - started_at)
    run = StageRun(
        spec,
        result.outcome,
        result.data_json,
        result.error,
        result.error_type,
        started_at=started_at,
        duration_s=result.duration_s,
        granted_s=limit_s,
    )
    envelope = Envelope(NOT_FROM_KAFKA, "local", "prod", started_wall=time.time(), started_at=clock())
    return StageResult.model_validate_json(EventJson(envelope).stage(run))


def _copied(context: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a query's context, as from Kafka: no query may see what another one changed in it."""
    try:
        copied: dict[str, Any] = as_json(context, None)[0]
    except TypeError as error:
        raise ValueError(f"context: {error}") from None
    return copied
