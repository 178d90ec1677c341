"""A cancelled node has 100 ms to clean up, whatever cancelled it; nothing waits for that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Orchestrator, Plan, Query, StageContext, run_with_timeout
from fivestage._asyncio import CLEAN_UP_S
from fivestage.core.job import Job
from fivestage.executors.task_host import TaskHost
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import PipelineStatus, StageType

from .samples import FakeNode, pipeline, query

if TYPE_CHECKING:
    from fivestage.core.stage_history import StageHistory


class PooledNode(FakeNode):
    """Returns its connection with several awaits after a cancellation, as HTTP clients do."""

    def __init__(self, clean_up_s: float = 0.05, *, deaf: bool = False) -> None:
        super().__init__(60, deaf=deaf)
        self.clean_up_s = clean_up_s
        self.cancelled_at: list[float] = []
        self.given_back = 0

    async def __call__(self, query: Query, _ctx: StageContext) -> str:
        clock = asyncio.get_running_loop().time
        try:
            await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            self.cancelled_at.append(clock())
            ends_at = clock() + self.clean_up_s
            while (left_s := ends_at - clock()) > 0:
                try:
                    await asyncio.sleep(left_s)
                except asyncio.CancelledError:
                    self.cancelled_at.append(clock())
                    if not self.deaf:
                        raise
            self.given_back += 1
            raise
        return query.user_input


async def answer(_query: Query, _ctx: StageContext) -> str:
    """Another node of the same intent."""
    return "from the other"


def limits(processing_ms: float, total_ms: int) -> dict[str, Any]:
    """Build settings with a processing limit and a total, without learned limits."""
    stages = {"stage_timeouts_ms": {"processing": processing_ms}, "total_timeout_ms": total_ms}
    return {"pipeline": stages, "adaptive": {"enabled": False}}


@pytest.mark.parametrize(
    ("processing_ms", "budget_ms"),
    [
        pytest.param(100, 110, id="stage limit, then deadline"),
        pytest.param(100, 250, id="stage limit, then watchdog"),
        pytest.param(100, 100, id="both at once"),
        pytest.param(250, 60, id="deadline alone"),
    ],
)
async def test_a_pooled_connection_is_given_back(processing_ms: int, budget_ms: int) -> None:
    """A clean-up of 50 ms is not interrupted by the end of the query, which does not wait for it."""
    node, clock = PooledNode(), asyncio.get_running_loop().time
    settings = Settings.model_validate(limits(processing_ms, 250))
    async with MemoryBus(pipeline(any=node), settings=settings) as bus:
        result = await bus.ask("any", budget_ms=budget_ms)
        assert result.status is PipelineStatus.TIMEOUT
        assert clock() <= min(processing_ms + 31, budget_ms) / 1000 + 1e-6
        await asyncio.sleep(1)
    assert (len(node.cancelled_at), node.given_back) == (1, 1)


async def test_a_node_that_another_stands_in_for_cleans_up() -> None:
    """Neither failover nor the end of the query interrupts the failed node's clean-up."""
    node, app = PooledNode(), pipeline(any=PooledNode())
    app.node("any", intents={"any"})(node)
    app.node("other", intents={"any"})(answer)
    settings = Settings.model_validate(limits(100, 250))
    async with MemoryBus(app, settings=settings) as bus:
        assert (await bus.ask("any")).answer == "from the other"
        await asyncio.sleep(1)
    assert (len(node.cancelled_at), node.given_back) == (1, 1)


async def test_a_moved_job_is_not_cancelled_again_at_its_limit() -> None:
    """A job moved 10 ms before its stage limit is not cancelled a second time at that limit."""
    node, ended = PooledNode(), list[bool]()
    orchestrator = Orchestrator(
        pipeline(any=node), plan=Plan.of(stage_timeouts_ms={StageType.PROCESSING: 100})
    )
    host = TaskHost(orchestrator.run, lambda _job, _history, completed: ended.append(completed))
    now = asyncio.get_running_loop().time()
    job = Job(Query("q", "any"), orchestrator.plan, started_at=now, ends_at=now + 0.25)
    old: StageHistory = job.history
    host.start(job, old)
    await asyncio.sleep(0.09)
    job.move()
    host.cancel(old)
    await asyncio.sleep(1)
    assert (len(node.cancelled_at), node.given_back, ended) == (1, 1, [False])


async def test_a_query_without_kafka_lets_its_stage_clean_up() -> None:
    """``process_query`` returns at its deadline, 10 ms after the stage's limit; the clean-up goes on."""
    node, clock = PooledNode(), asyncio.get_running_loop().time
    plan = Plan.of(total_timeout_ms=110, stage_timeouts_ms={StageType.PROCESSING: 100})
    result = await Orchestrator(pipeline(any=node), plan=plan).process_query("any")
    assert result.status is PipelineStatus.TIMEOUT
    assert clock() == pytest.approx(0.11)
    await asyncio.sleep(1)
    assert (len(node.cancelled_at), node.given_back) == (1, 1)


async def test_a_single_stage_may_clean_up() -> None:
    """``run_with_timeout`` returns at the limit; the clean-up goes on."""
    node, clock = PooledNode(), asyncio.get_running_loop().time
    call = node(Query("q", "any"), StageContext("prod", 1.0, clock, StageType.PROCESSING))
    assert (await run_with_timeout(call, StageType.PROCESSING, 0.1)).timeout
    assert clock() == pytest.approx(0.1)
    await asyncio.sleep(1)
    assert (len(node.cancelled_at), node.given_back) == (1, 1)


async def test_stopping_the_executor_does_not_interrupt_a_clean_up() -> None:
    """An executor that stops right after the limit waits for the clean-up."""
    node = PooledNode()
    async with MemoryBus(pipeline(any=node), settings=Settings.model_validate(limits(100, 250))) as bus:
        bus.put(query("q"))
        await asyncio.sleep(0.11)
    assert (len(node.cancelled_at), node.given_back) == (1, 1)


async def test_a_clean_up_that_overruns_is_cancelled_once_more() -> None:
    """After 100 ms the clean-up is cancelled once more, and never again."""
    node = PooledNode(clean_up_s=10, deaf=True)
    settings = Settings.model_validate(limits(100, 250))
    async with MemoryBus(pipeline(any=node), settings=settings) as bus:
        assert (await bus.ask("any", budget_ms=110)).status is PipelineStatus.TIMEOUT
        await asyncio.sleep(20)
    first, second = node.cancelled_at
    assert second - first == pytest.approx(CLEAN_UP_S + 0.01, abs=1e-3)


async def test_a_stage_after_the_clean_up_is_cancelled_at_once() -> None:
    """Only the clean-up is spared: a later stage of the same task is cancelled with its query."""
    app, ended_at = pipeline(any=PooledNode(0.0)), list[float]()
    clock = asyncio.get_running_loop().time

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> None:
        await asyncio.sleep(60)

    @app.node("any")
    async def waits(_query: Query, _ctx: StageContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended_at.append(clock())

    @app.decision
    async def decide(_query: Query, _ctx: StageContext) -> str:
        return "any"

    plan = Plan.of(
        total_timeout_ms=120,
        stage_timeouts_ms={StageType.INTENT: 100, StageType.PROCESSING: 100},
        critical={StageType.PROCESSING},
    )
    await Orchestrator(app, plan=plan).process_query("any")
    await asyncio.sleep(1)
    assert ended_at == [pytest.approx(0.12)]
