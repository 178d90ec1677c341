"""What tests on the memory bus share: nodes that do as they are told, and a wall clock in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from fivestage import Pipeline
from fivestage.core.ledger import PartitionKey
from fivestage.core.observer import Observer
from fivestage.core.records import Output
from fivestage.testing import VirtualTimeLoop
from fivestage.testing.memory import TOPIC
from fivestage_schemas import StageType, TimeoutEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fivestage import Query, StageContext
    from fivestage.core.adaptive.breaker import BreakerState
    from fivestage.core.observer import ControlChange
    from fivestage.core.outcome import QueryOutcome
    from fivestage.testing.memory import MemoryBus
    from fivestage_schemas import PipelineResult, StageResult, TimeoutReason

EPOCH = 1_800_000_000.0
"""The wall clock when the loop's clock shows 0."""
KEY = PartitionKey(TOPIC, 0)
NO_TIME: Mapping[StageType, float] = MappingProxyType({})


class FakeNode:
    """A node that does as it is told, and remembers who called it."""

    def __init__(
        self,
        takes_s: float = 0.0,
        *,
        fails: bool = False,
        deaf: bool = False,
        intents: Iterable[str] = ("any",),
    ) -> None:
        self.takes_s = takes_s
        self.fails = fails
        self.deaf = deaf
        self.intents = frozenset(intents)
        self.calls: list[str] = []
        self.running: set[str] = set()
        self.highest = 0
        """How many calls of it there were at a time, at most."""

    async def __call__(self, query: Query, _ctx: StageContext) -> str:
        self.calls.append(query.query_id)
        self.running.add(query.query_id)
        self.highest = max(self.highest, len(self.running))
        try:
            await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            if not self.deaf:
                raise
            await asyncio.sleep(5)
        finally:
            self.running.discard(query.query_id)
        if self.fails:
            raise LookupError("as told")
        return query.user_input


def pipeline(takes_s: Mapping[StageType, float] = NO_TIME, /, **nodes: FakeNode) -> Pipeline:
    """Stages that take so long, and as long as the mapping says by then; the question is the intent."""
    app = Pipeline(builtins=False)

    async def take(ctx: StageContext) -> None:
        if ctx.stage_type in takes_s:
            await asyncio.sleep(takes_s[ctx.stage_type])

    @app.intent
    async def intent(query: Query, ctx: StageContext) -> dict[str, Any]:
        await take(ctx)
        return {"intent": query.user_input}

    choose = app.stage(StageType.DECISION).call

    @app.decision
    async def decision(query: Query, ctx: StageContext) -> str:
        await take(ctx)
        return str(await choose(query, ctx))

    @app.validation
    async def validation(_query: Query, ctx: StageContext) -> bool:
        await take(ctx)
        return True

    @app.reflection
    async def reflection(_query: Query, ctx: StageContext) -> dict[str, Any]:
        await take(ctx)
        return {}

    for name, node in nodes.items():
        app.node(name, intents=node.intents)(node)
    return app


class Listening(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.shed_: list[bool] = []
        self.breakers: list[tuple[str, str, str]] = []
        self.controls: list[ControlChange] = []
        self.failovers = 0
        self.expirations: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        """Successes by lane."""

    def shed(self, lane: str, *, refused: bool) -> None:  # noqa: ARG002
        self.shed_.append(refused)

    def breaker_changed(self, lane: str, node: str, state: BreakerState) -> None:
        self.breakers.append((lane, node, str(state)))

    def control_changed(self, change: ControlChange) -> None:
        self.controls.append(change)

    def failed_over(self, lane: str, attempts: int) -> None:  # noqa: ARG002
        self.failovers += attempts

    def expired(self, lane: str, reason: TimeoutReason, queue_s: float) -> None:  # noqa: ARG002
        self.expirations[reason] += 1

    def concluded(self, lane: str, conclusion: QueryOutcome, queue_s: float) -> None:  # noqa: ARG002
        self.answered[lane] += conclusion.status == "success"


def query(query_id: str, text: str = "any", **fields: Any) -> bytes:
    """A query event."""
    return orjson.dumps({"query_id": query_id, "user_input": text, **fields})


def block(seconds: float) -> None:
    """What ``time.sleep`` on the loop does: time goes by and nothing else happens."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._jumps.waited_s += seconds


def in_virtual_time(bus: MemoryBus) -> None:
    """Let the dispatcher's wall clock go with the loop's."""
    clock = asyncio.get_running_loop().time
    bus.dispatcher._screening.wall_clock = lambda: EPOCH + clock()


def timestamp() -> int:
    """A record's timestamp for now."""
    return round((EPOCH + asyncio.get_running_loop().time()) * 1000)


async def finish(bus: MemoryBus, count: int) -> None:
    """Wait for so many terminal events, those of before included."""
    while len(bus.sink.of(Output.RESULTS)) < count:
        await bus.sink.published()


async def ask_many(bus: MemoryBus, name: str, count: int, **fields: Any) -> None:
    """Put *count* queries, as many at a time as there are slots, and wait for their ends."""
    before = len(bus.sink.of(Output.RESULTS))
    for number in range(count):
        bus.put(query(f"{name}{number}", **fields))
    await finish(bus, before + count)


async def ask_for_a_second(bus: MemoryBus, count: int = 21, **fields: Any) -> None:
    """Put *count* queries evenly within a second, the last at its end, and wait until they have ended."""
    before = len(bus.sink.of(Output.RESULTS))
    for number in range(count):
        bus.put(query(f"within{before + number}", **fields))
        if number < count - 1:
            await asyncio.sleep(1.001 / (count - 1))
    await finish(bus, before + count)


async def ask_in_turn(bus: MemoryBus, count: int, **fields: Any) -> list[PipelineResult]:
    """Ask one after the other."""
    return [await bus.ask("any", **fields) for _ in range(count)]


def statuses(bus: MemoryBus) -> Counter[str]:
    """How many queries ended how."""
    return Counter(dict(record.headers)["status"].decode() for record in bus.sink.of(Output.RESULTS))


def ends(bus: MemoryBus) -> Counter[bytes]:
    """How many terminal events each query has."""
    return Counter(dict(record.headers)["ce_subject"] for record in bus.sink.of(Output.RESULTS))


def timeouts(bus: MemoryBus) -> list[TimeoutEvent]:
    """All timeout events."""
    return [TimeoutEvent.model_validate_json(r.value or b"") for r in bus.sink.of(Output.TIMEOUTS)]


def stage(result: PipelineResult, stage_type: StageType) -> StageResult:
    """The result of one stage."""
    [found] = [stage for stage in result.stages if stage.stage_type == stage_type]
    return found


def outcomes(result: PipelineResult) -> list[str]:
    """How the stages ended."""
    return [str(stage.outcome) for stage in result.stages]


def know(bus: MemoryBus, takes_s: Mapping[StageType, float], lane: str = "prod") -> None:
    """Let a lane have learned what the stages take."""
    policy = bus.dispatcher.learned.lane(lane)
    for stage_type, limit in zip(StageType, policy.limits, strict=True):
        for _ in range(limit.policy.min_samples):
            limit.succeeded(takes_s.get(stage_type, 0.0))
    policy.refresh(asyncio.get_running_loop().time())
