"""The limits of many jobs on a loop, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from fivestage import Orchestrator, Pipeline, Plan
from fivestage._deadline_timer import SWEEP_AT, DeadlineTimer
from fivestage.pipeline.bounds import Bounds
from fivestage.pipeline.call_limits import limits_on
from fivestage_schemas import Outcome

LIMIT_S = 0.05


def now() -> float:
    """The time of the running loop."""
    return asyncio.get_running_loop().time()


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.TimerHandle]:
    """Collect the timers that are set for limits."""
    loop = asyncio.get_running_loop()
    own, timers = loop.call_at, list[asyncio.TimerHandle]()

    def call_at(when: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
        handle = own(when, callback, *args, **options)
        if isinstance(getattr(callback, "__self__", None), DeadlineTimer):
            timers.append(handle)
        return handle

    monkeypatch.setattr(loop, "call_at", call_at)
    return timers


def app_of(function: Any) -> Pipeline:
    """An app whose queries all go to one node."""
    app = Pipeline()
    app.node("only")(function)

    @app.decision
    async def decide(*_: Any) -> str:
        return "only"

    return app


async def job(*calls: tuple[float, float]) -> list[tuple[Outcome, float]]:
    """Run the calls of a job, each given by what it takes and its limit; return how and when each ended."""
    bounds = Bounds(lambda: False)
    ended = []
    try:
        for takes_s, limit_s in calls:
            result = await bounds.run(asyncio.sleep(takes_s), now() + limit_s)
            ended.append((result.outcome, round(now(), 4)))
    finally:
        bounds.close()
    return ended


async def test_one_timer_serves_all_calls_of_all_jobs(timers: list[asyncio.TimerHandle]) -> None:
    """Calls that end in time set one timer, and the last one leaves none behind."""
    calls = [(0.001, LIMIT_S)] * 5
    ended = await asyncio.gather(*(job(*calls) for _ in range(20)))
    assert {outcome for one in ended for outcome, _ in one} == {Outcome.SUCCESS}
    assert [timer.cancelled() for timer in timers] == [True]


async def test_one_timer_serves_all_queries(timers: list[asyncio.TimerHandle]) -> None:
    """Queries whose nodes wait, side by side, set one timer in all."""

    async def waits(*_: Any) -> str:
        await asyncio.sleep(0.01)
        return "done"

    orchestrator = Orchestrator(app_of(waits))
    results = await asyncio.gather(*(orchestrator.process_query("any") for _ in range(20)))
    assert {str(result.status) for result in results} == {"success"}
    assert [timer.cancelled() for timer in timers] == [True]


async def test_each_job_ends_at_its_own_limit() -> None:
    """Whatever the order in which they start, and also those whose limits coincide."""
    limits_s = [0.03, 0.01, 0.02, 0.01, 0.04]
    ended = await asyncio.gather(*(job((60, limit_s)) for limit_s in limits_s))
    assert ended == [[(Outcome.TIMEOUT, limit_s)] for limit_s in limits_s]


async def test_a_job_goes_on_after_a_limit() -> None:
    """Its next calls are watched too, beside a job that has one timer set all the while."""
    patient = asyncio.create_task(job((60, 1.0)))
    ended = await job((60, 0.01), (0.005, 0.01), (60, 0.02))
    assert ended == [(Outcome.TIMEOUT, 0.01), (Outcome.SUCCESS, 0.015), (Outcome.TIMEOUT, 0.035)]
    assert await patient == [(Outcome.TIMEOUT, 1.0)]


async def test_limits_of_ended_jobs_are_swept() -> None:
    """Many quick jobs beside a slow one leave no more behind than the next sweep takes, and not its limit."""
    slow = asyncio.create_task(job((600, 90)))
    await asyncio.sleep(0)
    deadlines = limits_on(asyncio.get_running_loop())._deadlines
    for _ in range(2 * SWEEP_AT):
        await job((0.0001, 60))
        assert len(deadlines) <= SWEEP_AT + 2
    assert await slow == [(Outcome.TIMEOUT, 90.0)]


async def test_later_limits_add_no_deadlines() -> None:
    """The calls of a job, each with a later limit than the one before, are watched by one deadline."""
    patient = asyncio.create_task(job((60, 30)))
    await asyncio.sleep(0)
    await job(*[(0.001, 1)] * 100)
    assert len(limits_on(asyncio.get_running_loop())._deadlines) == 2
    await patient


async def test_code_that_never_ends_is_not_kept_alive() -> None:
    """Once its limit is over, nothing here refers to a call that ignores its cancellation."""
    alive: list[weakref.ref[Any]] = []

    class Connection:
        """What a node holds."""

    async def stuck(*_: Any) -> None:
        connection = Connection()
        alive.append(weakref.ref(connection))
        for _attempt in range(3):  # its own future, which nothing else refers to
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # tasks destroyed while pending
    orchestrator = Orchestrator(app_of(stuck), plan=Plan.of(total_timeout_ms=50))
    await asyncio.gather(*(orchestrator.process_query("any") for _ in range(5)))
    await asyncio.sleep(1)
    gc.collect()
    assert [one() for one in alive] == [None] * 5


def test_a_loop_after_another() -> None:
    """Limits are watched on the loop that runs now, while those of a loop in another thread still wait."""

    async def first() -> list[tuple[Outcome, float]]:
        waits = asyncio.create_task(job((60, LIMIT_S), (60, LIMIT_S)))
        await asyncio.sleep(0.001)
        await asyncio.to_thread(lambda: asyncio.run(alone()))
        return await waits

    async def alone() -> None:
        loop = asyncio.get_running_loop()
        assert limits_on(loop).loop is loop
        assert [outcome for outcome, _ in await job((60, 0.001))] == [Outcome.TIMEOUT]

    ended = asyncio.run(first())
    assert [outcome for outcome, _ in ended] == [Outcome.TIMEOUT] * 2
    asyncio.run(alone())
