"""The cost of a query in counts, the same on any machine, however busy.

``python -m tests.support.costs`` prints them, with the largest contributors.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry.sdk.trace import TracerProvider

from fivestage import Orchestrator, Pipeline
from fivestage.core.codec.decode import DecodeLimits, Readable, decode
from fivestage.core.codec.encode import Encoder
from fivestage.core.codec.event_json import Envelope
from fivestage.core.deadline import budget_of
from fivestage.core.ledger import PartitionOffsets
from fivestage.core.outcome import conclude
from fivestage.core.plan import Plan
from fivestage.core.records import PlainRecord
from fivestage.core.stage_history import StageHistory
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage.executors import ThreadExecutor
from fivestage.observability.metrics import Metrics
from fivestage.observability.sampling import EarlySampling
from fivestage.observability.tracing import Tracing
from fivestage.settings import Settings
from fivestage.testing import MemoryBus, VirtualTimeLoop
from fivestage_schemas import Outcome, StageType

from .counting import Counts, blocks_in_use, calls, cycles, lines, totals, watch_loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from fivestage import Query, StageContext

    Instrument = Callable[[Counts], AbstractContextManager[None]]

BURST = 64
"""Queries counted together: as many as may run at first, so that none waits."""
WARM = 512
"""Earlier queries: for one-time work, and for windows of recent ones to be full."""
ONE_BY_ONE = 32
BURSTS = 16
SETTLE_S = 0.05
"""Virtual seconds after which a burst is over: all of it happens at one moment."""
PLAN = Plan.of()
PATIENT: dict[str, Any] = {"total_timeout_ms": 60_000, "stage_timeouts_ms": dict.fromkeys(StageType, 60_000)}
"""For real time: nothing is late, however busy the machine."""


@dataclass(frozen=True)
class Load:
    """The load of a measurement."""

    partitions: int = 1
    keys: int | None = None
    """Distinct ones, kept in order; none if None."""
    nodes: int = 1
    burst: int = BURST


def pure(instrument: Instrument) -> Counts:
    """Run the core alone for one query: decode, budget, outcome, encode."""
    encoder = Encoder(source="/costs", max_record_bytes=1_000_000, max_dead_letter_bytes=1_000_000)
    offsets, history = PartitionOffsets(1), _history()
    counts: Counts = Counter()
    for number in range(2):  # the first run fills caches
        record = _record(number, 0, None, 0)
        counts.clear()
        with instrument(counts):
            _answer(record, offsets, history, encoder)
    return counts


def _answer(record: PlainRecord, offsets: PartitionOffsets, history: StageHistory, encoder: Encoder) -> None:
    offsets.begin(record.offset)
    read = decode(record, DecodeLimits("prod"))
    assert isinstance(read, Readable)
    event = read.event
    budget = budget_of(
        now=0.0,
        wall_now=1.0,
        total_s=PLAN.total_s,
        budget_ms=event.budget_ms,
        deadline=event.deadline,
        expiry_time=read.expiry_time,
        written_at=None,
        ttl_ms=0,
    )
    envelope = Envelope(record, event.query_id, read.lane, started_wall=1.0, started_at=0.0)
    conclusion = conclude(history, PLAN, started_at=0.0, ends_at=budget.ends_at, now=0.05)
    assert len(encoder.concluded(envelope, conclusion)[0]) == 6
    offsets.finish(record.offset)


def _history() -> StageHistory:
    """Build five successful stages."""
    history = StageHistory()
    for spec in PLAN.stages:
        at_s, node = spec.sequence * 0.01, "node-0" if spec.sequence == 2 else None
        history.start(RunningStage(spec, at_s, spec.limit_s, node, 1))
        data = b'{"of":"it"}'
        history.finish(
            StageRun(
                spec,
                Outcome.SUCCESS,
                data,
                node=node,
                started_at=at_s,
                duration_s=0.01,
                granted_s=spec.limit_s,
            )
        )
    history.answer_json, history.confidence = b"4", 1.0
    return history


def inline(instrument: Instrument, load: Load = Load()) -> Counts:
    """Run a burst on a memory bus, with the executor on its loop, metrics and traces."""
    counts: Counts = Counter()

    async def measure() -> None:
        async with MemoryBus(_app(load), **_options(load)) as bus:
            await _burst(bus, load, WARM)
            _put(bus, load, load.burst)
            with instrument(counts):
                await asyncio.sleep(SETTLE_S)
            assert not bus.dispatcher.in_flight

    _in_virtual_time(measure)
    return counts


def on_inline_loop() -> Counts:
    """Run the same burst and count loop operations."""
    counts: Counts = Counter()

    async def measure() -> None:
        load = Load()
        async with MemoryBus(_app(load), **_options(load)) as bus:
            await _burst(bus, load, WARM)
            watch_loop(asyncio.get_running_loop(), counts, "on the loop")
            await _burst(bus, load, BURST)

    _in_virtual_time(measure)
    return counts


def on_thread_loops() -> Counts:
    """Run queries one by one with the executor in a thread, and count operations of both loops."""
    counts: Counts = Counter()

    async def measure() -> None:
        load = Load()
        observer = Metrics(topic="queries", group_id="costs")
        executor = ThreadExecutor(Orchestrator(_app(load)), observer=observer, stall_s=60)
        async with MemoryBus(_app(load), **_options(load, **PATIENT), executor=executor) as bus:
            await bus.ask("0")
            watch_loop(asyncio.get_running_loop(), counts, "on the bus loop")
            for worker in executor.workers:
                watch_loop(worker._loop, counts, "on the executor's loop")  # type: ignore[attr-defined]
            for _ in range(ONE_BY_ONE):
                await bus.ask("0")

    asyncio.run(measure())
    return counts


def kept() -> Counts:
    """Measure the memory of a burst until its acknowledgement, the rest of many, and cycles."""
    counts: Counts = Counter()

    async def measure() -> None:
        load = Load()
        async with MemoryBus(_app(load), **_options(load)) as bus:
            await _burst(bus, load, WARM)
            bus.sink.records.clear()
            before = blocks_in_use()
            bus.sink.hold = True
            await _burst(bus, load, BURST)
            counts["blocks until acknowledged", ""] = blocks_in_use() - before
            bus.sink.acknowledge()
            bus.sink.hold = False
            with cycles(counts):
                for _ in range(BURSTS):
                    await _burst(bus, load, BURST)
            bus.sink.records.clear()
            counts["blocks for ever", ""] = round((blocks_in_use() - before) / BURSTS)

    _in_virtual_time(measure)
    return counts


def _in_virtual_time(measure: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(measure())


async def _burst(bus: MemoryBus, load: Load, size: int) -> None:
    _put(bus, load, size)
    await asyncio.sleep(SETTLE_S)


def _put(bus: MemoryBus, load: Load, size: int) -> None:
    for number in range(size):
        key = None if load.keys is None else b"%d" % (number % load.keys)
        value = orjson.dumps({"query_id": f"q{number}", "user_input": str(number % load.nodes)})
        bus.put(value, key=key, partition=number % load.partitions)


def _options(load: Load, **pipeline: Any) -> dict[str, Any]:
    """Return options of a bus as in the service, without Kafka. No trace is sampled, as 19 of 20 are not."""
    provider = TracerProvider(id_generator=EarlySampling(0))
    ordering = "unordered" if load.keys is None else "key"
    return {
        "settings": Settings.load(None, {"admission": {"ordering": ordering}, "pipeline": pipeline}),
        "partitions": load.partitions,
        "observer": Metrics(topic="queries", group_id="costs"),
        "tracing": Tracing(results_topic="results", group_id="costs", provider=provider),
    }


def _app(load: Load) -> Pipeline:
    """Build an app with empty stages, the built-in decision, and a node for each intent."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"intent": query.user_input, "confidence": 1.0}

    @app.validation
    async def validation(_query: Query, _ctx: StageContext) -> bool:
        return True

    @app.reflection
    async def reflection(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"verdict": "confirmed"}

    async def echo(query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"answer": query.user_input, "confidence": 1.0}

    for number in range(load.nodes):
        app.node(f"node-{number}", intents={str(number)})(echo)
    return app


def _record(number: int, partition: int, key: bytes | None, timestamp: int) -> PlainRecord:
    value = orjson.dumps({"query_id": f"q{number}", "user_input": "2+2"})
    return PlainRecord("queries", partition, number, timestamp, key, value)


def main(most: int = 12) -> None:
    """Print everything."""
    found = {
        "core": (pure(calls) + pure(lines), 1),
        "inline": (inline(calls) + inline(lines), BURST),
        "inline, loop": (on_inline_loop(), BURST),
        "thread, loops": (on_thread_loops(), ONE_BY_ONE),
        "memory": (kept(), BURST),
    }
    for title, (counts, queries) in found.items():
        print(f"{title}, a query:")  # noqa: T201
        for what, total in sorted(totals(counts).items()):
            print(f"  {total / queries:10.2f} {what}")  # noqa: T201
            names = [(count, name) for (kind, name), count in counts.items() if kind == what]
            for count, name in sorted(names, reverse=True)[:most]:
                print(f"  {'':10} {count / queries:10.2f} {name}")  # noqa: T201


if __name__ == "__main__":
    main()
