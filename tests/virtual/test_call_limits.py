"""The limits of many jobs on a loop, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fivestage._deadline_timer import SWEEP_AT, DeadlineTimer
from fivestage.pipeline.bounded_call import Bounds
from fivestage.pipeline.call_limits import CallLimits
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


async def job(limits: CallLimits, *calls: tuple[float, float]) -> list[tuple[Outcome, float]]:
    """Run the calls of a job, each given by what it takes and its limit; return how and when each ended."""
    bounds = Bounds(lambda: False, limits=limits)
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
    limits = CallLimits()
    calls = [(0.001, LIMIT_S)] * 5
    ended = await asyncio.gather(*(job(limits, *calls) for _ in range(20)))
    assert {outcome for one in ended for outcome, _ in one} == {Outcome.SUCCESS}
    assert [timer.cancelled() for timer in timers] == [True]


async def test_each_job_ends_at_its_own_limit() -> None:
    """Whatever the order in which they start, and also those whose limits coincide."""
    limits = CallLimits()
    limits_s = [0.03, 0.01, 0.02, 0.01, 0.04]
    ended = await asyncio.gather(*(job(limits, (60, limit_s)) for limit_s in limits_s))
    assert ended == [[(Outcome.TIMEOUT, limit_s)] for limit_s in limits_s]


async def test_a_job_goes_on_after_a_limit() -> None:
    """Its next calls are watched too, beside a job that has one timer set all the while."""
    limits = CallLimits()
    patient = asyncio.create_task(job(limits, (60, 1.0)))
    ended = await job(limits, (60, 0.01), (0.005, 0.01), (60, 0.02))
    assert ended == [(Outcome.TIMEOUT, 0.01), (Outcome.SUCCESS, 0.015), (Outcome.TIMEOUT, 0.035)]
    assert await patient == [(Outcome.TIMEOUT, 1.0)]


async def test_limits_of_ended_jobs_are_swept() -> None:
    """Many quick jobs beside a slow one leave no more behind than what the next sweep takes."""
    limits = CallLimits()
    slow = asyncio.create_task(job(limits, (60, 90)))
    await asyncio.sleep(0)
    on_loop = limits.on(asyncio.get_running_loop())
    for _ in range(2 * SWEEP_AT):
        await job(limits, (0.0001, 60))
        assert len(on_loop._limits) <= SWEEP_AT + 2
    assert [outcome for outcome, _ in await slow] == [Outcome.SUCCESS]


def test_two_loops_that_share_limits() -> None:
    """Jobs on another loop have their limits there, while those of the first one still wait."""
    limits = CallLimits()

    async def second() -> list[tuple[Outcome, float]]:
        loop = asyncio.get_running_loop()
        assert limits.on(loop).loop is loop
        return await job(limits, (60, 0.001))

    async def first() -> list[tuple[Outcome, float]]:
        waits = asyncio.create_task(job(limits, (60, LIMIT_S), (60, LIMIT_S)))
        await asyncio.sleep(0.001)
        others = await asyncio.to_thread(lambda: asyncio.run(second()))
        assert [outcome for outcome, _ in others] == [Outcome.TIMEOUT]
        return await waits

    ended = asyncio.run(first())
    assert [outcome for outcome, _ in ended] == [Outcome.TIMEOUT] * 2
