"""Queries that wait in the executor in threads for the next slot."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from fivestage import Pipeline
from fivestage.core.observer import Observer
from fivestage.executors import ThreadExecutor
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from support.jobs import until
from virtual.samples import ask_many, query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fivestage import Query, StageContext

pytestmark = pytest.mark.realtime
SLOTS = 4
AHEAD = SLOTS // 2
LONG_S = 60.0
STALL_S = 0.05


class Fixture:
    """A bus whose node waits for the gate where the question says so."""

    def __init__(self) -> None:
        self.gate, self.started = threading.Event(), threading.Event()
        app = Pipeline(builtins=False)

        @app.decision
        async def decide(_query: Query, _ctx: StageContext) -> str:
            return "node"

        @app.node("node")
        async def node(query: Query, _ctx: StageContext) -> str:
            if query.user_input == "blocks":
                self.gate.wait(LONG_S)
            while query.user_input == "waits" and not self.gate.is_set():
                await asyncio.sleep(0.001)
            if query.user_input == "next":
                self.started.set()
            return "the answer"

        limits = {"total_timeout_ms": 1000 * LONG_S, "stage_timeouts_ms": {"processing": 1000 * LONG_S}}
        settings = Settings.model_validate(
            {"pipeline": limits, "admission": {"max_in_flight": SLOTS, "adaptive_limit": False}}
        )
        self.executor = ThreadExecutor(Orchestrator(app), observer=Observer(), stall_s=STALL_S)
        self.bus = MemoryBus(app, settings=settings, executor=self.executor)

    async def fill(self, texts: list[str], budget_ms: int | None = None) -> None:
        """Occupy all slots with these queries, and have two more wait in the executor."""
        for number, text in enumerate(texts):
            self.bus.put(query(f"first{number}", text, budget_ms=budget_ms))
        await until(lambda: self.bus.dispatcher.slots.running == SLOTS)
        for number in range(AHEAD):
            self.bus.put(query(f"next{number}", "next"))
        await until(self._has_enqueued)

    def _has_enqueued(self) -> bool:
        """Whether both wait in the executor, which takes none while its process is very busy."""
        self.bus.dispatcher._fill()
        return len(self.bus.dispatcher.active.enqueued) == AHEAD


@pytest.fixture(name="quick")
async def _quick() -> AsyncIterator[Fixture]:
    """A bus that has answered enough queries to know that its node is quick."""
    fixture = Fixture()
    async with fixture.bus:
        while fixture.bus.dispatcher.slots.most_enqueued < AHEAD:
            await ask_many(fixture.bus, "quick", SLOTS)
        try:
            yield fixture
        finally:
            fixture.gate.set()


async def answered(bus: MemoryBus, names: list[str]) -> set[str]:
    """Wait until these queries have ended; return their statuses."""
    await until(lambda: all(bus.result(name) is not None for name in names))
    return {str(found.status) for name in names if (found := bus.result(name)) is not None}


async def test_the_next_query_starts_while_the_bus_loop_is_busy(quick: Fixture) -> None:
    """When a query completes, the executor starts one that waits there without the bus loop."""
    await quick.fill(["waits"] * SLOTS)
    quick.gate.set()
    assert quick.started.wait(LONG_S)  # the bus loop does not turn meanwhile
    names = [f"first{number}" for number in range(SLOTS)] + [f"next{number}" for number in range(AHEAD)]
    assert await answered(quick.bus, names) == {"success"}


async def test_a_blocked_loop_holds_none_that_waits_for_a_slot(quick: Fixture) -> None:
    """When deadlines free the slots of a blocked loop, those that wait there start on the spare loop."""
    await quick.fill(["waits"] * (SLOTS - 1) + ["blocks"], budget_ms=3000)
    assert await answered(quick.bus, [f"next{number}" for number in range(AHEAD)]) == {"success"}
    assert not quick.gate.is_set()
    assert await answered(quick.bus, [f"first{number}" for number in range(SLOTS)]) == {"timeout"}
    assert quick.bus.dispatcher.slots.enqueued == 0
