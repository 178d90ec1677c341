"""One run in virtual time with every possible outcome of a record in one process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator

from fivestage import Orchestrator, Pipeline
from fivestage.core.ledger import PartitionKey
from fivestage.core.records import CorruptRecord, Output, PlainRecord
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage.executors import InlineExecutor
from fivestage.observability.tracing import Tracing
from fivestage.settings import Settings
from fivestage.testing import MemoryBus, VirtualTimeLoop
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from fivestage import Query, StageContext
    from fivestage.core.job import Job
    from fivestage.core.observer import Observer
    from fivestage.dispatch.active_jobs import ActiveJobs

EPOCH = 1_800_000_000.0
"""The wall clock at loop time 0."""
MAX_RECORD_BYTES = 8_000
FAILING_CALLS = 60
"""More than a breaker needs to open."""
TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"question-7"),
    ("ce_source", b"/shop"),
    ("ce_type", b"shop.question.v1"),
    ("ce_correlationid", b"order-7"),
    ("content-type", b"application/json"),
    ("traceparent", TRACEPARENT),
    ("tracestate", b"shop=7"),
    ("lane", b"prod"),
    ("x-foreign", b"stays behind"),
]
PAST = "2020-01-01T00:00:00Z"
UNREADABLE: dict[str, bytes | None] = {
    "empty_value": None,
    "too_large": b"[" * 200_000,
    "not_json": b"{",
    "not_an_object": b"[]",
    "missing_field": b'{"query_id":"missing"}',
    "invalid_field": b'{"query_id":"invalid","user_input":7}',
    "unsupported_version": b'{"query_id":"version","user_input":"a","schema_version":"9"}',
    "unknown_lane": b'{"query_id":"lane","user_input":"a","lane":"unknown"}',
}


class Numbers(IdGenerator):
    """Sequential ids of traces and spans."""

    def __init__(self) -> None:
        self._last = 0

    def generate_span_id(self) -> int:
        """Return the next number."""
        self._last += 1
        return self._last

    generate_trace_id = generate_span_id


class Busy(InlineExecutor):
    """Runs jobs on the loop, except one whose node waits for a thread in vain first."""

    waits_for_thread: ActiveJobs | None = None

    def submit(self, job: Job) -> None:
        """Run a job, or let it wait."""
        running, self.waits_for_thread = self.waits_for_thread, None
        if running is None:
            super().submit(job)
            return
        asyncio.get_running_loop().call_soon(self._wait, job, running)

    def _wait(self, job: Job, running: ActiveJobs) -> None:
        now = asyncio.get_running_loop().time()
        for spec in job.plan.stages[:2]:
            job.history.finish(StageRun(spec, Outcome.SUCCESS, started_at=now))
        job.history.waiting = RunningStage(job.plan.stages[2], now, 0.0, "answers")
        running.waits(job, job.history, "pool")


def pipeline() -> Pipeline:  # noqa: C901 - a function for each outcome
    """Build stages in which the first word of a question says what happens."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
        await asyncio.sleep(0.001)
        return {"intent": query.user_input.partition(" ")[0], "confidence": 0.5}

    @app.decision
    async def decision(_query: Query, ctx: StageContext) -> str:
        return str(next(iter(ctx.results.values()))["intent"])

    @app.node("answers")
    async def answers(query: Query, _ctx: StageContext) -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"answer": query.user_input, "confidence": 0.75}

    @app.node("sleeps")
    async def sleeps(_query: Query, _ctx: StageContext) -> None:
        await asyncio.sleep(60)

    @app.node("offers")
    async def offers(_query: Query, ctx: StageContext) -> None:
        ctx.offer("a first guess", confidence=0.25)
        await asyncio.sleep(60)

    @app.node("fails")
    async def fails(_query: Query, _ctx: StageContext) -> None:
        raise LookupError("no such thing")

    @app.node("large")
    async def large(query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"answer": "x" * int(query.user_input.split()[1])}

    @app.validation
    async def validation(query: Query, _ctx: StageContext) -> bool:
        if "unvalidated" in query.user_input:
            await asyncio.sleep(60)
        return "doubtful" not in query.user_input

    @app.reflection
    async def reflection(_query: Query, ctx: StageContext) -> dict[str, Any]:
        return {"validated": ctx.validated}

    return app


QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "success": ('answers "42" \u2013 \u2713', {"context": {"a": 1}}),
    "stage-timeout": ("sleeps", {}),
    "pipeline-timeout": ("sleeps", {"budget_ms": 60}),
    "degraded": ("answers unvalidated", {}),
    "error": ("fails", {}),
    "no-node": ("nowhere", {}),
    "rejected": ("answers doubtful", {}),
    "too-large": (f"large {MAX_RECORD_BYTES}", {}),
    "expired": ("answers", {"deadline": PAST}),
}


def run(observer: Observer | None = None) -> MemoryBus:
    """Run everything, and return the bus with the published events."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_run(observer))


async def _run(observer: Observer | None) -> MemoryBus:
    settings = Settings.model_validate(
        {
            "lanes": {"prod": 1.0, "canary": 1.0},
            "pipeline": {"rejected": "error"},
            "admission": {"max_value_bytes": 100_000},
            "dlq": {"max_consecutive": 0, "max_ratio": 0},
            "kafka": {"max_record_bytes": MAX_RECORD_BYTES},
        }
    )
    provider = TracerProvider(id_generator=Numbers(), shutdown_on_exit=False)
    tracing = Tracing(results_topic="results", group_id="memory", provider=provider)
    app = pipeline()
    executor = Busy(Orchestrator(app, plan=settings.pipeline.plan()))
    bus = MemoryBus(app, settings=settings, observer=observer, tracing=tracing, executor=executor)
    clock = asyncio.get_running_loop().time
    bus.dispatcher._screening.wall_clock = lambda: EPOCH + clock()
    async with bus:
        for query_id, (text, fields) in QUESTIONS.items():
            await _ask(bus, query_id, text, **fields)
        for reason, value in UNREADABLE.items():
            bus.put(value, key=reason.encode(), headers=HEADERS, timestamp=_now_ms())
        bus.put(b"\x00\xff", timestamp=_now_ms())  # without a key
        bus.put(b"{}", headers=[("content-type", b"application/cloudevents+json")], timestamp=_now_ms())
        _put_corrupt(bus)
        await asyncio.sleep(1)
        for number in range(FAILING_CALLS):  # a second of them opens the breaker
            await _ask(bus, f"failing-{number}", "fails", lane="canary")
            await asyncio.sleep(0.025)
        executor.waits_for_thread = bus.dispatcher.active
        await _ask(bus, "busy", "answers")
        bus.dispatcher.learned.lane("prod").routing.stuck = frozenset({"answers"})
        await _ask(bus, "stuck", "answers")
        await _ask(bus, "offered", "offers")
        await _ask(bus, "partial", "offers", allow_partial=True)
    return bus


async def _ask(bus: MemoryBus, query_id: str, text: str, **fields: Any) -> None:
    before = len(bus.sink.of(Output.RESULTS))
    value = orjson.dumps({"query_id": query_id, "user_input": text, **fields})
    key, headers = (None, []) if fields else (b"key-7", HEADERS)
    bus.put(value, key=key, headers=headers, timestamp=_now_ms())
    while len(bus.sink.of(Output.RESULTS)) == before:
        await bus.sink.published()


def _put_corrupt(bus: MemoryBus) -> None:
    """Add a record that its client could not read from its batch, in a separate partition."""
    key = PartitionKey("queries", 1)
    bus.ledger.assign(frozenset({key}))
    offsets = bus.ledger.offsets(key)
    assert offsets is not None
    offsets.begin(0)
    bus.dispatcher.dispatch(CorruptRecord(PlainRecord(*key, 0), "wrong checksum"))


def _now_ms() -> int:
    return round((EPOCH + asyncio.get_running_loop().time()) * 1000)
