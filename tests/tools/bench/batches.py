"""A node that holds one lock, at rising load: answers in time, called for each query, and for batches.

It holds the lock for 5 ms and 0.2 ms an item, as a model on one device does. No Kafka. Answers are of use for
250 ms after the query was written.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fivestage import Pipeline
from fivestage.core.observer import Observer
from fivestage.executors import ThreadExecutor, interpreter
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import PipelineStatus
from fivestage_schemas import headers as h

from .parts import Bar, Options, Part
from .report import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage import BatchContext, BatchItem
    from fivestage.core.records import OutputRecord

CALL_S, ITEM_S = 0.005, 0.0002
ALONE_PER_S = 1 / (CALL_S + ITEM_S)
"""What a node that is called for each query can answer."""
LOADS = (0.5, 1, 2, 4, 8, 12, 16)
"""Times ALONE_PER_S."""
BUDGET_S = 0.25
LONGEST_S = 4.0
"""Of one load."""
ROUNDING_S = 0.001
"""Deadlines follow from timestamps, which are milliseconds."""
TIMES_AS_MANY = 8.0
SUCCESS = str(PipelineStatus.SUCCESS).encode()


class Load(NamedTuple):
    """What became of one load; queries a second."""

    batched: bool
    offered_per_s: float
    in_time_per_s: float
    late: int
    """Answers that were published after their deadlines."""
    statuses: dict[str, int]
    mean_batch: float


class Device:
    """Is used by one call at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self.items = 0

    def run(self, items: int) -> None:
        """Hold the lock as long as that many items take."""
        with self._lock:
            time.sleep(CALL_S + ITEM_S * items)
            self.calls += 1
            self.items += items


def app_of(device: Device, *, batched: bool) -> Pipeline:
    """Build an app whose only node uses the device."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Any, _ctx: Any) -> dict[str, str]:
        return {"intent": "model"}

    @app.validation
    async def validation(_query: Any, _ctx: Any) -> bool:
        return True

    def alone(_query: Any, _ctx: Any) -> str:
        device.run(1)
        return "answer"

    def together(items: list[BatchItem], _ctx: BatchContext) -> list[str]:
        device.run(len(items))
        return ["answer"] * len(items)

    if batched:
        app.batch_node("model", intents={"model"})(together)
    else:
        app.node("model", intents={"model"})(alone)
    return app


async def measure(options: Options) -> Part:
    """Offer each load to both apps in this process, with the service's interpreter settings."""
    interpreter.share_the_interpreter()
    seconds = min(options.seconds, LONGEST_S)
    loads = [
        await _offer(factor * ALONE_PER_S, seconds, batched=batched)
        for batched in (False, True)
        for factor in LOADS
    ]
    alone, together = (
        max(load.in_time_per_s for load in loads if load.batched is batched) for batched in (False, True)
    )
    bars = [
        Bar.at_least(
            "answers in time of a node that holds a lock, in batches: times those without",
            together / alone if alone else None,
            TIMES_AS_MANY,
        ),
        Bar.at_most("of these, answers after their deadline", sum(load.late for load in loads), 0),
    ]
    columns = ["offered a second", "in time a second", "after the deadline", "a batch", "all ended as"]
    rows = [
        [
            f"{load.offered_per_s:.0f}{', batched' if load.batched else ''}",
            f"{load.in_time_per_s:.0f}",
            str(load.late),
            f"{load.mean_batch:.1f}",
            ", ".join(f"{status} {count}" for status, count in sorted(load.statuses.items())),
        ]
        for load in loads
    ]
    return Part("Batches", [load._asdict() for load in loads], table(columns, rows), bars)


async def _offer(per_s: float, seconds: float, *, batched: bool) -> Load:
    """Write queries at a rate, and wait until all have ended."""
    device = Device()
    settings = Settings.model_validate({"admission": {"query_ttl_ms": round(BUDGET_S * 1000)}})
    orchestrator = Orchestrator(
        app_of(device, batched=batched), plan=settings.pipeline.plan(), threads=settings.executor.threads
    )
    executor = ThreadExecutor(orchestrator, observer=Observer(), stall_s=settings.executor.stall_ms / 1000)
    asked, took_s = list[float](), list[float]()
    statuses: Counter[str] = Counter()
    async with MemoryBus(orchestrator.app, settings=settings, executor=executor) as bus:
        publish = bus.sink.publish

        def note(records: Sequence[OutputRecord], *rest: Any) -> None:
            now = time.monotonic()
            for record in records:
                headers = dict(record.headers)
                if (status := headers.get(h.STATUS)) is not None:
                    statuses[status.decode()] += 1
                    if status == SUCCESS:
                        took_s.append(now - asked[int(headers[h.CE_SUBJECT])])
            publish(records, *rest)
            bus.sink.records.clear()

        bus.sink.publish = note  # type: ignore[method-assign, assignment]
        started_at = time.monotonic()
        while (now := time.monotonic()) < started_at + seconds:
            while len(asked) < (now - started_at) * per_s:
                value = orjson.dumps({"query_id": str(len(asked)), "user_input": "any"})
                asked.append(time.monotonic())  # not now: after a pause many are written at once
                bus.put(value, timestamp=round(time.time() * 1000))
            await asyncio.sleep(0.001)
        while statuses.total() < len(asked):
            await bus.sink.published()
    late = sum(one > BUDGET_S + ROUNDING_S for one in took_s)
    mean = device.items / device.calls if device.calls else 0.0
    return Load(batched, len(asked) / seconds, (len(took_s) - late) / seconds, late, dict(statuses), mean)
