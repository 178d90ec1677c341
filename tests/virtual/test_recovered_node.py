"""A recovered node is called again, a dead one is not, and no query pays for the trials."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.testing.memory import MemoryBus

from .samples import FakeNode, Listening, pipeline, query, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage import Query, StageContext

SEED = 14


class Troubled(FakeNode):
    """Fails as scripted; records its calls by the second."""

    def __init__(self, is_down: Callable[[float], bool], takes_s: float = 0.005) -> None:
        super().__init__(takes_s)
        self.is_down = is_down
        self.seconds: Counter[int] = Counter()
        self.began_at: float | None = None

    async def __call__(self, query: Query, ctx: StageContext) -> str:
        now = asyncio.get_running_loop().time()
        self.began_at = now if self.began_at is None else self.began_at
        self.seconds[int(now - self.began_at)] += 1
        self.fails = self.is_down(now - self.began_at)
        return await super().__call__(query, ctx)


async def ask_at(bus: MemoryBus, rate: int, seconds: float, **fields: Any) -> None:
    """Spread queries evenly, and wait until they have ended."""
    for number in range(round(rate * seconds)):
        bus.put(query(f"q{number}", **fields))
        await asyncio.sleep(1 / rate)
    await asyncio.sleep(1)


@pytest.mark.parametrize("outage_s", [5, 300])
async def test_a_node_that_recovers_comes_back(outage_s: int) -> None:
    """A recovered node has its calls again within five seconds, and all queries are answered."""
    node, other, listening = Troubled(lambda s: 2 < s < 2 + outage_s), FakeNode(0.04), Listening()
    async with MemoryBus(pipeline(a=node, b=other), observer=listening) as bus:
        await ask_at(bus, 100, 5)
        if outage_s > 10:
            await ask_at(bus, 10, outage_s - 10)
        await ask_at(bus, 100, 17)
    assert statuses(bus).keys() == {"success"}
    back = range(2 + outage_s + 5, 2 + outage_s + 10)
    assert min(node.seconds[second] for second in back) >= 99
    choices = [change for change in listening.controls if change.control == "node_choice"]
    assert [(c.change, c.lane, c.subject) for c in choices] == [
        ("avoided", "prod", "a"),
        ("returned", "prod", "a"),
    ]


async def test_one_that_stays_dead_costs_little() -> None:
    """A dead node gets at most 2 % of the queries, and the other node answers all of them."""
    node, other = Troubled(lambda _: True), FakeNode(0.04)
    async with MemoryBus(pipeline(a=node, b=other)) as bus:
        await ask_at(bus, 100, 60)
    assert statuses(bus) == {"success": 6_000}
    assert 30 < node.seconds.total() <= 120


async def test_a_rare_intent_in_a_busy_lane_pays_no_more() -> None:
    """A rare intent spends 2 % of its own queries on trials, not of its lane's."""
    node, other = Troubled(lambda _: True), FakeNode(0.04)
    busy = FakeNode(0.001, intents={"busy"})
    async with MemoryBus(pipeline(a=node, b=other, busy=busy)) as bus:
        await ask_at(bus, 100, 5)
        before = node.seconds.total()
        for _ in range(100):
            bus.put(query("rare"))
            await ask_at(bus, 20, 1, text="busy")
    assert statuses(bus) == {"success": 500 + 100 * 21}
    assert (
        node.seconds.total() - before <= 2 + 8
    )  # of them 8 probes of the breaker: after 1, 2, 4, 8, 16, 30, 30 s


async def test_one_that_hangs_costs_no_answer_either() -> None:
    """A trial that hangs is cut so that the other node can still answer."""
    node, other = Troubled(lambda _: True, takes_s=10.0), FakeNode(0.04)
    async with MemoryBus(pipeline(a=node, b=other)) as bus:
        await ask_at(bus, 100, 60)
    assert statuses(bus) == {"success": 6_000}
    assert node.seconds.total() <= 220


async def test_time_that_is_short_is_not_spent_on_trials() -> None:
    """No trial is made when the remaining time is what the other node needs; breaker probes are."""
    node, other = Troubled(lambda _: True), FakeNode(0.04)
    async with MemoryBus(pipeline(a=node, b=other)) as bus:
        await ask_at(bus, 100, 5)
        before = node.seconds.total()
        await ask_at(bus, 100, 20, budget_ms=46)
    assert node.seconds.total() - before <= 4
    assert statuses(bus)["success"] >= 500 + 2000 - 4


async def test_a_node_that_often_fails_is_not_preferred() -> None:
    """A node that fails a fifth of its queries gets a few per cent of them beside a healthy one."""
    print(f"seed {SEED}")  # noqa: T201
    chance = random.Random(SEED)  # noqa: S311
    node, other = Troubled(lambda _: chance.random() < 0.2), FakeNode(0.04)
    async with MemoryBus(pipeline(a=node, b=other)) as bus:
        await ask_at(bus, 100, 60)
    assert statuses(bus) == {"success": 6_000}
    assert node.seconds.total() <= 0.1 * 6_000
