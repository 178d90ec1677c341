"""Makes the coroutine that calls a stage's function, on the loop or in a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.exception_origin import call_in_thread
from fivestage.errors import NoNodeError
from fivestage.pipeline import batch_runner
from fivestage.pipeline.bounded_call import as_coroutine
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fivestage.core.job import Job
    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import RunningStage
    from fivestage.pipeline.bounds import Bounds
    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.node import Handler
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.pipeline.thread_call import Call
    from fivestage.pipeline.thread_pool import ThreadPool

_PROCESSING: Final = StageType.PROCESSING


def handler_of(app: Pipeline, ctx: StageContext) -> Handler:
    """The function of the stage that *ctx* is in: the chosen node's in processing.

    Raises:
        NoNodeError: decision chose no node, or one that is not registered.
    """
    if ctx.stage_type is not _PROCESSING:
        return app.stage(ctx.stage_type)
    if not ctx.node:
        raise NoNodeError("the decision stage chose no node")
    return app.find_node(ctx.node).handler


def place_of(app: Pipeline, ctx: StageContext) -> tuple[str, int] | None:
    """File and line of that function; None if there is none."""
    try:
        return handler_of(app, ctx).place
    except NoNodeError:
        return None


def needs_thread(app: Pipeline, ctx: StageContext) -> bool:
    """Whether that function runs in a thread."""
    try:
        return handler_of(app, ctx).needs_thread
    except Exception:  # noqa: BLE001 - the call will raise the same, and is reported there
        return False


def coroutine_of(
    app: Pipeline, threads: ThreadPool, job: Job, ctx: StageContext, history: StageHistory, bounds: Bounds
) -> Coroutine[Any, Any, Any]:
    """Make the coroutine of the stage's function; nothing of the function runs yet.

    Raises:
        NoNodeError: see ``handler_of``.
        TypeError: the function takes other arguments.
    """
    handler = handler_of(app, ctx)
    if not handler.is_async:
        if handler.batch is not None:
            return batch_runner.answer(handler, handler.batch, threads, job.query, ctx, history, bounds)
        return _run_in_thread(handler, threads, job.query, ctx, history.running)
    call: Any = handler.call(job.query, ctx)
    return call if hasattr(call, "send") else as_coroutine(call)


async def _run_in_thread(
    handler: Handler, threads: ThreadPool, query: Query, ctx: StageContext, running: RunningStage | None
) -> Any:
    call = threads.submit(call_in_thread, handler.call, query, ctx, name=ctx.running)
    if running is not None:
        running.call = call
    return await outcome_of(call, running)


async def outcome_of(call: Call, running: RunningStage | None) -> Any:
    """The value of a call in a thread; if its function returns a coroutine, the value of that."""
    data = await call.wait()
    if not asyncio.iscoroutine(data):
        return data
    if running is not None:
        running.call = None  # the rest needs this loop, so the call cannot be moved to another one
    return await data
