"""Runs the stages of one query one after the other, each within its limit.

Runs where user code runs: on the loop of an executor. It only writes the query's history; ``core.outcome``
decides what the answer is, and whether the query succeeded.

What runs one job is one object. Its class is split into layers, so that each answers one question. From the
top, each a subclass of the next:

=============  =============  =========================================  =============================
layer          module         question                                   main methods
=============  =============  =========================================  =============================
StageRunner    stage_runner   Which stage is next, and which node?       run, _process, _next_node
HedgedCalls    hedged_call    Is another node called beside a slow one?  _now, _hedged
NodeCalls      node_calls     Is a slot free? Is the node called again?  _call_by_rules, _call_in_slot
StageAttempts  stage_attempt  Is the stage called, and for how long?     _attempt, _wait_for_thread
JobCalls       job_calls      What has the call come to?                 _run_call, _ended
=============  =============  =========================================  =============================

Calls go downward, with one exception: ``NodeCalls`` calls ``_now``, which ``HedgedCalls`` overrides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.core.outcome import CLOCK_SLACK_S
from fivestage.core.stage_run import StageRun
from fivestage.pipeline.hedged_call import HedgedCalls
from fivestage.pipeline.node_choice import fallback_node, start_trial
from fivestage.pipeline.running_call import name_calls
from fivestage.pipeline.stage_results import record_offer
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from fivestage.core.plan import StageSpec

_SKIPPED: Final = Outcome.SKIPPED
_DECISION: Final = StageType.DECISION
_PROCESSING: Final = StageType.PROCESSING


class StageRunner(HedgedCalls):
    """Runs those stages of one job that are not in its history yet."""

    __slots__ = ()

    async def run(self) -> None:
        """Run the stages up to the last one, or to one that ends the query."""
        ctx, history = self._ctx, self._history
        name_calls(self._job.query, ctx)
        for spec in self._job.plan.stages[len(history.runs) :]:
            if history.closed:  # a stage swallowed the cancellation
                return
            ctx.stage_type = spec.stage_type
            ctx.attempt = history.attempt
            if spec.stage_type is _PROCESSING:
                run = await self._process(spec)
                self._bounds.excused = ()
                ctx = self._ctx  # a later attempt has another one
            else:
                attempted = self._attempt(spec, None)
                run = attempted if isinstance(attempted, StageRun) else await attempted
            history.finish(run)
            if run.ends_query:
                return

    async def _process(self, spec: StageSpec) -> StageRun:
        """Call the chosen node; after a failure, call another while there is one and time for it."""
        history, nodes = self._history, self._app.nodes
        while True:
            ctx = self._ctx
            resumed = None if history.resumed is None else self._resumed()
            node = self._next_node(spec) if resumed is None else resumed.node or ""
            if node is None:
                if history.superseded:
                    return self._or_partial(history.superseded[-1])
                return self._rejected(spec, str(ctx.results.get(_DECISION)))
            ctx.node = node
            self._node = declared = nodes.get(node)
            self._bounds.excused = () if declared is None else declared.excused
            if declared is None or declared.rules is None:
                attempted = self._attempt(spec, node)
                run = attempted if isinstance(attempted, StageRun) else await attempted
            else:
                run = await self._call_by_rules(spec, node, declared.rules)
            if run.success:
                return run
            if run.excused or run.outcome is _SKIPPED or history.closed:
                return self._or_partial(run)
            history.fail_over(run)
            self._separate()

    def _next_node(self, spec: StageSpec) -> str | None:
        """The node to call now: decision's choice, or another if that failed or is barred; else None."""
        ctx, routing, nodes = self._ctx, self._job.routing, self._app.nodes
        chosen, superseded = ctx.results.get(_DECISION), self._history.superseded
        if not superseded or all(run.hedge for run in superseded):  # the slow node has not failed
            if ctx.on_trial:
                self._trial_s = start_trial(nodes, routing, ctx, self._times.ends_at - self._clock())
            if self._trial_s or chosen is None or routing.allows(chosen):
                return chosen or ""
        failed = [run.node for run in superseded]
        left_s, _ = self._grant(spec)
        return fallback_node(nodes, routing, ctx, failed, left_s)

    def _or_partial(self, run: StageRun) -> StageRun:
        """The run of processing, which failed; later stages run on the last offer if the query allows it."""
        offer, left_s = self._history.offer, self._times.ends_at - self._clock()
        if offer is None or run.excused or not self._job.allow_partial or left_s <= CLOCK_SLACK_S:
            return run
        record_offer(self._ctx, offer)
        return run.as_partial()
