"""Makes attempts at a stage: calls its function within the time granted, after any wait for a thread."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.codec.data_json import as_json
from fivestage.core.deadline import stage_grant
from fivestage.core.stage_history import RunningStage, StageRun
from fivestage.errors import NodeError
from fivestage.pipeline.bounded_call import Bounds
from fivestage.pipeline.call_result import CallResult
from fivestage.pipeline.context import StageContext
from fivestage.pipeline.current_span import enter_call, enter_query
from fivestage.pipeline.failure_log import failure_log
from fivestage.pipeline.stage_call import coroutine_of, handler_of, needs_thread, outcome_of, place_of
from fivestage.pipeline.stage_results import record
from fivestage.pipeline.waiting_calls import Parked, Times
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fivestage.core.job import Job
    from fivestage.core.plan import StageSpec
    from fivestage.core.stage_history import StageHistory
    from fivestage.pipeline.context import OpenResources
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.pipeline.stage_results import DataLimit
    from fivestage.pipeline.step_monitor import StepMonitor
    from fivestage.pipeline.thread_pool import ThreadPool
    from fivestage.pipeline.waiting_calls import Start

    Attempted = StageRun | Coroutine[Any, Any, StageRun]
    """The run of a stage, or a coroutine that returns the run."""

RESUME_S: Final = 0.005
"""Least seconds that a stage gets to collect the outcome of a call that runs in a thread already."""
FOREVER_S: Final = 1e6
"""Seconds: a wait for a thread has no limit here, as the dispatcher ends queries that wait too long."""
_SUCCESS: Final = Outcome.SUCCESS
_SKIPPED: Final = Outcome.SKIPPED
_ERROR: Final = Outcome.ERROR
_INTENT: Final = StageType.INTENT
_DECISION: Final = StageType.DECISION
_PROCESSING: Final = StageType.PROCESSING
_VALIDATION: Final = StageType.VALIDATION


class StageAttempts:
    """Makes attempts at the stages of one job, in the order that ``StageRunner`` decides.

    Args:
        app: Stages and nodes.
        threads: Runs ``def`` stages and nodes.
        resources: What stages and nodes get by ``ctx.use``.
        job: The query.
        history: Gets the stages as they start and end.
        monitor: Shows the executor whose code has control of the loop.
        limit: The largest data that a stage may return.
        deadline_header: See ``StageContext.headers``.
    """

    __slots__ = (
        "_app", "_bounds", "_clock", "_ctx", "_history", "_job", "_limit", "_threads", "_times",
        "_traced", "_trial_s",
    )  # fmt: skip

    def __init__(
        self,
        app: Pipeline,
        threads: ThreadPool,
        resources: OpenResources,
        job: Job,
        history: StageHistory,
        monitor: StepMonitor | None,
        limit: DataLimit,
        deadline_header: str,
    ) -> None:
        self._app = app
        self._threads = threads
        self._job = job
        self._history = history
        self._limit = limit
        self._trial_s = 0.0
        """Seconds that the next call may take if it is a trial; else 0.0."""
        self._traced = enter_query(job.trace)
        self._times = Times(job.started_at, job.ends_at, job.due_at)
        self._bounds = Bounds(
            lambda: history.closed,
            number=job.number,
            monitor=monitor,
            max_bytes=limit.max_bytes,
            latest=job.ends_at,
        )
        self._clock = self._bounds.clock
        ctx = StageContext(job.query.lane, job.ends_at, self._clock, _INTENT, threads, job.routing)
        ctx.resources, ctx.deadline_header = resources, deadline_header
        self._ctx = ctx
        for run in history.runs:  # the job was moved: later stages need what earlier ones returned elsewhere
            if run.success and run.data_json is not None:
                ctx.stage_type = run.spec.stage_type
                record(ctx, json.loads(run.data_json))  # unlike orjson it reads integers of any size
                ctx.node = run.node or ctx.node
            if run.verdict is not None:
                ctx.validated = run.verdict

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._job}>"

    def _rejected(self, spec: StageSpec, node: str, attempt: int = 1) -> StageRun:
        """The run of a node that is not called: its breaker is open, or its calls do not come back."""
        error_type, text = self._job.routing.rejection(node)
        return StageRun(spec, _ERROR, error=text, error_type=error_type, node=node, attempt=attempt)

    def _skipped(self, spec: StageSpec, why: str, attempt: int) -> StageRun:
        """The run of a stage that is not worth starting."""
        return StageRun(spec, _SKIPPED, error=why, error_type="skipped", attempt=attempt)

    def _attempt(self, spec: StageSpec, node: str | None) -> Attempted:
        """Call the stage's function within the time granted, after any wait for a thread; or skip it."""
        ctx = self._ctx
        if self._history.resumed is not None and (moved := self._continue_moved()) is not None:
            return moved
        started_at = self._clock()
        granted_s, skipped = stage_grant(
            spec, self._job.routing.stages[spec.sequence], now=started_at, ends_at=self._times.ends_at
        )
        if skipped is not None:
            return self._skipped(spec, skipped, ctx.attempt)
        if self._traced is not None:
            enter_call(self._traced, spec.sequence, ctx.attempt)
        if self._threads.is_full and needs_thread(self._app, self._ctx):
            return self._wait_for_thread(self._park(spec, node, started_at))
        probe = False
        if node is not None:
            granted_s, probe = self._granted(node, granted_s)
        ctx.stage_deadline = ends_at = started_at + granted_s
        running = RunningStage(spec, started_at, granted_s, node or None, ctx.attempt, probe)
        self._history.start(running)
        try:
            call = coroutine_of(self._app, self._threads, self._job.query, ctx, self._history)
        except BaseException as raised:  # there is no such node, or it takes other arguments
            if isinstance(raised, asyncio.CancelledError) and self._history.closed:
                raise
            return self._ended(running, CallResult.of_error(raised, self._clock() - started_at))
        return self._run_call(running, call, ends_at)

    def _granted(self, node: str, granted_s: float) -> tuple[float, bool]:
        """Seconds that a node's call may take, and whether the outcome decides about the node's breaker."""
        routing = self._job.routing
        probe = routing.take_probe(node)
        if self._trial_s:
            granted_s, self._trial_s = min(granted_s, self._trial_s), 0.0
            probe = probe or routing.node(node).state is not BreakerState.CLOSED
        return granted_s, probe

    def _run_call(self, running: RunningStage, call: Coroutine[Any, Any, Any], ends_at: float) -> Attempted:
        """Run the coroutine of a stage until *ends_at*."""
        spec, node, bounds = running.spec, running.node, self._bounds
        bounds.check = self._check_decision if spec.stage_type is _DECISION else None
        bounds.excused = self._app.nodes[node].excused if node else ()
        result = bounds.start(call, running.started_at, ends_at)
        return self._ended(running, result) if isinstance(result, CallResult) else self._wait(running, result)

    def _resumed(self) -> RunningStage | None:
        """The attempt that ran in a thread, or waited for one, when the query was moved; None without one."""
        resumed = self._history.resumed
        return resumed if resumed is not None and self._history.awaits(resumed) else None

    def _continue_moved(self) -> Attempted | None:
        """Go on with the attempt from before the move; None if the stage must be started again."""
        resumed = self._resumed()
        if resumed is None:
            return None
        if resumed.call.adopt():
            return self._resume(resumed) if resumed.parked is None else self._wait_for_thread(resumed)
        if resumed.parked is None:
            self._history.moved.append(resumed)
        return None

    def _resume(self, running: RunningStage) -> Attempted:
        """Wait for a call that runs in a thread already."""
        ctx = self._ctx
        ctx.attempt = running.attempt
        if self._traced is not None:
            enter_call(self._traced, running.spec.sequence, running.attempt)
        ends_at = max(running.started_at + running.granted_s, self._clock() + RESUME_S)
        ctx.stage_deadline = ends_at = min(ends_at, self._times.ends_at)
        self._history.start(running)
        return self._run_call(running, outcome_of(running.call, running), ends_at)

    def _park(self, spec: StageSpec, node: str | None, now: float) -> RunningStage:
        """Queue the stage's call for a thread; the stage starts when a thread takes the call."""
        ctx = self._ctx
        waiting = RunningStage(spec, now, 0.0, node or None, ctx.attempt)
        routing, on_trial = self._job.routing, bool(self._trial_s)

        def is_barred() -> bool:
            """Whether other calls of the node have failed, or not come back, during the wait."""
            return bool(node) and not on_trial and not routing.allows(node or "")

        parked = Parked(spec, routing.stages[spec.sequence], ctx, self._times, now, is_barred)
        waiting.parked = parked
        waiting.call = parked.submit(self._threads, handler_of(self._app, self._ctx).call, self._job.query)
        return waiting

    async def _wait_for_thread(self, waiting: RunningStage) -> StageRun:
        """Wait for a thread, while the query's time stands still; then for the end of the stage's call."""
        job, history, bounds = self._job, self._history, self._bounds
        parked: Parked = waiting.parked
        self._ctx.attempt, bounds.check = waiting.attempt, None
        history.waiting = waiting
        if history.on_wait is not None:
            history.on_wait(job, history, None)
        now = self._clock()
        wait = bounds.start(parked.wait(waiting.call), now, now + FOREVER_S)
        result = wait if isinstance(wait, CallResult) else await wait
        if history.closed:  # the query was moved: its next runner waits for the same call
            raise asyncio.CancelledError
        start = parked.started()
        self._times = start.times
        self._ctx.deadline = bounds.latest = start.times.ends_at
        if history.on_wait is not None:
            history.on_wait(job, history, (start.times.started_at, start.times.ends_at))
        if result.outcome is not _SUCCESS:  # code that an earlier stage left running has cancelled the task
            return self._ended(waiting, result)
        attempted = self._start_waited(waiting, start)
        return attempted if isinstance(attempted, StageRun) else await attempted

    def _start_waited(self, waiting: RunningStage, start: Start) -> Attempted:
        spec, node = waiting.spec, waiting.node
        if start.barred and node is not None:
            return self._rejected(spec, node, waiting.attempt)
        if start.skipped is not None:
            return self._skipped(spec, start.skipped, waiting.attempt)
        granted_s, probe = start.granted_s, False
        if node is not None:
            granted_s, probe = self._granted(node, granted_s)
        waited_s = start.at - waiting.started_at
        running = RunningStage(spec, start.at, granted_s, node, waiting.attempt, probe, waited_s)
        running.call = waiting.call
        return self._resume(running)

    async def _wait(self, running: RunningStage, rest: Coroutine[Any, Any, CallResult]) -> StageRun:
        return self._ended(running, await rest)

    def _ended(self, running: RunningStage, result: CallResult) -> StageRun:
        """Make the run of an attempt that has ended; the later stages see the data of a success."""
        if result.outcome is _SUCCESS:
            result = self._recorded(result)
        failed = result.outcome is _ERROR and not self._history.closed
        return StageRun(
            running.spec,
            result.outcome,
            result.data_json,
            result.error,
            result.error_type,
            running.node,
            running.attempt,
            running.started_at,
            result.duration_s,
            running.granted_s + result.extended_s,
            running.probe,
            self._ctx.validated if running.spec.stage_type is _VALIDATION else None,
            result.excused,
            running.waited_s,
            self._log(running, result) if failed else None,
        )

    def _recorded(self, result: CallResult) -> CallResult:
        """Put the data where the later stages see it; if reading the data raises, the stage has failed."""
        ctx = self._ctx
        try:
            record(ctx, result.data)
            if ctx.stage_type is _PROCESSING:
                self._history.confidence = ctx.confidence
                ctx.answer, answer_json = as_json(ctx.answer, self._limit.max_bytes)
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
            raise NodeError(f"the decision stage must return a node's name, got {type(data).__name__}")
        self._app.find_node(data)
