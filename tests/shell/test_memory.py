"""The bus in memory finds what was published."""

from __future__ import annotations

from fivestage.core.records import Output
from fivestage.memory import MemoryBus

from .samples import FakeNode, pipeline


async def test_results_are_found_by_id() -> None:
    """The first one of an id, and None where there is none."""
    async with MemoryBus(pipeline(any=FakeNode())) as bus:
        first = await bus.ask("any", query_id="a")
        bus.put(b'{"query_id": "a"}')
        await bus.ask("any", query_id="b")
        assert bus.result("a") == first
        assert bus.result("c") is None
        assert [result.query_id for result in bus.results()] == ["a", "a", "b"]


async def test_what_was_published_can_be_cleared() -> None:
    """Afterwards only what came since is found, even if it is as much as there was."""
    async with MemoryBus(pipeline(any=FakeNode())) as bus:
        await bus.ask("any", query_id="a")
        bus.sink.records.clear()
        assert bus.sink.of(Output.RESULTS) == []
        await bus.ask("any", query_id="b")
        assert (bus.result("a"), len(bus.sink.of(Output.RESULTS))) == (None, 1)
        bus.sink.records.clear()
        await bus.ask("any", query_id="c")
        assert (bus.result("b"), len(bus.sink.of(Output.STAGE_RESULTS))) == (None, 5)
