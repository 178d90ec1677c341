"""A node with stalls beside a healthy one: answers in time and further calls, without and with hedges.

No Kafka. A query may take 250 ms, and so may processing. In the last row both nodes take twenty times as long
from the middle on.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fivestage import Pipeline
from fivestage.core.observer import Observer
from fivestage.executors import ThreadExecutor, interpreter
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import PipelineStatus

from .parts import Bar, Options, Part
from .report import table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.outcome import QueryOutcome

PER_S = 200
LONGEST_S = 20.0
"""Of one row."""
STALLS, STALL_S = 0.02, 1.0
LEAST_S, MORE_S = 0.005, 0.005
"""Of a usual call, which takes the first and, in the mean of an exponential distribution, the second."""
SLOWER = 20
LIMIT_MS = 250
LOAD = 0.05
PIPELINE = {"total_timeout_ms": LIMIT_MS, "stage_timeouts_ms": {"processing": LIMIT_MS}}
IN_TIME = 99.8


class Row(NamedTuple):
    """What became of one load."""

    name: str
    queries: int
    in_time: int
    first_calls: int
    second_calls: int

    @property
    def in_time_percent(self) -> float:
        """The share that was answered in time."""
        return 100 * self.in_time / self.queries

    @property
    def extra_percent(self) -> float:
        """Further calls for each query."""
        return 100 * (self.first_calls + self.second_calls - self.queries) / self.queries


class Answers(Observer):
    """Counts the queries that end, and the answers."""

    def __init__(self) -> None:
        self.ended = self.in_time = 0

    def concluded(self, query: Envelope, outcome: QueryOutcome, text: str) -> None:  # noqa: ARG002
        self.ended += 1
        self.in_time += outcome.status is PipelineStatus.SUCCESS


class Twins:
    """Two nodes, the first of which stalls now and then."""

    def __init__(self) -> None:
        self.calls = [0, 0]
        self.slower = 1
        self._rng = random.Random(1)  # noqa: S311 - no secret

    def node(self, place: int) -> Callable[[Any, Any], Awaitable[str]]:
        """Build one of them."""

        async def answer(_query: Any, _ctx: Any) -> str:
            self.calls[place] += 1
            stalls = place == 0 and self._rng.random() < STALLS
            usual_s = self.slower * (LEAST_S + self._rng.expovariate(1 / MORE_S))
            await asyncio.sleep(STALL_S if stalls else usual_s)
            return "answer"

        return answer

    def app(self) -> Pipeline:
        """Build an app whose decision always chooses the first."""
        app = Pipeline(builtins=False)

        @app.intent
        async def intent(_query: Any, _ctx: Any) -> str:
            return "any"

        @app.decision
        async def decision(_query: Any, _ctx: Any) -> str:
            return "stalls"

        @app.validation
        async def validation(_query: Any, _ctx: Any) -> bool:
            return True

        for place, name in enumerate(("stalls", "healthy")):
            app.node(name, intents={"any"}, idempotent=True)(self.node(place))
        return app


async def measure(options: Options) -> Part:
    """Offer the same load three times in this process, with the service's interpreter settings."""
    interpreter.share_the_interpreter()
    queries = round(min(options.seconds, LONGEST_S) * PER_S)
    rows = [
        await _offer("without hedges", queries, load=0.0),
        await _offer(f"max_extra_load = {LOAD}", queries, load=LOAD),
        await _offer("the same, both slow from the middle on", queries, load=LOAD, slower=SLOWER),
    ]
    _, hedged, slow = rows
    bars = [
        Bar.at_least(
            "answers in time of a node with 2 % stalls, hedged", hedged.in_time_percent, IN_TIME, " %"
        ),
        Bar.at_most("further calls for that", hedged.extra_percent, 100 * LOAD, " %"),
        Bar.at_most(
            "further calls where everything is slow", slow.second_calls / queries * 100, 100 * LOAD, " %"
        ),
    ]
    columns = ["", "queries", "in time", "further calls"]
    shown = [
        [row.name, str(row.queries), f"{row.in_time_percent:.2f} %", f"{row.extra_percent:.2f} %"]
        for row in rows
    ]
    return Part("Hedges", [row._asdict() for row in rows], table(columns, shown), bars)


async def _offer(name: str, queries: int, *, load: float, slower: int = 1) -> Row:
    """Write queries at a steady rate, and wait until all have ended."""
    settings = Settings.model_validate({"hedge": {"max_extra_load": load}, "pipeline": PIPELINE})
    twins, answers = Twins(), Answers()
    orchestrator = Orchestrator(twins.app(), plan=settings.pipeline.plan(), threads=settings.executor.threads)
    executor = ThreadExecutor(orchestrator, observer=Observer(), stall_s=settings.executor.stall_ms / 1000)
    loop = asyncio.get_running_loop()
    async with MemoryBus(orchestrator.app, settings=settings, executor=executor, observer=answers) as bus:
        started_at = loop.time()
        for number in range(queries):
            await asyncio.sleep(max(0.0, started_at + number / PER_S - loop.time()))
            twins.slower = slower if number >= queries / 2 else 1
            bus.put(orjson.dumps({"query_id": str(number), "user_input": "any"}))
            bus.sink.records.clear()
        while answers.ended < queries:
            await bus.sink.published()
    return Row(name, queries, answers.in_time, *twins.calls)
