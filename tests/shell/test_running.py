"""Deadlines of queries that run: one timer for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fivestage.executors import InlineExecutor
from fivestage.memory import MemoryBus
from fivestage.orchestrator import Orchestrator
from fivestage.running import FORGET_AT
from fivestage.settings import Settings

from .samples import FakeNode, pipeline

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.core.outcome import Conclusion

PATIENT = {"pipeline": {"total_timeout_ms": 60_000}}


class Silent(InlineExecutor):
    """Nothing is heard of its jobs."""

    def submit(self, job: Job) -> None:
        pass

    def cancel(self, job: Job) -> None:
        pass


async def test_each_ends_at_its_own_deadline() -> None:
    """In whatever order they began."""
    app = pipeline(any=FakeNode())
    loop, ends = asyncio.get_running_loop(), dict[int, int]()
    async with MemoryBus(app, executor=Silent(Orchestrator(app))) as bus:

        async def ask(budget_ms: int) -> None:
            await bus.ask("any", query_id=str(budget_ms), budget_ms=budget_ms)
            ends[budget_ms] = round(1000 * (loop.time() - begun))

        begun = loop.time()
        await asyncio.gather(*map(ask, (200, 50, 150, 100, 250)))
        assert bus.inner.running.jobs == {}
    assert ends == {50: 50, 100: 100, 150: 150, 200: 200, 250: 250}


async def test_what_goes_wrong_with_one_takes_nothing_from_the_others() -> None:
    """The ending of one raises: the others end at their deadlines all the same."""
    app, ended = pipeline(any=FakeNode()), list[str]()
    async with MemoryBus(app, executor=Silent(Orchestrator(app))) as bus:
        running = bus.inner.running
        go_on = running.on_ended

        def on_ended(job: Job, conclusion: Conclusion, now: float) -> None:
            go_on(job, conclusion, now)
            ended.append(job.query.query_id)
            if len(ended) == 1:
                raise RuntimeError("boom")

        running.on_ended = on_ended
        for budget_ms in (100, 100, 200):
            bus.put(b'{"query_id":"q%d","user_input":"any","budget_ms":%d}' % (budget_ms, budget_ms))
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        await asyncio.sleep(1)
    assert ended == ["q100", "q100", "q200"]


async def test_ended_ones_are_forgotten() -> None:
    """However far their deadlines are, only so many of them are kept."""
    app = pipeline(any=FakeNode())
    async with MemoryBus(app, settings=Settings.model_validate(PATIENT)) as bus:
        for number in range(FORGET_AT + 50):
            bus.put(b'{"query_id":"q%d","user_input":"any"}' % number)
        await asyncio.sleep(10)
        assert len(bus.results()) == FORGET_AT + 50
        assert len(bus.inner.running._deadlines) <= FORGET_AT
