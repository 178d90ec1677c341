"""Calls that wait for a thread: checks made when one is free."""

from __future__ import annotations

import asyncio
import threading
import time
from math import inf
from typing import Any

import pytest

from fivestage import Orchestrator, Pipeline
from fivestage.core.job import Job
from fivestage.core.plan import Plan
from fivestage.core.routing_snapshot import StageRouting
from fivestage.executors.task_host import TaskHost
from fivestage.pipeline.context import Query, StageContext
from fivestage.pipeline.thread_pool import ThreadPool
from fivestage.pipeline.waiting_calls import Parked, Times
from fivestage_schemas import StageType

pytestmark = pytest.mark.realtime
LONG_S = 60.0
PLAN = Plan.of(
    total_timeout_ms=2000 * LONG_S, stage_timeouts_ms=dict.fromkeys(StageType, 1000 * LONG_S), critical=()
)


@pytest.mark.parametrize(
    ("barred", "left_s", "called"),
    [(False, LONG_S, 1), (True, LONG_S, 0), (False, LONG_S / 4, 0), (False, inf, 1)],
)
async def test_an_obsolete_call_is_not_made(*, barred: bool, left_s: float, called: int) -> None:
    """A call is dropped if its node was suspended meanwhile, or its deadline is below its usual time."""
    calls: list[str] = []
    now, spec, pool = time.monotonic(), PLAN.stages[2], ThreadPool(1)
    ctx = StageContext("prod", inf, time.monotonic, StageType.PROCESSING)
    routing = StageRouting(LONG_S, p50_s=LONG_S / 2)
    parked = Parked(spec, routing, ctx, Times(now, now + LONG_S, now + left_s), now, lambda: barred)
    call = parked.submit(pool, lambda query, _ctx: calls.append(query.query_id), Query("q", "any"))
    await parked.wait(call)
    await call.wait()
    start = parked.started()
    assert (len(calls), start.barred, start.skipped is not None) == (called, barred, left_s < LONG_S / 2)
    pool.close()


async def test_a_query_that_moved_does_not_take_its_call_back() -> None:
    """A thread that has a moved query's call gives its result to the new place only."""
    hold, work, app = threading.Event(), threading.Event(), Pipeline(builtins=False)

    @app.decision
    async def decide(query: Query, _ctx: StageContext) -> str:
        return query.user_input

    @app.node("holds")
    def holds(_query: Query, _ctx: StageContext) -> None:
        hold.wait(LONG_S)

    @app.node("works")
    def works(_query: Query, _ctx: StageContext) -> str:
        work.wait(LONG_S)
        return "the answer"

    orchestrator = Orchestrator(app, threads=1, plan=PLAN)
    ended: list[Any] = []
    old, new = (TaskHost(orchestrator.run, lambda *ending: ended.append(ending[1:])) for _ in range(2))
    now = time.monotonic()
    first, moved = (
        Job(Query(name, name), PLAN, started_at=now, ends_at=now + 2 * LONG_S) for name in ("holds", "works")
    )
    old.start(first, first.history)
    old.start(moved, moved.history)
    while moved.history.waiting is None:
        await asyncio.sleep(0)
    waiting, old_history = moved.history.waiting, moved.history
    hold.set()
    while waiting.parked.start is None:
        time.sleep(0.001)  # noqa: ASYNC251 - the loop must not turn before the query has moved
    old_history.closed = True
    moved.move()
    new.start(moved, moved.history)
    for _ in range(10):
        await asyncio.sleep(0)
    old.cancel(old_history)
    work.set()
    async with asyncio.timeout(LONG_S):
        while (moved.history, True) not in ended:
            await asyncio.sleep(0.001)
    assert moved.history.answer_json == b'"the answer"'
    orchestrator.threads.close()
