"""Makes attempts at a stage: calls its function within the time granted, after any wait for a thread."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final

from fivestage.core.deadline import stage_grant
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage.pipeline.bounds import FOREVER_S
from fivestage.pipeline.call_result import CallResult
from fivestage.pipeline.current_span import enter_call
from fivestage.pipeline.job_calls import JobCalls
from fivestage.pipeline.stage_call import coroutine_of, handler_of, needs_thread, outcome_of
from fivestage.pipeline.waiting_calls import Parked
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from fivestage.core.plan import StageSpec
    from fivestage.pipeline.job_calls import Attempted
    from fivestage.pipeline.waiting_calls import Start

RESUME_S: Final = 0.005
"""Least seconds that a stage gets to collect the outcome of a call that runs in a thread already."""
_SUCCESS: Final = Outcome.SUCCESS
_SKIPPED: Final = Outcome.SKIPPED
_ERROR: Final = Outcome.ERROR


class StageAttempts(JobCalls):
    """Makes attempts at the stages of one job, in the order that ``StageRunner`` decides."""

    __slots__ = ()

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
        now, job = self._clock(), self._job
        granted_s, skipped = stage_grant(  # as in _grant, without its call: each stage passes here
            spec,
            job.routing.stages[spec.sequence],
            now=now,
            ends_at=self._times.ends_at,
            allow_partial=job.allow_partial,
        )
        if skipped is not None:
            return self._skipped(spec, skipped, ctx.attempt)
        if self._traced is not None:
            enter_call(self._traced, spec.sequence, ctx.attempt)
        if self._threads.is_full and needs_thread(self._app, self._ctx):
            return self._wait_for_thread(self._park(spec, node, now))
        probe, counted, capped = False, True, False
        if node is not None:
            granted_s, probe, capped = self._granted(node, granted_s)
            counted = probe or node not in self._app.batch_nodes  # else its batch decides
        ctx.stage_deadline = ends_at = now + granted_s
        running = RunningStage(spec, now, granted_s, node or None, ctx.attempt, probe, self._waited_s)
        running.counted, running.capped, running.offers = counted, capped, None if node is None else ctx
        self._history.start(running)
        try:
            call = coroutine_of(self._app, self._threads, job, ctx, self._history, self._bounds)
        except BaseException as raised:  # there is no such node, or it takes other arguments
            if isinstance(raised, asyncio.CancelledError) and self._history.closed:
                raise
            return self._ended(running, CallResult.of_error(raised, self._clock() - now))
        return self._run_call(running, call, ends_at)

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
        self._history.resumed = None  # its call will never run
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

        rules = None if self._node is None or not node else self._node.rules
        most_s = inf if rules is None else rules.timeout_s
        parked = Parked(spec, routing.stages[spec.sequence], ctx, self._times, now, is_barred, most_s)
        parked.allow_partial = self._job.allow_partial
        waiting.parked, waiting.offers = parked, None if node is None else ctx
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
        # No limit, as the dispatcher ends queries that wait too long.
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
        granted_s, probe, capped = start.granted_s, False, False
        if node is not None:
            granted_s, probe, capped = self._granted(node, granted_s)
        waited_s = start.at - waiting.started_at + self._waited_s
        running = RunningStage(spec, start.at, granted_s, node, waiting.attempt, probe, waited_s)
        running.capped, running.call, running.offers = capped, waiting.call, waiting.offers
        return self._resume(running)
