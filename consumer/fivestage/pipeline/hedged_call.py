"""Hedges the calls of nodes: calls a second node beside one that is slow, and takes the first answer.

``core.hedge`` decides when, and which nodes may be called. The calls run in tasks of their own, which only
make results; the task of the job waits for them, and writes the history.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, Final

from fivestage._asyncio import cancel_once
from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.hedge import candidates
from fivestage.core.outcome import CLOCK_SLACK_S
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage.pipeline.call_result import CallResult
from fivestage.pipeline.call_slots import running_slot
from fivestage.pipeline.current_span import enter_call
from fivestage.pipeline.node_calls import NodeCalls
from fivestage.pipeline.node_choice import alternatives
from fivestage.pipeline.running_call import name_calls
from fivestage.pipeline.stage_call import coroutine_of
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from fivestage.core.plan import StageSpec
    from fivestage.pipeline.bounds import Bounds
    from fivestage.pipeline.call_slots import Slot
    from fivestage.pipeline.context import StageContext
    from fivestage.pipeline.node import Node

_CLOSED: Final = BreakerState.CLOSED
_SUCCESS: Final = Outcome.SUCCESS
_SKIPPED: Final = Outcome.SKIPPED


class Flight:
    """A call in flight.

    Attributes:
        node: What is called.
        ctx: What it is called with.
        running: Its entry in the history.
        task: Runs it.
        given_up: It was cancelled from outside, so its limit must not cancel it again.
    """

    __slots__ = ("ctx", "given_up", "node", "running", "task")

    def __init__(self, node: Node, ctx: StageContext, running: RunningStage) -> None:
        self.node = node
        self.ctx = ctx
        self.running = running
        self.task: Any = None
        self.given_up = False

    def __repr__(self) -> str:
        return f"<Flight {self.ctx.node} {self.running}>"

    @property
    def result(self) -> CallResult | None:
        """Its result; None while it runs."""
        if not self.task.done():
            return None
        if self.task.cancelled():  # by other code, before its first step
            return CallResult.of_error(asyncio.CancelledError("its task was cancelled"))
        result: CallResult = self.task.result()
        return result

    def cancel(self) -> None:
        """Cancel it; if that has happened already, again after the time to clean up."""
        self.given_up = True
        cancel_once(self.task)


class HedgedCalls(NodeCalls):
    """Calls the nodes of one job, and hedges the calls of those that are idempotent."""

    __slots__ = ()

    async def _now(self, spec: StageSpec, name: str) -> StageRun:
        """Call a node, and hedge the call if that is allowed and its usual time is known."""
        routing, node = self._job.routing, self._node
        if not routing.max_extra_load or node is None or not is_hedgeable(node):
            return await super()._now(spec, name)
        self._count_call(name)
        known = routing.node(name)
        if known.hedge_after_s is None or self._trial_s or known.state is not _CLOSED:
            return await super()._now(spec, name)  # trials and probes decide alone
        run = await self._hedged(spec, node, known.hedge_after_s)
        self._waited_s = 0.0
        return run

    def _count_call(self, name: str) -> None:
        """Let the first call for a query fill the budget of its node; a retry or a failover uses it up."""
        superseded, now = self._history.superseded, self._clock()
        first = next((run.node for run in superseded if not run.hedge), None)
        budget = self._capacities.hedges.budget(first or name, self._job.routing.max_extra_load, now)
        if first is not None:
            budget.owe(now)
        else:
            budget.called(now)

    async def _hedged(self, spec: StageSpec, node: Node, after_s: float) -> StageRun:
        """Call a node, and another one beside it once it is slow; return the run that decides.

        That is the first success, or else the last failure. When one of two fails, the next node is called
        at once.
        """
        granted_s, skipped = self._grant(spec)
        if skipped is not None:
            return self._skipped(spec, skipped, self._ctx.attempt)
        slot = running_slot.get()
        if slot is not None:
            slot.hold()
        first = self._launch(spec, node, self._ctx, granted_s, slot)
        flying, tried = [first], [first.ctx.node]
        wakes_at: float = first.running.started_at + after_s
        while True:
            await self._one_ended(flying, wakes_at)
            run = self._run_of_ended(flying)
            if run is not None and (not flying or run.success or run.excused):
                self._retriable = self._retriable and len(tried) == 1
                self._give_up(flying)
                return run
            if run is not None:
                self._history.drop(run)
            elif self._clock() < wakes_at - CLOCK_SLACK_S:  # other code has cancelled the wait
                continue
            wakes_at = inf
            if flying[0].result is None:  # the only one now
                self._launch_hedge(spec, first, flying, tried)

    async def _one_ended(self, flying: list[Flight], wakes_at: float) -> None:
        """Wait until one of the calls has ended, or until *wakes_at*.

        Raises:
            asyncio.CancelledError: the query has ended or was moved; the code of the running call has ended.
        """
        left_s = None if wakes_at == inf else max(0.0, wakes_at - self._clock())
        try:
            await asyncio.wait([one.task for one in flying], timeout=left_s, return_when="FIRST_COMPLETED")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not self._history.closed:  # by code that an earlier stage left running
                task.uncancel()
        if not self._history.closed:
            return
        for one in [one for one in flying if one.running is not self._history.running]:
            flying.remove(one)  # what runs on of this job is named after the running call only
            self._leave(one)
        while left := [one for one in flying if not one.task.done()]:
            for one in left:
                one.cancel()
            try:
                await asyncio.wait([one.task for one in left])
            except asyncio.CancelledError:  # once more, after the time to clean up
                continue
        raise asyncio.CancelledError

    def _run_of_ended(self, flying: list[Flight]) -> StageRun | None:
        """Take a call that has ended out of *flying*, and return its run.

        Of two, a failure comes first, so that it is counted; then a success, then a query without an answer.
        """
        results = [(one, one.result) for one in flying]
        ended = [(one, result) for one, result in results if result is not None]
        if not ended:
            return None
        one, result = min(ended, key=lambda pair: (pair[1].excused, pair[1].outcome is _SUCCESS))
        flying.remove(one)
        self._ctx, self._node = one.ctx, one.node
        name_calls(self._job.query, one.ctx)
        return self._ended(one.running, result)

    def _give_up(self, flying: list[Flight]) -> None:
        """Cancel the call that was overtaken, if there is one. Nothing waits for its end."""
        for one in flying:
            run = one.running.end(self._clock(), _SKIPPED)
            run.overtaken = True
            self._history.drop(run)
            self._leave(one)

    def _leave(self, one: Flight) -> None:
        """Cancel a call whose end nothing waits for."""
        if not one.task.done():
            one.cancel()
            self._capacities.hedges.leave(one.task, one.ctx.running)

    def _launch_hedge(
        self, spec: StageSpec, first: Flight, flying: list[Flight], tried: list[str | None]
    ) -> None:
        """Call the next node beside a slow one, if one has a free slot and the budget permits it."""
        app, routing, now = self._app, self._job.routing, self._clock()
        granted_s, skipped = self._grant(spec)
        if skipped is not None:
            return
        failed = [*tried, *[run.node for run in self._history.superseded]]
        names = [name for name in routing.rank(alternatives(app.nodes, first.ctx)) if name not in failed]
        for name in candidates(names, routing, left_s=granted_s):
            node = app.nodes[name]
            if not is_hedgeable(node):
                continue
            is_free, slot = self._free_slot(name, node)
            if not is_free:
                continue
            budget = self._capacities.hedges.budget(str(first.ctx.node), routing.max_extra_load, now)
            if budget.take(now):
                attempt = max(self._history.attempt, first.ctx.attempt + 1)
                ctx = replace(first.ctx, node=name, attempt=attempt, last_offer=None)
                ctx.results = self._results()
                tried.append(name)
                flying.append(self._launch(spec, node, ctx, granted_s, slot, first))
            elif slot is not None:
                slot.release()
            return

    def _free_slot(self, name: str, node: Node) -> tuple[bool, Slot | None]:
        """Whether a node may be called without waiting, and the slot that was taken if it has a limit."""
        slots = None if node.rules is None else self._capacities.of(name, node.rules, self._clock()).slots
        if slots is None:
            return True, None
        turn = slots.turn()
        if turn.slot is None:
            turn.end()
        return turn.slot is not None, turn.slot

    def _launch(
        self,
        spec: StageSpec,
        node: Node,
        ctx: StageContext,
        granted_s: float,
        slot: Slot | None,
        beside: Flight | None = None,
    ) -> Flight:
        """Start the call of a node; *beside* is the slow one if this is its hedge.

        The call releases *slot* when its code has ended.
        """
        now, rules = self._clock(), node.rules
        limit_s = inf if rules is None else rules.timeout_s
        running = RunningStage(spec, now, min(limit_s, granted_s), ctx.node, ctx.attempt)
        running.waited_s = self._waited_s if beside is None else now - beside.running.started_at
        running.capped, running.hedge, running.offers = limit_s <= granted_s, beside is not None, ctx
        ctx.stage_deadline = now + running.granted_s
        flight = Flight(node, ctx, running)
        bounds = self._bounds.beside(lambda: flight.given_up)
        bounds.excused = node.excused
        if beside is not None:
            self._history.start_hedge(running)
        else:
            bounds.retry_on = () if rules is None else rules.retry_on
            self._history.start(running)
        flight.task = task = asyncio.get_running_loop().create_task(self._call(flight, bounds, slot))
        if slot is not None:  # not in the task, whose code does not run if it is cancelled at once
            task.add_done_callback(lambda _: slot.release())
        return flight

    async def _call(self, flight: Flight, bounds: Bounds, slot: Slot | None) -> CallResult:
        """Run the code of a call until its limit, in a task of its own."""
        ctx, running, job = flight.ctx, flight.running, self._job
        running_slot.set(slot)
        name_calls(job.query, ctx)
        if self._traced is not None:
            enter_call(self._traced, running.spec.sequence, running.attempt)
        try:
            call = coroutine_of(self._app, self._threads, job, ctx, self._history, bounds)
        except BaseException as raised:  # noqa: BLE001 - the function is the author's
            return CallResult.of_error(raised, self._clock() - running.started_at)
        result = bounds.start(call, running.started_at, running.started_at + running.granted_s)
        if isinstance(result, CallResult):
            return result
        try:
            return await result
        finally:
            bounds.close()


def is_hedgeable(node: Node) -> bool:
    """Whether a node may be called beside another: an ``async def`` that does no harm when called twice."""
    return node.rules is not None and node.rules.idempotent and node.handler.is_async
