"""A node that holds one lock, under rising load: batches against a call for each query.

In virtual time, so that the figures are those of the queue and not of the machine; the part ``batches`` of
``make bench`` is in real time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.records import Output
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

from .samples import Listening, in_virtual_time, pipeline, query, timestamp

if TYPE_CHECKING:
    from fivestage import BatchContext, BatchItem
    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.outcome import QueryOutcome

CALL_S, ITEM_S = 0.005, 0.0002
ALONE_PER_S = 1 / (CALL_S + ITEM_S)
BUDGET_S = 0.25
SECONDS = 1.0
TIMES_AS_MANY = 8


class Answers(Listening):
    """Counts what queries ended as, and the answers after their deadlines."""

    def __init__(self) -> None:
        super().__init__()
        self.in_time = 0
        self.late = 0

    def concluded(self, query: Envelope, outcome: QueryOutcome, text: str) -> None:
        super().concluded(query, outcome, text)
        if outcome.status == "success":
            now = asyncio.get_running_loop().time()
            is_late = now > float(text) + BUDGET_S + 0.0015  # timestamps are milliseconds
            self.late += is_late
            self.in_time += not is_late


async def offer(factor: float, *, batched: bool) -> tuple[float, int, Counter[str]]:
    """Offer a load to one of the two; return answers in time a second, late ones, and all statuses."""
    app, lock, answers = pipeline(), asyncio.Lock(), Answers()

    @app.decision
    async def decision(_query: Any, _ctx: Any) -> str:
        return "model"

    async def together(items: list[BatchItem], _ctx: BatchContext) -> list[str]:
        async with lock:
            await asyncio.sleep(CALL_S + ITEM_S * len(items))
        return ["answer"] * len(items)

    async def alone(_query: Any, _ctx: Any) -> str:
        async with lock:
            await asyncio.sleep(CALL_S + ITEM_S)
        return "answer"

    if batched:
        app.batch_node("model", intents={"model"})(together)
    else:
        app.node("model", intents={"model"})(alone)
    settings = Settings.model_validate({"admission": {"query_ttl_ms": BUDGET_S * 1000}})
    clock, asked = asyncio.get_running_loop().time, 0
    async with MemoryBus(app, settings=settings, observer=answers) as bus:
        in_virtual_time(bus)
        began_at = clock()
        while clock() < began_at + SECONDS:
            bus.put(query(f"q{asked}", text=str(clock())), timestamp=timestamp())
            asked += 1
            await asyncio.sleep(1 / (factor * ALONE_PER_S))
        await asyncio.sleep(1)
        statuses = Counter(dict(one.headers)["status"].decode() for one in bus.sink.of(Output.RESULTS))
    assert statuses.total() == asked
    return answers.in_time / SECONDS, answers.late, statuses


@pytest.mark.parametrize("factor", [2, 12, 24])
async def test_batches_answer_in_time_and_many_times_as_many(factor: float) -> None:
    """At least eight times what fits into single calls, also beyond capacity; none is late."""
    in_time_per_s, late, statuses = await offer(factor, batched=True)
    print(f"{factor} x: {in_time_per_s:.0f} in time a second, {dict(statuses)}")  # noqa: T201
    assert late == 0
    assert in_time_per_s >= min(0.95 * factor, TIMES_AS_MANY) * ALONE_PER_S


async def test_without_batches_no_more_is_answered_than_calls_fit() -> None:
    """So the figures above are those of batches."""
    in_time_per_s, late, _ = await offer(1.5, batched=False)
    assert (late, in_time_per_s <= ALONE_PER_S) == (0, True)
