"""Shared by tests on the memory bus: scripted nodes, and a wall clock in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from fivestage import Pipeline
from fivestage.core.codec.event_json import Envelope
from fivestage.core.ledger import PartitionKey
from fivestage.core.observer import Observer
from fivestage.core.outcome import conclude
from fivestage.core.plan import Plan
from fivestage.core.records import NOT_FROM_KAFKA, Output
from fivestage.core.stage_history import StageHistory
from fivestage.core.stage_run import StageRun
from fivestage.observability.query_trace import Ending
from fivestage.testing import VirtualTimeLoop
from fivestage.testing.memory import TOPIC
from fivestage_schemas import Outcome, StageType, TimeoutEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fivestage import Query, StageContext
    from fivestage.core.adaptive.breaker import BreakerState
    from fivestage.core.observer import ControlChange
    from fivestage.core.outcome import QueryOutcome
    from fivestage.testing.memory import MemoryBus
    from fivestage_schemas import PipelineResult, StageResult, TimeoutReason

EPOCH = 1_800_000_000.0
"""The wall clock at loop time 0."""
KEY = PartitionKey(TOPIC, 0)
NO_TIME: Mapping[StageType, float] = MappingProxyType({})


class FakeNode:
    """A scripted node that records its calls."""

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
        """The highest number of concurrent calls seen."""

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
            raise LookupError("scripted")
        return query.user_input


def pipeline(takes_s: Mapping[StageType, float] = NO_TIME, /, **nodes: FakeNode) -> Pipeline:
    """Build stages that take the durations that the mapping holds at the call; the question is the intent."""
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
    """Records the events of the bus."""

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

    def expired(self, query: Envelope, reason: TimeoutReason) -> None:  # noqa: ARG002
        self.expirations[reason] += 1

    def concluded(self, query: Envelope, outcome: QueryOutcome, text: str) -> None:  # noqa: ARG002
        self.answered[query.lane] += outcome.status == "success"


def query(query_id: str, text: str = "any", **fields: Any) -> bytes:
    """Build a query event."""
    return orjson.dumps({"query_id": query_id, "user_input": text, **fields})


def block(seconds: float) -> None:
    """Block the loop as ``time.sleep`` does: time passes and nothing else runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._jumps.waited_s += seconds


def in_virtual_time(bus: MemoryBus) -> None:
    """Make the dispatcher's wall clock follow the loop's clock."""
    clock = asyncio.get_running_loop().time
    bus.dispatcher._screening.wall_clock = lambda: EPOCH + clock()


def timestamp() -> int:
    """Return the current time as a record timestamp."""
    return round((EPOCH + asyncio.get_running_loop().time()) * 1000)


async def finish(bus: MemoryBus, count: int) -> None:
    """Wait until the total number of terminal events reaches this."""
    while len(bus.sink.of(Output.RESULTS)) < count:
        await bus.sink.published()


async def ask_many(bus: MemoryBus, name: str, count: int, **fields: Any) -> None:
    """Put *count* queries, as many at a time as there are slots, and wait until they end."""
    before = len(bus.sink.of(Output.RESULTS))
    for number in range(count):
        bus.put(query(f"{name}{number}", **fields))
    await finish(bus, before + count)


async def ask_for_a_second(bus: MemoryBus, count: int = 21, **fields: Any) -> None:
    """Spread *count* queries evenly over one second, and wait until they have ended."""
    before = len(bus.sink.of(Output.RESULTS))
    for number in range(count):
        bus.put(query(f"within{before + number}", **fields))
        if number < count - 1:
            await asyncio.sleep(1.001 / (count - 1))
    await finish(bus, before + count)


async def ask_in_turn(bus: MemoryBus, count: int, **fields: Any) -> list[PipelineResult]:
    """Ask one query after the other."""
    return [await bus.ask("any", **fields) for _ in range(count)]


def statuses(bus: MemoryBus) -> Counter[str]:
    """Count the queries by status."""
    return Counter(dict(record.headers)["status"].decode() for record in bus.sink.of(Output.RESULTS))


def ends(bus: MemoryBus) -> Counter[bytes]:
    """Count the terminal events of each query."""
    return Counter(dict(record.headers)["ce_subject"] for record in bus.sink.of(Output.RESULTS))


def timeouts(bus: MemoryBus) -> list[TimeoutEvent]:
    """Return all timeout events."""
    return [TimeoutEvent.model_validate_json(r.value or b"") for r in bus.sink.of(Output.TIMEOUTS)]


def stage(result: PipelineResult, stage_type: StageType) -> StageResult:
    """Return the result of one stage."""
    [found] = [stage for stage in result.stages if stage.stage_type == stage_type]
    return found


def outcomes(result: PipelineResult) -> list[str]:
    """Return the outcomes of the stages."""
    return [str(stage.outcome) for stage in result.stages]


def know(bus: MemoryBus, takes_s: Mapping[StageType, float], lane: str = "prod") -> None:
    """Teach a lane the durations of its stages."""
    policy = bus.dispatcher.learned.lane(lane)
    for stage_type, limit in zip(StageType, policy.limits, strict=True):
        for _ in range(limit.policy.min_samples):
            limit.succeeded(takes_s.get(stage_type, 0.0))
    policy.refresh(asyncio.get_running_loop().time())


def ending_of(processing: Outcome) -> Ending:
    """Make the end of a query whose processing stage ended so."""
    plan, history = Plan.of(), StageHistory()
    for spec in plan.stages:
        outcome = processing if spec.stage_type is StageType.PROCESSING else Outcome.SUCCESS
        failed = outcome is Outcome.ERROR
        error, error_type, where = ("no", "ValueError", "app.py:7") if failed else (None, None, None)
        run = StageRun(spec, outcome, b"{}", error, error_type, "node", started_at=1.0, duration_s=0.001)
        run.where = where
        history.finish(run)
    envelope = Envelope(NOT_FROM_KAFKA, "q", "prod", started_wall=EPOCH, started_at=1.0)
    ended = conclude(history, plan, started_at=1.0, ends_at=1.25, now=1.01)
    return Ending(envelope, ended, ended.error_type, ended.status.value, "", EPOCH)
