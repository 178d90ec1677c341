"""Calls the functions of a job's stages, each until its limit, and makes the run of each call."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.codec.data_json import as_json, limited_json
from fivestage.core.codec.jsonable import type_name
from fivestage.core.deadline import stage_grant
from fivestage.core.stage_run import StageRun
from fivestage.errors import NodeError
from fivestage.pipeline.bounds import Bounds
from fivestage.pipeline.call_result import NODE_BUSY, CallResult
from fivestage.pipeline.context import OpenResources, StageContext
from fivestage.pipeline.current_span import enter_query
from fivestage.pipeline.failure_log import failure_log
from fivestage.pipeline.node_capacity import NodeCapacities
from fivestage.pipeline.pipeline import Pipeline
from fivestage.pipeline.running_call import name_calls
from fivestage.pipeline.stage_call import place_of
from fivestage.pipeline.stage_results import DataLimit, check_intent, record, record_offer
from fivestage.pipeline.thread_pool import ThreadPool
from fivestage.pipeline.waiting_calls import Times
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from fivestage.core.job import Job
    from fivestage.core.plan import StageSpec
    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import RunningStage
    from fivestage.pipeline.node import Node
    from fivestage.pipeline.step_monitor import StepMonitor

    Attempted = StageRun | Coroutine[Any, Any, StageRun]
    """The run of a stage, or a coroutine that returns the run."""

_SUCCESS: Final = Outcome.SUCCESS
_ERROR: Final = Outcome.ERROR
_INTENT: Final = StageType.INTENT
_DECISION: Final = StageType.DECISION
_PROCESSING: Final = StageType.PROCESSING
_VALIDATION: Final = StageType.VALIDATION


class Shared(NamedTuple):
    """What all jobs of an ``Orchestrator`` share."""

    app: Pipeline
    """Stages and nodes."""
    threads: ThreadPool
    """Runs ``def`` stages and nodes."""
    resources: OpenResources
    """What stages and nodes get by ``ctx.use``."""
    limit: DataLimit
    """The largest data that a stage may return."""
    deadline_header: str
    """See ``StageContext.headers``."""
    capacities: NodeCapacities
    """What the calls of each node share."""


class JobCalls:
    """Calls the functions of the stages of one job, and makes the run of each call that has ended.

    Args:
        shared: What all jobs share.
        job: The query.
        history: Gets the stages as they start and end.
        monitor: Shows the executor whose code has control of the loop.
    """

    __slots__ = (
        "_app", "_bounds", "_capacities", "_clock", "_ctx", "_history", "_job", "_limit", "_node",
        "_retriable", "_retry_after_s", "_threads", "_times", "_traced", "_trial_s", "_waited_s",
    )  # fmt: skip

    def __init__(self, shared: Shared, job: Job, history: StageHistory, monitor: StepMonitor | None) -> None:
        self._app, self._threads, resources, self._limit, deadline_header, self._capacities = shared
        self._job, self._history = job, history
        self._node: Node | None = None
        """The node to call; None outside of processing, and for a name that is not registered."""
        self._trial_s = self._waited_s = 0.0
        """Seconds that the next call may take if it is a trial, else 0.0; and those that it has waited."""
        self._retriable = False
        """The last call raised an exception after which it may be made again."""
        self._retry_after_s = 0.0
        """Seconds that this exception asks to wait before that."""
        self._traced = enter_query(job.trace)
        started_at, ends_at = history.times or (job.started_at, job.ends_at)
        self._times = Times(started_at, ends_at, job.due_at)
        self._bounds = Bounds(
            lambda: history.closed,
            number=job.number,
            monitor=monitor,
            max_bytes=self._limit.max_bytes,
            latest=ends_at,
        )
        self._clock = self._bounds.clock
        ctx = StageContext(job.query.lane, ends_at, self._clock, _INTENT, self._threads, job.routing)
        ctx.resources, ctx.deadline_header = resources, deadline_header
        ctx.max_data_bytes, ctx.on_offer = self._limit.max_bytes, history.on_offer
        self._ctx = ctx
        for run in history.runs:  # the job was moved: later stages need what earlier ones returned elsewhere
            if run.success and run.data_json is not None:
                ctx.stage_type = run.spec.stage_type
                record(ctx, json.loads(run.data_json))  # unlike orjson it reads integers of any size
                ctx.node = run.node or ctx.node
            elif run.partial and history.offer is not None:
                record_offer(ctx, history.offer)
            if run.verdict is not None:
                ctx.validated = run.verdict

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._job}>"

    def close(self) -> None:
        """No call follows."""
        self._bounds.close()

    def _separate(self) -> None:
        """Give the next attempt a context of its own: what an abandoned call still offers has no effect."""
        attempt, results = self._history.attempt, self._results()
        self._ctx = replace(self._ctx, attempt=attempt, last_offer=None, results=results)
        name_calls(self._job.query, self._ctx)

    def _results(self) -> dict[str, Any]:
        """What stages have returned, for a further attempt: another may have changed its own copy."""
        results = dict(self._ctx.results)
        for run in self._history.runs:
            if run.success and run.data_json is not None:
                results[run.spec.stage_type] = json.loads(run.data_json)
        return results

    def _grant(self, spec: StageSpec) -> tuple[float, str | None]:
        """Seconds that a call may take now, and the reason not to make it, if there is one."""
        stage, ends_at = self._job.routing.stages[spec.sequence], self._times.ends_at
        allow_partial = self._job.allow_partial
        return stage_grant(spec, stage, now=self._clock(), ends_at=ends_at, allow_partial=allow_partial)

    def _granted(self, node: str, granted_s: float) -> tuple[float, bool, bool]:
        """Seconds that a node's call may take, and whether it is a probe, and capped: see ``StageRun``."""
        routing = self._job.routing
        probe = routing.take_probe(node)
        if self._trial_s:
            granted_s, self._trial_s = min(granted_s, self._trial_s), 0.0
            probe = probe or routing.node(node).state is not BreakerState.CLOSED
        declared = self._node
        if declared is not None and declared.rules is not None and declared.rules.timeout_s <= granted_s:
            return declared.rules.timeout_s, probe, True
        return granted_s, probe, False

    def _run_call(self, running: RunningStage, call: Coroutine[Any, Any, Any], ends_at: float) -> Attempted:
        """Run the coroutine of a stage until *ends_at*."""
        spec, bounds = running.spec, self._bounds
        bounds.check = self._check_decision if spec.stage_type is _DECISION else None
        result = bounds.start(call, running.started_at, ends_at)
        return self._ended(running, result) if isinstance(result, CallResult) else self._wait(running, result)

    async def _wait(self, running: RunningStage, rest: Coroutine[Any, Any, CallResult]) -> StageRun:
        return self._ended(running, await rest)

    def _ended(self, running: RunningStage, result: CallResult) -> StageRun:
        """Make the run of an attempt that has ended; the later stages see the data of a success."""
        if result.outcome is _SUCCESS:
            result = self._recorded(result)
        failed = result.outcome is _ERROR and not self._history.closed and result.error_type != NODE_BUSY
        self._retriable, self._retry_after_s = result.retriable, result.retry_after_s
        verdict, error = None, result.error
        if running.spec.stage_type is _VALIDATION:
            verdict = self._ctx.validated
            error = self._ctx.rejection if verdict is False and error is None else error
        where = self._log(running, result) if failed else None
        return StageRun(
            running.spec, result.outcome, result.data_json, error, result.error_type, running.node,
            running.attempt, running.started_at, result.duration_s, running.granted_s + result.extended_s,
            running.probe, verdict, result.excused, running.waited_s, where,
            counted=running.counted and result.error_type != NODE_BUSY,  # else the node was not called
            capped=running.capped, keeps_offer=result.keeps_offer,
            hedge=running.hedge,
        )  # fmt: skip

    def _recorded(self, result: CallResult) -> CallResult:
        """Put the data where the later stages see it; if reading the data raises, the stage has failed."""
        ctx = self._ctx
        try:
            if ctx.stage_type is _INTENT and not self._app.has_own(_DECISION):
                check_intent(result.data)
            record(ctx, result.data)
            if ctx.stage_type is _PROCESSING:
                self._history.confidence = ctx.confidence
                if result.data_json is None:  # it is too large, and as the author returned it
                    ctx.answer, answer_json = as_json(ctx.answer, self._limit.max_bytes)
                else:
                    answer_json = limited_json(ctx.answer, self._limit.max_bytes)
                self._history.answer_json = answer_json or self._limit.left_out
        except BaseException as raised:  # noqa: BLE001 - the class of the data may be the author's
            failed = CallResult.of_error(raised, result.duration_s)
            failed.extended_s = result.extended_s
            return failed
        return result

    def _log(self, running: RunningStage, result: CallResult) -> str:
        declared = place_of(self._app, self._ctx)
        stage, query_id = str(running.spec.stage_type), self._job.query.query_id
        return failure_log.write(result, node=running.node, stage=stage, query_id=query_id, declared=declared)

    def _check_decision(self, data: Any) -> None:
        if not isinstance(data, str):
            raise NodeError(f"the decision stage must return a node's name, got {type_name(data)}")
        self._app.find_node(data)
