"""The memory bus finds published events."""

from __future__ import annotations

from typing import Any

import pytest

from fivestage.core.records import Output
from fivestage.testing.memory import MemoryBus

from .samples import FakeNode, pipeline


async def test_results_are_found_by_id() -> None:
    """The first result of an id is returned, or None."""
    async with MemoryBus(pipeline(any=FakeNode())) as bus:
        first = await bus.ask("any", query_id="a")
        bus.put(b'{"query_id": "a"}')
        await bus.ask("any", query_id="b")
        assert bus.result("a") == first
        assert bus.result("c") is None
        assert [result.query_id for result in bus.results()] == ["a", "a", "b"]


async def test_published_events_can_be_cleared() -> None:
    """After a clear only later events are found, even if there are as many as before."""
    async with MemoryBus(pipeline(any=FakeNode())) as bus:
        await bus.ask("any", query_id="a")
        bus.sink.records.clear()
        assert bus.sink.of(Output.RESULTS) == []
        await bus.ask("any", query_id="b")
        assert (bus.result("a"), len(bus.sink.of(Output.RESULTS))) == (None, 1)
        bus.sink.records.clear()
        await bus.ask("any", query_id="c")
        assert (bus.result("b"), len(bus.sink.of(Output.STAGE_RESULTS))) == (None, 5)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"query_id": "not an id"}, "invalid_field: query_id"),
        ({"query_id": "a" * 129}, "invalid_field: query_id"),
        ({"context": {"a": "x" * 300_000}}, "too_large"),
    ],
)
async def test_a_query_that_can_have_no_result_is_an_error(fields: dict[str, Any], why: str) -> None:
    """A query without an id becomes a dead letter; waiting for its result raises with the reason."""
    async with MemoryBus(pipeline(any=FakeNode())) as bus:
        bus.put(b"no JSON")
        with pytest.raises(ValueError, match=f"this query can have no result: {why}"):
            await bus.ask("any", **fields)
        assert (await bus.ask("any")).answer == "any"


async def test_a_query_with_an_id_has_a_result_although_it_is_a_dead_letter() -> None:
    """A wrong query with an id has a result that names the fault, although it is a dead letter."""
    async with MemoryBus(pipeline(any=FakeNode())) as bus:
        result = await bus.ask("any", query_id="a", budget_ms=0)
    assert (str(result.status), result.error_type) == ("error", "invalid_query")
