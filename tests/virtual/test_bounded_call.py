"""Bounded calls on a loop that other tasks block; time is moved by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.pipeline.bounded_call import TURN_S
from fivestage.pipeline.bounds import Bounds
from fivestage_schemas import Outcome

from .samples import block

if TYPE_CHECKING:
    from fivestage.pipeline.call_result import CallResult


async def blocks_after(delay_s: float, seconds: float) -> None:
    """Block the loop for a while, as another task would."""
    await asyncio.sleep(delay_s)
    block(seconds)


async def run(call: Any, limit_s: float, *, latest_s: float) -> CallResult:
    """Bound a call by *limit_s*, which may be extended to *latest_s*."""
    now = asyncio.get_running_loop().time()
    return await Bounds(lambda: False, latest=now + latest_s).run(call, now + limit_s)


async def test_time_lost_to_another_task_extends_the_limit() -> None:
    """A call whose wait ended in time succeeds although the loop reached it only after its limit."""
    neighbour = asyncio.create_task(blocks_after(0.005, 0.1))
    ending = await run(asyncio.sleep(0.01, "done"), 0.05, latest_s=0.25)
    await neighbour
    assert (ending.outcome, ending.data) == (Outcome.SUCCESS, "done")
    assert ending.extended_s == pytest.approx(0.11, abs=0.002)


async def test_only_the_lost_time_extends_the_limit() -> None:
    """A call that needs longer than its limit plus the lost time is a timeout."""
    neighbour = asyncio.create_task(blocks_after(0.005, 0.1))
    ending = await run(asyncio.sleep(60), 0.05, latest_s=10)
    await neighbour
    assert ending.outcome is Outcome.TIMEOUT
    assert ending.duration_s == pytest.approx(0.16, abs=0.002)


async def test_never_beyond_the_end_of_the_query() -> None:
    """Extended limits end with the query."""
    neighbour = asyncio.create_task(blocks_after(0.005, 0.1))
    ending = await run(asyncio.sleep(60), 0.05, latest_s=0.12)
    await neighbour
    assert ending.outcome is Outcome.TIMEOUT
    assert ending.duration_s == pytest.approx(0.12, abs=0.002)


async def test_a_call_that_itself_keeps_the_loop_gets_nothing_back() -> None:
    """A call that blocks the loop itself is a timeout, whether it waits afterwards or not."""

    async def blocks(afterwards_s: float | None) -> str:
        block(0.1)
        if afterwards_s is not None:
            await asyncio.sleep(afterwards_s)
        return "late"

    for afterwards_s in (None, 0.0, 0.01):
        ending = await run(blocks(afterwards_s), 0.05, latest_s=0.25)
        assert (ending.outcome, ending.extended_s) == (Outcome.TIMEOUT, 0.0)


async def test_a_call_whose_wait_is_over_gets_its_turn() -> None:
    """A call whose wait ended in time still runs when another task blocks the loop just beyond its limit."""
    neighbour = asyncio.create_task(blocks_after(0.005, 0.046))
    ending = await run(asyncio.sleep(0.01, "done"), 0.05, latest_s=0.25)
    await neighbour
    assert (ending.outcome, ending.data) == (Outcome.SUCCESS, "done")


async def test_a_call_that_waits_for_its_turn_behind_a_neighbour() -> None:
    """A call whose wait ends before another task takes the loop continues before its timer fires."""
    order = []

    async def waits(name: str, blocks_s: float) -> str:
        await asyncio.sleep(0.01)
        order.append(name)
        block(blocks_s)
        return name

    neighbour = asyncio.create_task(waits("neighbour", 0.1))
    await asyncio.sleep(0)
    ending = await run(waits("call", 0.0), 0.05, latest_s=0.25)
    await neighbour
    assert (order, ending.outcome, ending.data) == (["neighbour", "call"], Outcome.SUCCESS, "call")


async def test_the_extra_turn_is_granted_once() -> None:
    """The extra turn is granted once: a call that waits repeatedly on a late loop still times out."""

    async def waits() -> None:
        while True:
            await asyncio.sleep(0.01)

    neighbours = [
        asyncio.create_task(blocks_after(0.005, 0.047)),
        asyncio.create_task(blocks_after(0.06, 0.014)),
    ]
    ending = await run(waits(), 0.05, latest_s=10)
    await asyncio.gather(*neighbours)
    assert ending.outcome is Outcome.TIMEOUT
    assert ending.duration_s == pytest.approx(0.052 + TURN_S, abs=0.003)


@pytest.mark.parametrize("limits", [(0.05, 0.02), (0.02, 0.05), (0.05, 0.05)])
async def test_each_call_has_its_own_limit(limits: tuple[float, float]) -> None:
    """The second call of a job ends at its own limit, whichever of the two limits comes first."""
    clock = asyncio.get_running_loop().time
    bounds = Bounds(lambda: False)
    first = await bounds.run(asyncio.sleep(0.01), clock() + limits[0])
    started_at = clock()
    second = await bounds.run(asyncio.sleep(60), started_at + limits[1])
    assert (first.outcome, second.outcome) == (Outcome.SUCCESS, Outcome.TIMEOUT)
    assert clock() - started_at == pytest.approx(limits[1], abs=0.0001)
