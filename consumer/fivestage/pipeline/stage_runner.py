"""The way of one query: five stages, one after the other, each bounded.

Runs where user code runs. It writes the trail and decides nothing about the query's end: that is
``core.outcome``, for the bus and for ``process_query`` alike.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.codec.data_json import as_json
from fivestage.core.deadline import stage_grant
from fivestage.core.exception_origin import call_in_thread
from fivestage.core.stage_history import RunningStage, StageRun
from fivestage.errors import NodeError, NoNodeError
from fivestage.nodes.decision import intent_of, same_intent
from fivestage.pipeline.bounded_call import Bounds
from fivestage.pipeline.call_result import CallResult
from fivestage.pipeline.context import StageContext
from fivestage.pipeline.failure_text import failure_log
from fivestage.pipeline.thread_pool import calling
from fivestage.pipeline.waiting_calls import Parked, Times
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from fivestage.core.job import Job
    from fivestage.core.plan import StageSpec
    from fivestage.core.stage_history import StageHistory
    from fivestage.pipeline.bounded_call import StepMonitor
    from fivestage.pipeline.context import OpenResources
    from fivestage.pipeline.node import Handler
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.pipeline.thread_pool import Call, ThreadPool

RESUME_S: Final = 0.005
"""What a stage whose call was under way when its query was moved has at least, to see how the call ended."""
FOREVER_S: Final = 1e6
"""The bus ends a query that waits for a thread too long."""
_SUCCESS: Final = Outcome.SUCCESS
_SKIPPED: Final = Outcome.SKIPPED
_ERROR: Final = Outcome.ERROR
_INTENT: Final = StageType.INTENT
_DECISION: Final = StageType.DECISION
_PROCESSING: Final = StageType.PROCESSING
_VALIDATION: Final = StageType.VALIDATION


class DataLimit(NamedTuple):
    """What stages may return."""

    max_bytes: int | None
    """What takes more as JSON is left out of the results; None = anything goes."""
    left_out: bytes
    """Stands for an answer that was too large to keep; the encoder refuses it for its size."""

    @classmethod
    def of(cls, max_bytes: int | None) -> DataLimit:
        """Make one."""
        return cls(max_bytes, b"" if max_bytes is None else b'"%b"' % (b" " * max_bytes))


class StageRunner:
    """Takes one job through its stages, from where its trail ends.

    Args:
        app: Stages and nodes.
        threads: For blocking ones.
        resources: What they may use.
        job: The query.
        history: Where to write what happens.
        monitor: Told whose code has control.
        limit: Of what stages may return.
    """

    __slots__ = (
        "_app",
        "_bounds",
        "_clock",
        "_ctx",
        "_history",
        "_job",
        "_limit",
        "_threads",
        "_times",
        "_trial_s",
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
    ) -> None:
        self._app = app
        self._threads = threads
        self._job = job
        self._history = history
        self._limit = limit
        self._trial_s = 0.0
        """How long the next call may take, where it is a trial."""
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
        ctx.resources = resources
        self._ctx = ctx
        for run in history.runs:  # the job was moved: its stages see what the earlier ones have returned
            if run.success and run.data_json is not None:
                ctx.stage_type = run.spec.stage_type
                self._show(json.loads(run.data_json))  # unlike orjson it reads integers of any size
                ctx.node = run.node or ctx.node
            if run.verdict is not None:
                ctx.validated = run.verdict

    def __repr__(self) -> str:
        return f"<StageRunner {self._job}>"

    async def run(self) -> None:
        """Go on to the end, or to a critical stage that fails."""
        ctx, history = self._ctx, self._history
        calling.set(lambda: ctx.running)
        for spec in self._job.plan.stages[len(history.runs) :]:
            if history.closed:  # a stage swallowed the cancellation
                return
            ctx.stage_type = spec.stage_type
            ctx.attempt = history.attempt
            if spec.stage_type is _PROCESSING:
                run = await self._process(spec)
            else:
                ended = self._attempt(spec, None)
                run = ended if isinstance(ended, StageRun) else await ended
            history.finish(run)
            if run.ends_query:
                return

    async def _process(self, spec: StageSpec) -> StageRun:
        """Call the chosen node; while one fails and there is time for the next, call that."""
        history, ctx = self._history, self._ctx
        while True:
            resumed = None if history.resumed is None else self._resumed()
            node = self._next_node(spec) if resumed is None else resumed.node or ""
            if node is None:
                if history.superseded:
                    return history.superseded[-1]
                return self._refused(spec, str(ctx.results.get(_DECISION)))
            ctx.node = node
            ended = self._attempt(spec, node)
            run = ended if isinstance(ended, StageRun) else await ended
            if run.success or run.excused or run.outcome is _SKIPPED or history.closed:
                return run
            history.fail_over(run)
            ctx.attempt = history.attempt

    def _next_node(self, spec: StageSpec) -> str | None:
        """The node to call now: decision's choice, else the best of those that take the same intent.

        After a failure the remaining time must cover what the next one is known to take.
        """
        results, routing = self._ctx.results, self._job.routing
        chosen = results.get(_DECISION)
        failed = [run.node for run in self._history.superseded]
        if not failed:
            if self._ctx.on_trial and self._begin_trial(chosen):
                return str(chosen)
            if chosen is None or routing.allows(chosen):
                return chosen or ""
        intent = intent_of(results.get(_INTENT))
        others = [name for name in same_intent(self._app.nodes, intent, chosen) if name not in failed]
        stage = routing.stages[spec.sequence]
        left_s, _ = stage_grant(spec, stage, now=self._clock(), ends_at=self._times.ends_at)
        for name in routing.rank(others):
            if not failed or left_s >= routing.needed_s(name):
                return name
        return None

    def _begin_trial(self, chosen: Any) -> bool:
        """Take the permit, where there still is one and the time for the node that answers if it fails."""
        routing, intent = self._job.routing, intent_of(self._ctx.results.get(_INTENT))
        self._ctx.on_trial = False
        others = routing.rank(same_intent(self._app.nodes, intent, chosen))
        left_s = self._times.ends_at - self._clock()
        most_s = routing.trial_s(chosen, others[0], left_s) if others else 0.0
        if most_s <= 0 or not routing.take_trial(chosen):
            return False
        self._trial_s = most_s
        return True

    def _refused(self, spec: StageSpec, node: str, attempt: int = 1) -> StageRun:
        """The run of a node that may not be called: its breaker is open, or its calls do not come back."""
        error_type, text = self._job.routing.rejection(node)
        return StageRun(spec, Outcome.ERROR, error=text, error_type=error_type, node=node, attempt=attempt)

    def _skipped(self, spec: StageSpec, why: str, attempt: int) -> StageRun:
        """The run of a stage that is not worth starting."""
        return StageRun(spec, _SKIPPED, error=why, error_type="skipped", attempt=attempt)

    def _attempt(self, spec: StageSpec, node: str | None) -> StageRun | Coroutine[Any, Any, StageRun]:
        """Call the stage's function once, within what it is granted: how it went, or what to await."""
        job, ctx = self._job, self._ctx
        if self._history.resumed is not None:  # hardly ever: the query was moved
            resumed = self._resumed()
            if resumed is not None and resumed.call.adopt():
                return self._resume(resumed) if resumed.parked is None else self._wait_for_thread(resumed)
            if resumed is not None and resumed.parked is None:
                self._history.moved.append(resumed)
        started_at = self._clock()
        granted_s, refused = stage_grant(
            spec, job.routing.stages[spec.sequence], now=started_at, ends_at=self._times.ends_at
        )
        if refused is not None:
            return self._skipped(spec, refused, ctx.attempt)
        if self._threads.is_full and self._needs_thread():
            return self._wait_for_thread(self._park(spec, node, started_at))
        probe = False
        if node is not None:
            granted_s, probe = self._tried(node, granted_s)
        ctx.stage_deadline = ends_at = started_at + granted_s
        running = RunningStage(spec, started_at, granted_s, node or None, ctx.attempt, probe)
        self._history.start(running)
        try:
            call = self._call()
        except BaseException as raised:  # there is no such node, or it takes other arguments
            if isinstance(raised, asyncio.CancelledError) and self._history.closed:
                raise
            return self._ended(running, CallResult.of_error(raised, self._clock() - started_at))
        self._set_demands(spec, node)
        ending = self._bounds.begin(call, started_at, ends_at)
        return self._ended(running, ending) if isinstance(ending, CallResult) else self._wait(running, ending)

    def _tried(self, node: str, granted_s: float) -> tuple[float, bool]:
        """How long a call of the node may take, and whether it is to show that the node works again."""
        routing = self._job.routing
        probe = routing.take_probe(node)
        if self._trial_s:
            granted_s, self._trial_s = min(granted_s, self._trial_s), 0.0
            probe = probe or routing.node(node).state is not BreakerState.CLOSED
        return granted_s, probe

    def _set_demands(self, spec: StageSpec, node: str | None) -> None:
        """What the next call must return, and what it may raise without having failed."""
        self._bounds.check = self._check_decision if spec.stage_type is _DECISION else None
        self._bounds.excused = self._app.nodes[node].excused if node else ()

    def _resumed(self) -> RunningStage | None:
        """The attempt at the next stage that was under way in a thread when the query was moved."""
        resumed = self._history.resumed
        return resumed if resumed is not None and self._history.awaits(resumed) else None

    def _resume(self, running: RunningStage) -> StageRun | Coroutine[Any, Any, StageRun]:
        """Wait for the call that is under way, rather than call the function again."""
        spec, ctx, began_at = running.spec, self._ctx, running.started_at
        ctx.attempt = running.attempt
        ends_at = max(began_at + running.granted_s, self._clock() + RESUME_S)
        ctx.stage_deadline = ends_at = min(ends_at, self._times.ends_at)
        self._history.start(running)
        self._set_demands(spec, running.node)
        ending = self._bounds.begin(_outcome(running.call, running), began_at, ends_at)
        return self._ended(running, ending) if isinstance(ending, CallResult) else self._wait(running, ending)

    def _needs_thread(self) -> bool:
        try:
            return not self._handler().is_async
        except Exception:  # noqa: BLE001 - calling it says the same
            return False

    def _park(self, spec: StageSpec, node: str | None, now: float) -> RunningStage:
        """Have the stage's function called when a thread is free; the stage starts then."""
        ctx = self._ctx
        waiting = RunningStage(spec, now, 0.0, node or None, ctx.attempt)
        routing, on_trial = self._job.routing, bool(self._trial_s)

        def is_barred() -> bool:
            """Its calls may have failed, or not have come back, since it was chosen."""
            return bool(node) and not on_trial and not routing.allows(node or "")

        parked = Parked(spec, routing.stages[spec.sequence], ctx, self._times, now, is_barred)
        waiting.parked = parked
        waiting.call = parked.submit(self._threads, self._handler().call, self._job.query)
        return waiting

    async def _wait_for_thread(self, waiting: RunningStage) -> StageRun:
        """Wait until a thread takes the stage's call, which takes none of its time; then for its end."""
        job, history, bounds, spec, node = self._job, self._history, self._bounds, waiting.spec, waiting.node
        parked: Parked = waiting.parked
        self._ctx.attempt, bounds.check = waiting.attempt, None
        history.waiting = waiting
        if history.on_wait is not None:
            history.on_wait(job, history, None)
        now = self._clock()
        wait = bounds.begin(parked.wait(waiting.call), now, now + FOREVER_S)
        ending = wait if isinstance(wait, CallResult) else await wait
        if history.closed:  # it goes on elsewhere, and what waits there must not be taken its call
            raise asyncio.CancelledError
        start = parked.started()
        self._times = start.times
        self._ctx.deadline = bounds.latest = start.times.ends_at
        if history.on_wait is not None:
            history.on_wait(job, history, (start.times.started_at, start.times.ends_at))
        if ending.outcome is not _SUCCESS:  # code of its own has cancelled its task
            return self._ended(waiting, ending)
        if start.barred and node is not None:
            return self._refused(spec, node, waiting.attempt)
        if start.refused is not None:
            return self._skipped(spec, start.refused, waiting.attempt)
        granted_s, probe = start.granted_s, False
        if node is not None:
            granted_s, probe = self._tried(node, granted_s)
        waited_s = start.at - waiting.started_at
        running = RunningStage(spec, start.at, granted_s, node, waiting.attempt, probe, waited_s)
        running.call = waiting.call
        run = self._resume(running)
        return run if isinstance(run, StageRun) else await run

    async def _wait(self, running: RunningStage, rest: Coroutine[Any, Any, CallResult]) -> StageRun:
        return self._ended(running, await rest)

    def _ended(self, running: RunningStage, ending: CallResult) -> StageRun:
        """How the stage went; what it returned is there for the later ones."""
        if ending.outcome is _SUCCESS:
            ending = self._taken_over(ending)
        if ending.outcome is _ERROR and not self._history.closed:
            self._log(running, ending)
        return StageRun(
            running.spec,
            ending.outcome,
            ending.data_json,
            ending.error,
            ending.error_type,
            running.node,
            running.attempt,
            running.started_at,
            ending.duration_s,
            running.granted_s + ending.extended_s,
            running.probe,
            self._ctx.validated if running.spec.stage_type is _VALIDATION else None,
            ending.excused,
            running.waited_s,
        )

    def _log(self, running: RunningStage, ending: CallResult) -> None:
        try:
            declared = self._handler().place
        except NoNodeError:
            declared = None
        stage, query_id = str(running.spec.stage_type), self._job.query.query_id
        failure_log.write(ending, node=running.node, stage=stage, query_id=query_id, declared=declared)

    def _call(self) -> Coroutine[Any, Any, Any]:
        """Call the stage's function the way it must be called; nothing of it runs yet.

        Raises:
            NoNodeError: decision chose none, or one that there is not.
            TypeError: the function takes other arguments.
        """
        query, ctx = self._job.query, self._ctx
        handler = self._handler()
        if not handler.is_async:
            return self._in_thread(handler)
        call: Any = handler.call(query, ctx)
        return call if hasattr(call, "send") else _awaited(call)

    async def _in_thread(self, handler: Handler) -> Any:
        ctx, running = self._ctx, self._history.running
        call = self._threads.submit(call_in_thread, handler.call, self._job.query, ctx, name=ctx.running)
        if running is not None:
            running.call = call
        return await _outcome(call, running)

    def _handler(self) -> Handler:
        ctx = self._ctx
        if ctx.stage_type is not _PROCESSING:
            return self._app.stage(ctx.stage_type)
        if not ctx.node:
            raise NoNodeError("the decision stage chose no node")
        return self._app.find_node(ctx.node).handler

    def _check_decision(self, data: Any) -> None:
        if not isinstance(data, str):
            raise NodeError(f"the decision stage must return a node's name, got {type(data).__name__}")
        self._app.find_node(data)

    def _taken_over(self, ending: CallResult) -> CallResult:
        """Let the later stages see what this one returned; if looking at it raises, the stage has failed."""
        stage_type = self._ctx.stage_type
        try:
            self._show(ending.data)
            if stage_type is _PROCESSING:
                self._history.confidence = self._ctx.confidence
                self._ctx.answer, answer_json = as_json(self._ctx.answer, self._limit.max_bytes)
                self._history.answer_json = answer_json or self._limit.left_out
        except BaseException as raised:  # noqa: BLE001 - the data may be of a class of the user's own
            failed = CallResult.of_error(raised, ending.duration_s)
            failed.extended_s = ending.extended_s
            return failed
        return ending

    def _show(self, data: Any) -> None:
        ctx = self._ctx
        if ctx.stage_type is _DECISION:
            ctx.node = data
        elif ctx.stage_type is _PROCESSING:
            ctx.answer, ctx.confidence = answer_of(data)
        elif ctx.stage_type is _VALIDATION:
            ctx.validated = verdict_of(data)
        ctx.results[ctx.stage_type] = data


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _outcome(call: Call, running: RunningStage | None) -> Any:
    """What a call in a thread comes to; where its function returns a coroutine, what that does."""
    data = await call.wait()
    if not asyncio.iscoroutine(data):
        return data
    if running is not None:
        running.call = None  # from here on this loop is needed
    return await data


def answer_of(data: Any) -> tuple[Any, float | None]:
    """Answer and confidence of what a node returned: a dict with ``answer``, or the answer itself."""
    looked: Any = data  # not known to be a dict: compiled, a subclass would not be asked
    if not isinstance(data, dict) or "answer" not in looked:
        return data, None
    answer, confidence = looked["answer"], looked.get("confidence")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        return answer, None
    return answer, min(1.0, max(0.0, float(confidence)))


def verdict_of(data: Any) -> bool:
    """Whether validation found the answer right: it returns the verdict, or a dict with it as ``valid``.

    Raises:
        NodeError: it returned something else.
    """
    looked: Any = data  # as above
    verdict: Any = looked.get("valid") if isinstance(data, dict) else data
    if isinstance(verdict, bool):
        return verdict
    found = type(verdict).__name__
    said = f'a dict whose "valid" is {found}' if isinstance(data, dict) else found
    raise NodeError(f'validation must return True or False, or a dict with it as "valid"; got {said}')
