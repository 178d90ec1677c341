"""Runs the batches of one node on one event loop: collects its queries, and calls its function for many.

A batch has a task, or a thread, to itself, and ends when all of it has. Each of its queries waits only until
the end of its own stage, and the last one to give up cancels the batch.
"""

from __future__ import annotations

import asyncio
import contextlib
from math import inf
from typing import TYPE_CHECKING, Any, Final

from fivestage._asyncio import CLEAN_UP_S
from fivestage.core.batch_queue import BatchQueue
from fivestage.core.exception_origin import Frame, attach, frames_of, keep_frames
from fivestage.pipeline.batch import BatchContext, BatchItem
from fivestage.pipeline.batch_call import BatchCall, outcomes_of
from fivestage.pipeline.bounded_call import LATE_S, BoundedCall, as_coroutine
from fivestage.pipeline.bounds import FOREVER_S, Bounds
from fivestage.pipeline.call_result import NodeBusyError
from fivestage.pipeline.running_call import context_of, running_call

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import RunningStage
    from fivestage.pipeline.context import OpenResources, Query, StageContext
    from fivestage.pipeline.node import Batch, Handler
    from fivestage.pipeline.thread_call import ValueOrError
    from fivestage.pipeline.thread_pool import ThreadPool

EARLY_S: Final = 1e-4
"""A timer may fire this much before its time: sums of floats differ."""


class Waiting:
    """A query that waits in the queue, or for its batch."""

    __slots__ = (
        "batch", "bounds", "context", "deadline_header", "future", "history", "item", "number", "resources",
        "running", "threads",
    )  # fmt: skip

    def __init__(
        self,
        item: BatchItem,
        threads: ThreadPool,
        ctx: StageContext,
        history: StageHistory,
        bounds: Bounds,
    ) -> None:
        self.item = item
        self.threads = threads
        self.resources: OpenResources = ctx.resources
        self.deadline_header = ctx.deadline_header
        self.history = history
        self.running: RunningStage | None = history.running
        self.bounds = bounds
        """Of the query's job."""
        self.context = context_of(running_call())
        self.future: asyncio.Future[ValueOrError] = bounds.loop.create_future()
        self.number = 0
        """In the queue."""
        self.batch: RunningBatch | None = None

    def end(self, outcome: ValueOrError) -> None:
        """Pass on the outcome, unless the query has ended."""
        if not self.future.done():
            self.future.set_result(outcome)

    def end_from_thread(self, outcome: ValueOrError) -> None:
        """The same in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.bounds.loop.call_soon_threadsafe(self.end, outcome)

    def report_as_counted(self) -> None:
        """Let breaker and health count the batch by the outcome of this query."""
        running = self.running
        if running is not None and not self.history.closed:
            running.counted = True
            self.history.start(running)  # a worker process reports it so


class RunningBatch:
    """A batch that runs."""

    def __init__(self, members: list[Waiting], now: float) -> None:
        self.members = members
        self.waiting = dict.fromkeys(members)
        """The queries that still wait for it, in order."""
        self.started_at = now
        self.bounds = Bounds(lambda: False)
        """Shows the executor, step by step, that code of the first waiting query has control of the loop."""
        self.bounds.cells, self.bounds.number = members[0].bounds.cells, members[0].bounds.number
        self.task: asyncio.Task[None] | None = None
        self.call: BatchCall | None = None
        self._frames: dict[int, tuple[Frame, ...]] = {}
        """Of the errors of its queries, by ``id``."""

    def with_frames(self, error: BaseException) -> BaseException:
        """Attach the frames of an error that several queries of the batch raise; each takes them."""
        attach(error, self._frames.setdefault(id(error), frames_of(error)))
        return error.with_traceback(None)

    def leave(self, member: Waiting) -> None:
        """Stop waiting: the query has ended."""
        self.waiting.pop(member, None)
        for first in self.waiting:
            self.bounds.number = first.bounds.number
            break


class BatchRunner:
    """The queue of one node on one event loop, and the batch that runs.

    Args:
        name: The node.
        handler: Its function.
        batch: Its limits.
    """

    def __init__(self, name: str, handler: Handler, batch: Batch) -> None:
        self._name = name
        self._handler = handler
        self._is_async = batch.is_async
        self._queue: BatchQueue[Waiting] = BatchQueue(batch.max_size, batch.max_wait_s)
        self._running: RunningBatch | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<BatchRunner {self._name} {self._queue}, running={self._running is not None}>"

    async def answer(self, one: Waiting) -> Any:
        """Wait for the answer of one query; raises what its place in the batch has, or what the batch raised.

        Raises:
            NodeBusyError: it would be answered too late, and was dropped from the queue.
        """
        one.number = self._queue.put(one, one.item.deadline, one.bounds.clock())
        self._proceed()
        try:
            value, error = await one.future
        except asyncio.CancelledError:
            await self._leave(one)
            raise
        if error is not None:
            raise error if one.batch is None else one.batch.with_frames(error)
        return value

    def _proceed(self) -> None:
        """Start the next batch if it is due, drop what would be late, and set the timer for the next time.

        A late timer means that other code has blocked the loop: then a stage gets back the time it lost.
        """
        loop = asyncio.get_running_loop()
        queue, now = self._queue, loop.time()
        if self._timer is not None and now - self._timer.when() > LATE_S:
            queue.postpone(now - self._timer.when())
        while self._running is None and queue.due_at <= now + EARLY_S:
            members, hopeless = queue.take(now)
            _drop(hopeless)
            members = [one for one in members if not one.history.closed]  # the others have ended or moved
            if members:
                self._start(members, now)
        if self._running is not None and queue.hopeless_at <= now + EARLY_S:
            _drop(queue.drop_hopeless(now + EARLY_S))
        self._set_timer(loop, queue.due_at if self._running is None else queue.hopeless_at)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        """Call ``_proceed`` at that time; never if it is infinite."""
        if self._timer is not None:
            if self._timer.when() == at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._proceed) if at < inf else None

    def _start(self, members: list[Waiting], now: float) -> None:
        batch = self._running = RunningBatch(members, now)
        for one in members:
            one.batch = batch
        # The last deadline is late only if the batch was late for all. A probe must end as it began.
        probes = [one for one in members if one.running is not None and one.running.probe]
        (probes or members)[-1].report_as_counted()
        first, ends_at = members[0], members[-1].item.deadline
        ctx = BatchContext(
            ends_at, first.bounds.clock, self._name, first.threads, first.resources, first.deadline_header
        )
        items = [one.item for one in members]
        if self._is_async:
            run = self._run(batch, items, ctx)
            name = f"fivestage-batch-{self._name}"
            batch.task = first.bounds.loop.create_task(run, name=name, context=first.context)
        else:
            self._start_in_thread(batch, items, ctx)

    async def _run(self, batch: RunningBatch, items: list[BatchItem], ctx: BatchContext) -> None:
        """Call an ``async def`` function, in the batch's task."""
        batch.bounds.task = asyncio.current_task()
        answered = False
        try:
            call: Any = self._handler.call(items, ctx)
            call = call if hasattr(call, "send") else as_coroutine(call)
            outcomes = outcomes_of(await _watched(call, batch.bounds), len(items))
            answered = True
        except BaseException as raised:  # noqa: BLE001 - a node may raise anything; also if it is cancelled
            keep_frames(raised)
            outcomes = [(None, raised)] * len(items)
        for one, outcome in zip(batch.members, outcomes, strict=True):
            one.end(outcome)
        self._ended(batch, answered=answered)

    def _start_in_thread(self, batch: RunningBatch, items: list[BatchItem], ctx: BatchContext) -> None:
        """Call a ``def`` function. Its queries may move to another loop meanwhile, and wait there."""
        loop = batch.bounds.loop

        def on_end(answered: bool) -> None:  # noqa: FBT001 - see BatchCall
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(lambda: self._ended(batch, answered=answered))

        call = batch.call = BatchCall(batch.members[0].threads, self._name, len(items), on_end)
        for one, share in zip(batch.members, call.shares, strict=True):
            share.pass_to(one.end_from_thread)
            if one.running is not None:
                one.running.call = share
        try:
            batch.members[0].context.run(call.submit, self._handler.call, items, ctx)
        except RuntimeError as closed:  # the executor stops
            for one in batch.members:
                one.end((None, closed))
            self._running = None

    async def _leave(self, one: Waiting) -> None:
        """End the wait of a query; the last one to leave a batch cancels it, and waits for its clean-up.

        So code that ignores its cancellation is abandoned code of that query, and is handled as such.
        """
        batch = one.batch
        if batch is None:
            self._queue.remove(one.number)
            return
        batch.leave(one)
        if batch.call is not None:
            batch.call.shares[batch.members.index(one)].abandon(one.end_from_thread)
        elif not batch.waiting and batch.task is not None and not batch.task.done():
            batch.task.cancel()
            one.bounds.loop.call_later(CLEAN_UP_S, lambda: self._ended(batch, answered=False))
            await batch.task

    def _ended(self, batch: RunningBatch, *, answered: bool) -> None:
        """Learn from a batch that has ended, or was given up, and go on with the next one."""
        if self._running is not batch:
            return
        self._running = None
        took_s, size = batch.bounds.clock() - batch.started_at, len(batch.members)
        if answered:
            self._queue.cost.add(size, took_s)
        elif not batch.waiting:
            self._queue.cost.add_abandoned(size, took_s)
        self._proceed()


async def _watched(call: Coroutine[Any, Any, Any], bounds: Bounds) -> Any:
    """Await user code; the executor sees each of its steps."""
    try:
        waiting_for = bounds.step(call.send, None)
    except StopIteration as finished:
        return finished.value
    try:
        return await BoundedCall(call, waiting_for, bounds.clock() + FOREVER_S, bounds)
    finally:
        bounds.close()


def _drop(hopeless: list[Waiting]) -> None:
    for one in hopeless:
        left_ms = one.item.remaining_ms()
        one.end(
            (None, NodeBusyError(f"its next batch would have ended too late, {left_ms:.0f} ms were left"))
        )


def answer(
    handler: Handler,
    batch: Batch,
    threads: ThreadPool,
    query: Query,
    ctx: StageContext,
    history: StageHistory,
    bounds: Bounds,
) -> Coroutine[Any, Any, Any]:
    """Make the coroutine that waits for one query's answer by a batch node, on the running loop."""
    runner = batch.runners.get(bounds.loop)
    if runner is None:
        runner = batch.runners[bounds.loop] = BatchRunner(ctx.running, handler, batch)
    ends_at = min(ctx.stage_deadline, ctx.deadline)
    item = BatchItem(query, dict(ctx.results), ends_at, ctx.attempt, bounds.clock)
    return runner.answer(Waiting(item, threads, ctx, history, bounds))
