"""One run of the dispatcher with one shape and one load, in virtual time."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fivestage import Pipeline
from fivestage.core.codec.encode import Encoder
from fivestage.core.ledger import Ledger, PartitionKey
from fivestage.core.observer import Observer
from fivestage.core.records import Output, PlainRecord
from fivestage.dispatch.build import build
from fivestage.executors import InlineExecutor
from fivestage.observability.tracing import Tracing
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage.testing import MemorySource, VirtualTimeLoop

from .controls_loads import OF_USE_S, Load, queries
from .controls_shapes import SLOTS, Shape, clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage import Query, StageContext
    from fivestage.core.records import OutputRecord

    from .controls_loads import Asked
    from .controls_shapes import Call

TOPIC = "queries"
WALL_AT_START = 1_700_000_000.0
MAX_RECORD_BYTES = 1_000_000
AFTER_S = 5.0
"""How long after the last query answers are awaited: all later ones are late."""

CONTROLS: dict[str, dict[str, dict[str, Any]]] = {
    "stage limits": {"adaptive": {"enabled": False}},
    "concurrency": {"admission": {"adaptive_limit": False}},
    "breaker": {"breaker": {"enabled": False}},
    "shedding": {"admission": {"shed": "off"}},
}
"""Each control, and the settings that switch it off."""
COLUMNS = ("off", "on", *CONTROLS)
"""All off, all on, and one on at a time."""


class End(NamedTuple):
    """How a query ended, and when (virtual seconds)."""

    status: str
    error_type: str | None
    at: float


class Seen(NamedTuple):
    """The outcome of one query."""

    asked: Asked
    started_at: float | None
    """The start of its first stage; None where it was not started."""
    end: End | None


def settings_for(column: str, load: Load) -> Settings:
    """Return the settings of a column: the defaults, with controls switched off."""
    values: dict[str, Any] = {"admission": {"max_in_flight": SLOTS}}
    if load.has_deadline:
        values["admission"]["query_ttl_ms"] = round(OF_USE_S * 1000)
    for control, off in CONTROLS.items():
        if column not in {"on", control}:
            for section, entries in off.items():
                values.setdefault(section, {}).update(entries)
    return Settings(**values)


def run(shape: Shape, load: Load, column: str, seed: int) -> list[Seen]:
    """Run one column of one cell; the same arguments give the same result."""
    asked = queries(shape, load, seed)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_run(shape, asked, settings_for(column, load), seed))


async def _run(shape: Shape, asked: list[Asked], settings: Settings, seed: int) -> list[Seen]:
    return await _Run(shape, asked, settings, seed).all_queries()


class _Sink:
    """Records how each query ended; acknowledges in a later turn of the loop."""

    def __init__(self, asked: int) -> None:
        self.ends: dict[int, End] = {}
        self.all_ended = asyncio.Event()
        self._asked = asked

    def publish(
        self,
        records: Sequence[OutputRecord],
        on_acked: Callable[[], None],
        is_wanted: Callable[[], bool] = lambda: True,  # noqa: ARG002 - nothing waits here
    ) -> None:
        for record in records:
            if record.output is Output.RESULTS:
                result = orjson.loads(record.value or b"")
                number = int(result["query_id"])
                self.ends[number] = End(result["status"], result["error_type"], clock())
        if len(self.ends) == self._asked:
            self.all_ended.set()
        asyncio.get_running_loop().call_soon(on_acked)


class _Run:
    """The parts of one run."""

    def __init__(self, shape: Shape, asked: list[Asked], settings: Settings, seed: int) -> None:
        self._asked = asked
        self._started: dict[int, float] = {}
        self._sink = _Sink(len(asked))
        ledger = Ledger(max_span=settings.admission.max_uncommitted_span, halt_policy=settings.dlq.policy())
        ledger.assign(frozenset({PartitionKey(TOPIC, 0)}))
        self._source = MemorySource(ledger)
        self._executor = InlineExecutor(Orchestrator(self._app(shape), plan=settings.pipeline.plan()))
        rng = random.Random(seed).random  # noqa: S311 - repeatable on purpose
        self._poller, self._dispatcher = build(
            settings,
            ledger=ledger,
            encoder=Encoder(
                source="/bench", max_record_bytes=MAX_RECORD_BYTES, max_dead_letter_bytes=MAX_RECORD_BYTES
            ),
            executor=self._executor,
            sink=self._sink,
            observer=Observer(),
            tracing=Tracing(results_topic="results", group_id="bench"),
            wall_clock=lambda: WALL_AT_START + clock(),
            cpu_clock=clock,
            rng=rng,
        )

    def _app(self, shape: Shape) -> Pipeline:
        app = Pipeline(builtins=False)

        @app.intent
        async def intent(query: Query, _: StageContext) -> str:
            self._started[int(query.query_id)] = clock()
            return query.lane

        @app.validation
        async def validation(_query: Query, _: StageContext) -> bool:
            return True

        for name, lane, call in shape.nodes():
            app.node(name, intents={lane})(self._handler(call))
        return app

    def _handler(self, call: Call) -> Callable[[Query, StageContext], Any]:
        async def handler(query: Query, _: StageContext) -> int:
            await call(self._asked[int(query.query_id)].draw)
            return 1

        return handler

    async def all_queries(self) -> list[Seen]:
        """Ask all queries, and wait for their outcomes."""
        await self._executor.start(self._dispatcher.active.finished)
        reading = asyncio.create_task(self._poller.run(self._source))
        for number, query in enumerate(self._asked):
            await asyncio.sleep(query.at - clock())
            self._source.put(_record(number, query))
        try:
            async with asyncio.timeout(AFTER_S):
                await self._sink.all_ended.wait()
        except TimeoutError:
            pass
        ends = dict(self._sink.ends)
        self._poller.stop()
        await reading
        await self._executor.stop(1.0)
        return [Seen(one, self._started.get(n), ends.get(n)) for n, one in enumerate(self._asked)]


def _record(number: int, query: Asked) -> PlainRecord:
    value = orjson.dumps({"query_id": str(number), "user_input": "x", "lane": query.lane})
    return PlainRecord(TOPIC, 0, number, int((WALL_AT_START + query.at) * 1000), None, value)
