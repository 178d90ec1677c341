"""The spans that user code runs in, and what goes wrong with spans, on the memory bus."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from structlog.testing import capture_logs

from fivestage import Orchestrator, Pipeline
from fivestage.core.codec.event_json import Envelope
from fivestage.core.outcome import QueryOutcome
from fivestage.core.plan import Plan
from fivestage.core.records import NOT_FROM_KAFKA, Output
from fivestage.core.stage_run import StageRun
from fivestage.core.time_slice import SLICE_S
from fivestage.core.trace_context import SEND, call_number, span_id_of
from fivestage.observability.query_spans import SpanMaker
from fivestage.observability.sampling import EarlySampling
from fivestage.observability.span_queue import REPORT_S
from fivestage.observability.tracing import Tracing
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import Outcome, PipelineStatus
from support.documents import blocks, text_of

from .samples import ending_of
from .test_metrics_and_traces import CANARY, PARENT, SAMPLED, TRACE_ID, ask, tracing_into

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from fivestage import Query, StageContext

STATE = ("tracestate", b"vendor=1")


def ids(span: trace.Span) -> tuple[str, str, int]:
    """Return trace id, span id, and whether the span is sampled."""
    found = span.get_span_context()
    return f"{found.trace_id:032x}", f"{found.span_id:016x}", int(found.trace_flags) & 1


def looking(leaving: str = "after") -> tuple[Pipeline, dict[str, tuple[str, str, int]]]:
    """Build an app whose stages note the span that they run in; at *leaving* one leaves another behind."""
    app, seen = Pipeline(builtins=False), {}

    def look(name: str) -> None:
        seen[name] = ids(trace.get_current_span())
        if leaving in name:
            context.attach(trace.set_span_in_context(trace.INVALID_SPAN))

    @app.intent
    async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
        look(f"{query.query_id} stage intent")
        return {"intent": "any"}

    @app.decision
    async def decide(query: Query, _ctx: StageContext) -> str:
        look(f"{query.query_id} stage decision")
        return "node"

    @app.node("node")
    async def node(query: Query, _ctx: StageContext) -> str:
        look(f"{query.query_id} node node")
        await asyncio.sleep(0.01)  # other queries run meanwhile
        look(f"{query.query_id} after")
        return "answer"

    return app, seen


async def test_each_stage_runs_in_its_own_span() -> None:
    """The current span of a stage has the id of the span that is recorded, whatever the one before did."""
    exporter = InMemorySpanExporter()
    app, seen = looking(leaving="stage")
    async with MemoryBus(app, tracing=tracing_into(exporter)) as bus:
        bus.put(b'{"query_id":"q","user_input":"x"}', headers=[SAMPLED])
        await bus.sink.published()
    recorded = {span.name: f"{span.context.span_id:016x}" for span in exporter.get_finished_spans()}
    names = ("stage intent", "stage decision", "node node")
    assert {name: seen[f"q {name}"] for name in names} == {
        name: (TRACE_ID, recorded[name], 1) for name in names
    }


@pytest.mark.parametrize("ratio", [0.0, 1.0])
async def test_queries_do_not_see_each_others_spans(ratio: float) -> None:
    """Queries that run at the same time, and leave a span behind, have each its own trace."""
    provider = TracerProvider(id_generator=EarlySampling(ratio), shutdown_on_exit=False)
    app, seen = looking()
    tracing = Tracing(results_topic="results", group_id="g", provider=provider)
    async with MemoryBus(app, tracing=tracing) as bus:
        await asyncio.gather(*(bus.ask("x", query_id=f"q{number}") for number in range(3)))
    of_query = {
        dict(record.headers)["ce_subject"].decode(): dict(record.headers)["traceparent"].decode().split("-")
        for record in bus.sink.of(Output.RESULTS)
    }
    assert len({trace_id for _, trace_id, *_ in of_query.values()}) == 3
    for name, (_, trace_id, span_id, _flags) in of_query.items():
        assert {seen[f"{name} {what}"][0] for what in ("stage intent", "node node")} == {trace_id}
        if not ratio:
            assert seen[f"{name} node node"][1] == span_id


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_tracestate_goes_on(flags: str) -> None:
    """The producer's tracestate is in the headers of events, and in what user code sends."""
    states: list[str] = []
    app = Pipeline(builtins=False)

    @app.node("node", intents={"any"})
    async def node(_query: Query, _ctx: StageContext) -> str:
        states.append(trace.get_current_span().get_span_context().trace_state.to_header())
        return "answer"

    @app.decision
    async def decide(_query: Query, _ctx: StageContext) -> str:
        return "node"

    provider = TracerProvider(id_generator=EarlySampling(1.0), shutdown_on_exit=False)
    tracing = Tracing(results_topic="results", group_id="g", provider=provider)
    headers = [("traceparent", f"00-{TRACE_ID}-{PARENT}-{flags}".encode()), STATE]
    async with MemoryBus(app, tracing=tracing) as bus:
        bus.put(b'{"query_id":"q","user_input":"x"}', headers=headers)
        await bus.sink.published()
    assert states == ["vendor=1"]
    assert all(dict(record.headers)["tracestate"] == b"vendor=1" for record in bus.sink.records)


@pytest.mark.parametrize(
    ("sent", "goes_on"),
    [
        (f"00-{TRACE_ID}-{PARENT}-01", True),
        (f"01-{TRACE_ID}-{PARENT}-01", True),
        (f"cc-{TRACE_ID}-{PARENT}-01-what-later-versions-add", True),
        (f"00-{TRACE_ID}-{PARENT}-01-more", False),
        (f"01-{TRACE_ID}-{PARENT}-01more", False),
        (f"ff-{TRACE_ID}-{PARENT}-01", False),
    ],
)
async def test_later_versions_of_trace_context(sent: str, *, goes_on: bool) -> None:
    """Their known fields are read; what is published has version 00."""
    async with MemoryBus(Pipeline(), tracing=Tracing(results_topic="results", group_id="g")) as bus:
        bus.put(b'{"query_id":"q","user_input":"x"}', headers=[("traceparent", sent.encode())])
        await bus.sink.published()
    [published] = {dict(record.headers).get("traceparent", b"").decode()[:35] for record in bus.sink.records}
    assert (published == f"00-{TRACE_ID}") == goes_on


async def test_without_kafka_the_callers_span_goes_on() -> None:
    """What ``Orchestrator.process_query`` runs continues the caller's trace."""
    app, seen = looking()
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("caller").start_as_current_span("caller") as span:
        await Orchestrator(app).process_query("x", query_id="q")
        assert seen["q stage intent"] == ids(span)


class _Broken(Sampler, SpanProcessor):
    """A sampler and a processor that raise."""

    def should_sample(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(CANARY)

    def get_description(self) -> str:
        return "broken"

    def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002 - the interface's
        raise RuntimeError(CANARY)


@pytest.mark.parametrize("broken", ["sampler", "processor"])
async def test_tracing_that_fails_costs_no_query(broken: str) -> None:
    """A sampler or a processor that raises is logged once; each query is answered, and the trace goes on."""
    sampler = _Broken() if broken == "sampler" else None
    provider = TracerProvider(sampler, shutdown_on_exit=False)
    if broken == "processor":
        provider.add_span_processor(_Broken())
    tracing = Tracing(results_topic="results", group_id="g", provider=provider)
    app, _ = looking()
    with capture_logs() as lines:
        async with MemoryBus(app, tracing=tracing) as bus:
            for number in range(2):
                bus.put(b'{"query_id":"q%d","user_input":"x"}' % number, headers=[SAMPLED])
            await asyncio.sleep(1)
            assert bus.dispatcher.in_flight == 0
    assert [line["error_type"] for line in lines if "span" in line["event"]] == ["RuntimeError"]
    assert [str(result.status) for result in bus.results()] == ["success"] * 2
    assert all(
        dict(one.headers)["traceparent"].split(b"-")[1].decode() == TRACE_ID for one in bus.sink.records
    )


@pytest.mark.parametrize("show_text", [False, True])
async def test_messages_of_exceptions_need_a_setting(*, show_text: bool) -> None:
    """The exception event has the message only with ``logging.show_text``."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(results_topic="results", group_id="g", provider=provider, show_text=show_text)
    await ask(f"boom {CANARY}", SAMPLED, tracing=tracing)
    [event] = [one for span in exporter.get_finished_spans() for one in span.events]
    assert (event.attributes or {}).get("exception.message") == (f"boom {CANARY}" if show_text else None)
    assert any(CANARY in span.to_json() for span in exporter.get_finished_spans()) is show_text


async def test_a_foreign_sampler_decides() -> None:
    """Where the operator's sampler drops a query, its trace goes on unsampled."""
    app, seen = looking()
    async with MemoryBus(app, tracing=tracing_into(InMemorySpanExporter(), sampler=ALWAYS_OFF)) as bus:
        bus.put(b'{"query_id":"q","user_input":"x"}', headers=[SAMPLED])
        await bus.sink.published()
    [value] = {dict(record.headers)["traceparent"].decode() for record in bus.sink.records}
    trace_id, span_id, sampled = seen["q node node"]
    assert value == f"00-{trace_id}-{span_id}-{sampled:02x}" == f"00-{TRACE_ID}-{span_id}-00"


async def test_the_printed_node_has_a_span() -> None:
    """The node of docs/traces.md runs, and its own span is below the node's."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    found: dict[str, Any] = {"__name__": "printed"}
    exec(blocks("python", text_of("docs/traces.md"))[0], found)  # noqa: S102
    found["tracer"] = provider.get_tracer("author")
    tracing = Tracing(results_topic="results", group_id="g", provider=provider)
    async with MemoryBus(found["app"], tracing=tracing) as bus:
        assert (await bus.ask("hello there")).answer == "Hello!"
    spans = {span.name: span for span in exporter.get_finished_spans()}
    own = spans["find the words"]
    assert own.parent is not None
    assert own.parent.span_id == spans["node greeter"].context.span_id


async def test_a_stage_that_was_started_again() -> None:
    """Each attempt has a span with the id that its code saw, and says why it was made."""
    exporter = InMemorySpanExporter()
    trace_ = tracing_into(exporter).begin({"traceparent": SAMPLED[1].decode()}, NOT_FROM_KAFKA, "q", 100.0)
    plan = Plan.of()
    given_up = StageRun(plan.stages[0], Outcome.SKIPPED, attempt=1, started_at=5.0, duration_s=0.01)
    again = StageRun(plan.stages[0], Outcome.TIMEOUT, error_type="timeout", attempt=2, started_at=5.01)
    runs = [again, *(StageRun(spec, Outcome.SKIPPED) for spec in plan.stages[1:])]
    outcome = QueryOutcome(
        PipelineStatus.TIMEOUT, tuple(runs), (), 5.0, 0.02, 0.25, error_type="timeout", earlier=(given_up,)
    )
    trace_.conclude(Envelope(NOT_FROM_KAFKA, "q", "prod", started_wall=100.0, started_at=5.0), outcome)
    trace_.acknowledged()
    await asyncio.sleep(0.1)
    process = next(span for span in exporter.get_finished_spans() if span.name.startswith("process"))
    first, second = (span for span in exporter.get_finished_spans() if span.name == "stage intent")
    for number, span in enumerate((first, second), 1):
        assert span.context.span_id == span_id_of(process.context.span_id, call_number(0, number))
    kinds = [(span.attributes or {})["lukhas.matriz.attempt_kind"] for span in (first, second)]
    assert kinds == ["first", "resumed"]
    assert [span.status.is_ok for span in (first, second)] == [True, False]
    assert (first.start_time, first.end_time) == (100_000_000_000, 100_010_000_000)


async def test_spans_are_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries that are acknowledged together do not keep the loop; beyond a bound spans are left out."""
    monkeypatch.setattr("fivestage.observability.span_queue.MAX_WAITING", 50)
    exporter, turns = InMemorySpanExporter(), 0
    tracing = tracing_into(exporter)
    loop = asyncio.get_running_loop()
    headers = {"traceparent": SAMPLED[1].decode()}
    traces = [tracing.begin(headers, NOT_FROM_KAFKA, f"q{number}", 0.0) for number in range(60)]
    looks = count()
    monkeypatch.setattr(loop, "time", lambda: next(looks) * SLICE_S / 2)  # so long does a query take
    with capture_logs() as lines:
        for one in traces:
            one.reject(Envelope(NOT_FROM_KAFKA, "q", "prod"), "expired", "expired_before_start")
            one.acknowledged()
        while len(exporter.get_finished_spans()) < 2 * 50:
            await asyncio.sleep(0)
            turns += 1
    assert turns >= 25  # two at a time at most, where the sum of floats is short
    assert [line["queries"] for line in lines] == [1]


async def test_spans_left_out_are_logged_while_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under lasting overload the log says how many spans are missing: at once, and then every 30 s."""
    monkeypatch.setattr("fivestage.observability.span_queue.MAX_WAITING", 0)
    tracing = tracing_into(InMemorySpanExporter())

    def leave_out(number: int) -> None:
        for _ in range(number):
            trace_ = tracing.begin({"traceparent": SAMPLED[1].decode()}, NOT_FROM_KAFKA, "q", 0.0)
            trace_.reject(Envelope(NOT_FROM_KAFKA, "q", "prod"), "expired", "expired_before_start")
            trace_.acknowledged()

    with capture_logs() as lines:
        for number in (10, 4, 0, 0, 2):
            leave_out(number)
            await asyncio.sleep(REPORT_S + 1)
    assert [line["queries"] for line in lines] == [1, 9, 4, 1, 1]


def test_an_id_is_for_one_span_only() -> None:
    """Where a sampler raises for a span, the next one does not get its id."""
    provider = TracerProvider(shutdown_on_exit=False)
    tracer: Any = provider.get_tracer("fivestage")
    spans = SpanMaker(provider, tracer, results_topic="results", show_text=False)
    with tracer.start_span("process") as process:
        tracer.sampler = _Broken()
        with pytest.raises(RuntimeError, match=CANARY):
            spans.make(process, ending_of(Outcome.SUCCESS))
    assert tracer.id_generator.generate_span_id() != span_id_of(process.get_span_context().span_id, SEND)
