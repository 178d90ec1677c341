"""Calls one node of an app as the processing stage does; public through ``fivestage.testing``."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.exception_origin import related
from fivestage.core.plan import DEFAULT_STAGE_TIMEOUTS_MS, Plan
from fivestage.errors import NodeError, NoNodeError
from fivestage.nodes.decision import GENERAL
from fivestage.pipeline.node_settings import NodeSettings
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.pipeline.pipeline import Pipeline
from fivestage_schemas import Outcome, StageResult, StageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.node import Handler

START_TIMEOUT_MS: Final = 10_000
"""How long the app's resources may take to open."""
OTHERS_MS: Final = 1000.0
"""What is added to the query's time for the other stages, so that the node gets all of its own."""


async def call_node(
    app: Pipeline,
    name: str,
    user_input: str,
    *,
    budget_ms: float = DEFAULT_STAGE_TIMEOUTS_MS[StageType.PROCESSING],
    lane: str = "prod",
    context: Mapping[str, Any] | None = None,
    intent: str | None = None,
    nodes: Mapping[str, Any] | None = None,
) -> StageResult:
    """Call one node as the processing stage does: with its limit, its threads and the app's resources.

    No other node is called if this one fails, and none of the app's stages run. Resources are opened for the
    call, without those that ``app.override`` replaces, and closed after it. Variables of the environment do
    not count.

    Args:
        app: The Pipeline of the node.
        name: The node's name.
        user_input: The question.
        budget_ms: Milliseconds that the node may take.
        lane: The query's lane.
        context: A JSON object for ``query.context``.
        intent: The intent in ``ctx.results``; by default one that the node takes.
        nodes: The settings of the node and of resources; see ``Orchestrator``.

    Returns:
        The result of the stage: ``outcome`` is ``success``, with what the node returned as ``data``, or
        ``timeout``.

    Raises:
        Exception: what the node raised.
        NodeError: what the node returned is no JSON, or it raised something that is no Exception.
        NoNodeError: the app has no such node.
        ResourceError: a resource raised as it opened, which is not tried again, or took more than 10 s.

    Example:
        >>> import asyncio
        >>> from fivestage import Pipeline
        >>> app = Pipeline()
        >>> @app.node("echo", intents={"echo"})
        ... async def echo(query, ctx):
        ...     return {"answer": query.user_input}
        >>> asyncio.run(call_node(app, "echo", "hello", budget_ms=100)).data
        {'answer': 'hello'}
    """
    if name not in app.nodes:
        known = ", ".join(sorted(app.nodes)) or "none"
        raise NoNodeError(f"there is no node {name!r} (registered: {known})")
    alone = _OneNode(app, name, intent)
    limits = {StageType.PROCESSING: budget_ms}
    plan = Plan.of(total_timeout_ms=budget_ms + OTHERS_MS, stage_timeouts_ms=limits)
    settings = NodeSettings.of(app, nodes, only=name)  # of the whole app: its resources may read them
    orchestrator = Orchestrator(alone, plan=plan, start_timeout_ms=START_TIMEOUT_MS, nodes=settings)
    try:
        async with orchestrator:
            result = await orchestrator.process_query(user_input, lane=lane, context=context)
    finally:
        orchestrator.threads.close()
    stage = next(one for one in result.stages if one.stage_type is StageType.PROCESSING)
    if stage.outcome is not Outcome.ERROR:
        return stage
    if alone.errors:
        raise alone.last_error()
    raise NodeError(f"node {name!r}: {stage.error_type}: {stage.error}")


class _OneNode(Pipeline):
    """A Pipeline with one node of another and that one's resources; it keeps what the node raises."""

    def __init__(self, app: Pipeline, name: str, intent: str | None) -> None:
        super().__init__(builtins=False)
        self.errors: list[list[tuple[BaseException, TracebackType | None]]] = []
        """Each with those that led to it, and with the tracebacks, which the orchestrator drops."""
        node = app.find_node(name)
        self._nodes[name] = replace(node, handler=self._kept(node.handler), validate=None)
        self._resources |= app.resources
        asked = intent or min(node.intents, default=GENERAL)

        async def find(_query: Query, _ctx: StageContext) -> dict[str, Any]:
            return {"intent": asked, "confidence": 1.0}

        async def choose(_query: Query, _ctx: StageContext) -> str:
            return name

        self.intent(find)
        self.decision(choose)

    def last_error(self) -> BaseException:
        """Return what the node has raised last, with its tracebacks."""
        for one, traceback in self.errors[-1]:
            one.with_traceback(traceback)
        return self.errors[-1][0][0]

    def _keep(self, error: BaseException) -> None:
        self.errors.append([(one, one.__traceback__) for one in related(error)])

    def _returned(self, data: Any) -> Any:
        """Forget what an earlier attempt raised; a batch node may return an exception as an answer."""
        self.errors.clear()
        for one in data if isinstance(data, list | tuple) else ():
            if isinstance(one, Exception):
                self._keep(one)
        return data

    def _kept(self, handler: Handler) -> Handler:
        call: Callable[..., Any] = handler.call

        async def on_loop(*arguments: Any) -> Any:
            return await self._awaited(call(*arguments))

        def in_thread(*arguments: Any) -> Any:
            try:
                data = call(*arguments)
            except Exception as error:
                self._keep(error)
                raise
            return self._awaited(data) if asyncio.iscoroutine(data) else self._returned(data)

        batch = None if handler.batch is None else handler.batch.without_runners()
        return replace(handler, call=on_loop if handler.is_async else in_thread, batch=batch)

    async def _awaited(self, data: Awaitable[Any]) -> Any:
        try:
            return self._returned(await data)
        except Exception as error:
            self._keep(error)
            raise
