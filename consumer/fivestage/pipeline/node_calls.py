"""Calls nodes that have rules: waits for one of a node's slots, and calls the node again after a failure."""

from __future__ import annotations

import asyncio
from random import random
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.stage_run import StageRun
from fivestage.pipeline.bounds import FOREVER_S
from fivestage.pipeline.call_slots import running_slot
from fivestage.pipeline.node_choice import fallback_node, needed_s
from fivestage.pipeline.stage_attempt import StageAttempts
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fivestage.core.plan import StageSpec
    from fivestage.pipeline.call_rules import CallRules
    from fivestage.pipeline.node_capacity import NodeCapacity

JITTER_S: Final = 0.01
"""The longest wait before a node is called again, so that the calls that failed together do not come again
together."""
_ERROR: Final = Outcome.ERROR


class NodeCalls(StageAttempts):
    """Calls the nodes of one job that have rules."""

    __slots__ = ()

    async def _call_by_rules(self, spec: StageSpec, name: str, rules: CallRules) -> StageRun:
        """Call a node, and again if it fails as its author expects; return the run of the last call."""
        history, on_trial = self._history, bool(self._trial_s)
        capacity = self._capacities.of(name, rules, self._clock())
        self._retriable, self._bounds.retry_on = False, rules.retry_on
        moved = None if history.resumed is None else self._continue_moved()
        if moved is not None:  # its call has a slot already
            run = moved if isinstance(moved, StageRun) else await moved
        else:
            run = await self._call_in_slot(spec, name, capacity)
            capacity.extra.called(self._clock())
        while self._retriable and not (run.success or run.probe or on_trial or history.closed):
            pause_s = self._retry_after_s + JITTER_S * random()  # noqa: S311 - no secret
            if not self._take_retry(spec, name, capacity, pause_s):
                break
            history.fail_over(run)
            self._separate()
            self._retriable, since = False, self._clock()
            await self._pause(asyncio.sleep(pause_s), pause_s + FOREVER_S)
            run = await self._call_in_slot(spec, name, capacity, self._clock() - since)
        return run

    def _take_retry(self, spec: StageSpec, name: str, capacity: NodeCapacity, pause_s: float) -> bool:
        """Take a retry of the node from its budget; False if the node may not be called again for this query.

        Where the failure asks for a wait, another node is called instead if there is one.
        """
        routing, now = self._job.routing, self._clock()
        called = sum(run.node == name for run in self._history.superseded) + 1
        left_s = self._times.ends_at - now - routing.stages[spec.sequence].reserve_s
        in_time = left_s - pause_s >= self._expected_s(name, capacity.rules)
        if self._retry_after_s and self._other_node(name, left_s) is not None:
            return False
        return (
            called <= capacity.rules.retries and in_time and routing.allows(name) and capacity.extra.take(now)
        )

    async def _call_in_slot(
        self, spec: StageSpec, name: str, capacity: NodeCapacity, waited_s: float = 0.0
    ) -> StageRun:
        """Call a node in one of its slots, which is free again when the code has really ended."""
        self._waited_s = waited_s
        if capacity.slots is None:
            return await self._now(spec, name)
        since, turn = self._clock(), capacity.slots.turn()
        try:
            if turn.slot is None:
                await self._pause(turn.wait(), self._patience_s(spec, name, capacity.rules))
                self._waited_s += self._clock() - since
            if turn.slot is None:
                return self._busy(spec, name, capacity.slots.limit)
            running_slot.set(turn.slot)
            return await self._now(spec, name)
        finally:
            self._waited_s = 0.0
            running_slot.set(None)
            turn.end()

    async def _now(self, spec: StageSpec, name: str) -> StageRun:
        """Call a node without a further wait for a slot. ``HedgedCalls`` overrides this."""
        attempted = self._attempt(spec, name)
        run = attempted if isinstance(attempted, StageRun) else await attempted
        self._waited_s = 0.0
        return run

    async def _pause(self, wait: Coroutine[Any, Any, None], most_s: float) -> None:
        """Await something of ours for at most *most_s* seconds, whatever code of the user's does to the task.

        Raises:
            asyncio.CancelledError: the query has ended, or was moved.
        """
        self._bounds.check = None
        await self._bounds.run(wait, self._clock() + most_s)
        if self._history.closed:
            raise asyncio.CancelledError

    def _patience_s(self, spec: StageSpec, name: str, rules: CallRules) -> float:
        """Seconds for which to wait for a slot: as long as this node, or another one, could still answer."""
        routing = self._job.routing
        left_s = self._times.ends_at - self._clock() - routing.stages[spec.sequence].reserve_s
        if (other := self._other_node(name, left_s)) is None:
            return max(0.0, left_s - self._expected_s(name, rules))
        return max(0.0, left_s - needed_s(self._app.nodes[other], other, routing))

    def _other_node(self, name: str, left_s: float) -> str | None:
        """The node that would be called if the one called *name* failed now; None without one."""
        failed = [name, *[run.node for run in self._history.superseded]]
        return fallback_node(self._app.nodes, self._job.routing, self._ctx, failed, left_s)

    def _expected_s(self, name: str, rules: CallRules) -> float:
        return min(self._job.routing.expected_s(name), rules.timeout_s)

    def _busy(self, spec: StageSpec, name: str, limit: int) -> StageRun:
        """The run of a node that is not called because its slots stayed taken."""
        self._trial_s = 0.0  # the next call is of another node
        text = f"node {name!r} is not called: {limit} calls of it run, its limit, and too little time is left"
        run = StageRun(spec, _ERROR, error=text, error_type="node_busy", node=name)
        run.attempt, run.waited_s = self._ctx.attempt, self._waited_s
        return run
