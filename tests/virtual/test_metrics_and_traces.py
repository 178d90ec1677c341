"""Metrics and traces of queries, on the memory bus."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBasedTraceIdRatio
from structlog.testing import capture_logs

from fivestage import Pipeline
from fivestage.core.adaptive.lane_state import MIN_ANSWERS
from fivestage.core.codec.event_json import Envelope
from fivestage.core.observer import ControlChange
from fivestage.core.records import NOT_FROM_KAFKA, Output
from fivestage.executors.worker import ReplacementReason
from fivestage.observability.exposition import render
from fivestage.observability.metrics import Metrics
from fivestage.observability.sampling import EarlySampling, Provider
from fivestage.observability.tally import Tally
from fivestage.observability.tracing import Tracing
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import TimeoutReason
from unit.core.samples import envelope

from . import samples

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from fivestage import Query, StageContext

ENVELOPE = Envelope(NOT_FROM_KAFKA, "q", "prod")
CANARY = "canary-7f3a"
TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = ("traceparent", f"00-{TRACE_ID}-{PARENT}-01".encode())


def pipeline() -> Pipeline:
    """Build stages that answer; a question with ``boom`` raises with the question in its text."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"intent": "any"}

    @app.decision
    async def decide(_query: Query, _ctx: StageContext) -> str:
        return "node"

    @app.node("node")
    async def node(query: Query, _ctx: StageContext) -> str:
        if "boom" in query.user_input:
            raise LookupError(query.user_input)
        return query.user_input

    return app


async def ask(
    text: str,
    *headers: tuple[str, bytes],
    metrics: Metrics | None = None,
    tracing: Tracing | None = None,
    **fields: Any,
) -> MemoryBus:
    """Put one query through a bus."""
    async with MemoryBus(pipeline(), observer=metrics, tracing=tracing) as bus:
        bus.put(orjson.dumps({"query_id": "q", "user_input": text, **fields}), headers=headers)
        await bus.sink.published()
    return bus


def tracing_into(exporter: InMemorySpanExporter, **options: Any) -> Tracing:
    """Build tracing whose spans a test can read."""
    provider = TracerProvider(**options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(results_topic="results", group_id="g", provider=provider)


async def spans_of(text: str, *headers: tuple[str, bytes]) -> dict[str, ReadableSpan]:
    """Return the spans of one query, by name."""
    exporter = InMemorySpanExporter()
    await ask(text, *headers, tracing=tracing_into(exporter))
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_metric_names_and_labels_of_the_contract() -> None:
    """The four metric names of the contract have their labels and count one query."""
    metrics = Metrics(topic="queries", group_id="g")
    await ask("x", metrics=metrics)
    text = render(metrics.registry, "")[0].decode()
    pipeline_labels = '{lane="prod",status="success",within_budget="true"}'
    assert f"lukhas_matriz_async_pipeline_total{pipeline_labels} 1.0" in text
    assert f"lukhas_matriz_async_pipeline_duration_seconds_count{pipeline_labels} 1.0" in text
    for stage in ("intent", "decision", "processing", "validation", "reflection"):
        stage_labels = f'{{lane="prod",outcome="success",stage="{stage}"}}'
        assert f"lukhas_matriz_async_stage_total{stage_labels} 1.0" in text
        assert f"lukhas_matriz_async_stage_duration_seconds_count{stage_labels} 1.0" in text
    assert 'le="0.25"' in text


async def test_spans_of_a_sampled_query() -> None:
    """The process span is under the producer's, five stages and the send are below it, in one trace."""
    spans = await spans_of("x", SAMPLED)
    process = spans["process queries"]
    assert process.parent is not None
    assert process.parent.span_id == int(PARENT, 16)
    assert [link.context.span_id for link in process.links] == [int(PARENT, 16)]
    below = {
        name for name, span in spans.items() if span.parent and span.parent.span_id == process.context.span_id
    }
    stages = {f"stage {stage}" for stage in ("intent", "decision", "processing", "validation", "reflection")}
    assert below == stages | {"send results"}
    assert {span.context.trace_id for span in spans.values()} == {int(TRACE_ID, 16)}


async def test_events_carry_the_send_span() -> None:
    """The traceparent of every event is the send span's context."""
    exporter = InMemorySpanExporter()
    bus = await ask("x", SAMPLED, tracing=tracing_into(exporter))
    [send] = [span for span in exporter.get_finished_spans() if span.name == "send results"]
    expected = f"00-{TRACE_ID}-{send.context.span_id:016x}-01".encode()
    assert {dict(record.headers)["traceparent"] for record in bus.sink.records} == {expected}


async def test_unsampled_queries_still_carry_a_trace() -> None:
    """Unsampled queries have no spans, but their events have a trace."""
    exporter = InMemorySpanExporter()
    bus = await ask("x", SAMPLED, tracing=tracing_into(exporter, sampler=ALWAYS_OFF))
    assert exporter.get_finished_spans() == ()
    [value] = {dict(record.headers)["traceparent"] for record in bus.sink.records}
    assert value.decode().split("-")[1] == TRACE_ID


def both_ways(ratio: float, headers: dict[str, str]) -> list[str]:
    """Return the traceparent of events with the early decision, and with the SDK's own."""
    found = []
    for numbering in (EarlySampling(ratio), None):
        options = {"sampler": ParentBasedTraceIdRatio(ratio), "id_generator": numbering}
        tracing = tracing_into(InMemorySpanExporter(), **options)
        trace = tracing.begin(headers, NOT_FROM_KAFKA, "q", 0.0)
        trace.reject(ENVELOPE, "expired", "expired_before_start")
        trace.acknowledged()
        found.append(dict(trace.headers)["traceparent"].decode())
    return found


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("flags", ["00", "01", "02", "03", None])
async def test_the_early_decision_is_that_of_the_sdk(ratio: float, flags: str | None) -> None:
    """The early decision has the version, trace and flags of the SDK's, and a valid span id."""
    headers = {} if flags is None else {"traceparent": f"00-{TRACE_ID}-{PARENT}-{flags}"}
    early, sdk = (text.split("-") for text in both_ways(ratio, headers))
    assert (early[0], early[3], len(early[2])) == (sdk[0], sdk[3], len(sdk[2]))
    assert early[2] != PARENT
    assert (early[1] == sdk[1] == TRACE_ID) is (flags is not None)


async def test_the_sampling_ratio_is_kept() -> None:
    """The sampling decision is made once: the SDK samples the same queries under the same trace id."""
    exporter = InMemorySpanExporter()
    numbering = EarlySampling(0.25)
    tracing = tracing_into(exporter, sampler=ParentBasedTraceIdRatio(0.25), id_generator=numbering)
    sampled = 0
    for _ in range(2000):
        trace = tracing.begin({}, NOT_FROM_KAFKA, "q", 0.0)
        sampled += dict(trace.headers)["traceparent"].endswith(b"3")
        trace.reject(ENVELOPE, "expired", "expired_before_start")
        trace.acknowledged()
    await asyncio.sleep(0.1)
    assert len(exporter.get_finished_spans()) == 2 * sampled
    assert 380 <= sampled <= 620  # six standard deviations


@pytest.mark.parametrize("flags", ["00", "01", "02", "03", None])
async def test_without_an_exporter_no_spans_are_created(flags: str | None) -> None:
    """Without an exporter no span is created, and the header is the same as with spans."""
    exporter = InMemorySpanExporter()
    headers = {} if flags is None else {"traceparent": f"00-{TRACE_ID}-{PARENT}-{flags}"}
    provider = Provider(EarlySampling(1.0), sampler=ParentBasedTraceIdRatio(1.0))
    tracing = Tracing(results_topic="results", group_id="g", provider=provider)
    found = []
    for received in (False, True):
        if received:
            provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace = tracing.begin(headers, NOT_FROM_KAFKA, "q", 0.0)
        trace.reject(ENVELOPE, "expired", "expired_before_start")
        trace.acknowledged()
        await asyncio.sleep(0.1)
        found.append(dict(trace.headers)["traceparent"].decode().split("-"))
        assert bool(exporter.get_finished_spans()) is (received and flags not in {"00", "02"})
    assert found[0][3] == found[1][3]
    assert (found[0][1] == found[1][1] == TRACE_ID) is (flags is not None)


async def test_a_failed_query_marks_its_spans() -> None:
    """An error sets status and error.type on the process and the stage span."""
    spans = await spans_of("boom", SAMPLED)
    for name in ("process queries", "stage processing"):
        assert spans[name].status.is_ok is False
        assert (spans[name].attributes or {})["error.type"] == "LookupError"


async def test_query_text_stays_out_of_metrics_and_spans() -> None:
    """Neither questions nor exception texts of nodes reach metrics or spans."""
    exporter, metrics = InMemorySpanExporter(), Metrics(topic="queries", group_id="g")
    for text in (CANARY, f"boom {CANARY}"):
        bus = await ask(text, SAMPLED, metrics=metrics, tracing=tracing_into(exporter))
        assert CANARY.encode() in b"".join(r.value or b"" for r in bus.sink.of(Output.RESULTS))
    assert CANARY not in render(metrics.registry, "")[0].decode()
    assert len(exporter.get_finished_spans()) > 8
    assert all(CANARY not in span.to_json() for span in exporter.get_finished_spans())


async def test_metrics_count_what_was_published() -> None:
    """Too large answers and unreadable queries are counted as the published errors."""
    metrics = Metrics(topic="queries", group_id="g")
    settings = Settings.model_validate({"kafka": {"max_record_bytes": 5000}})
    async with MemoryBus(pipeline(), observer=metrics, settings=settings) as bus:
        await bus.ask("x" * 6000)
        bus.put(b'{"query_id":"bad"}')
        await bus.sink.published()
    assert [str(result.status) for result in bus.results()] == ["error", "error"]
    text = render(metrics.registry, "")[0].decode()
    totals = [line for line in text.splitlines() if line.startswith("lukhas_matriz_async_pipeline_total")]
    seen = {line.partition("}")[0].split(",")[1] for line in totals if not line.endswith(" 0.0")}
    assert seen == {'status="error"'}
    assert 'fivestage_dead_letters_total{reason="missing_field"} 1.0' in text


def text_of(metrics: Metrics) -> list[str]:
    """Return the lines of all metrics."""
    return render(metrics.registry, "")[0].decode().splitlines()


async def test_ends_are_counted_by_query_and_by_stage() -> None:
    """Rejected queries count as ended; skipped stages are counted without a duration."""
    metrics = Metrics(topic="queries", group_id="g")
    await ask("boom", metrics=metrics)
    metrics.expired(envelope(lane="prod", queue_s=3.0), TimeoutReason.EXPIRED_BEFORE_START)
    lines = text_of(metrics)
    ended, stage = "lukhas_matriz_async_pipeline_total", "lukhas_matriz_async_stage"
    assert f'{ended}{{lane="prod",status="expired",within_budget="false"}} 1.0' in lines
    assert f'{ended}{{lane="prod",status="error",within_budget="true"}} 1.0' in lines
    assert f'{stage}_total{{lane="prod",outcome="skipped",stage="reflection"}} 1.0' in lines
    assert not [line for line in lines if line.startswith(f"{stage}_duration") and "skipped" in line]
    assert 'fivestage_expired_total{lane="prod",reason="expired_before_start"} 1.0' in lines


def test_bucket_bounds_are_inclusive() -> None:
    """Bucket bounds are inclusive, as in Prometheus; larger values are in the last bucket."""
    tally = Tally((0.1, 0.25))
    for seconds in (0.1, 0.2, 0.25, 0.3):
        tally.observe(seconds)
    assert tally.buckets() == [("0.1", 1.0), ("0.25", 3.0), ("+Inf", 4.0)]
    assert tally.sum_s == pytest.approx(0.85)


async def test_rejections_are_counted() -> None:
    """Rejections are counted by lane, and by whether they were only observed."""
    for mode, action in (("on", "refused"), ("observe", "observed")):
        metrics = Metrics(topic="queries", group_id="g")
        settings = Settings.model_validate({"admission": {"shed": mode, "shed_max_share": 1}})
        app = samples.pipeline(any=samples.FakeNode(0.02))
        async with MemoryBus(app, observer=metrics, settings=settings) as bus:
            await samples.ask_many(bus, "learn", MIN_ANSWERS)
            await samples.ask_many(bus, "q", 3, budget_ms=5)
        lines = [line for line in text_of(metrics) if line.startswith("fivestage_shed_total{")]
        assert lines == [f'fivestage_shed_total{{action="{action}",lane="prod"}} 3.0']
        expired = 'fivestage_expired_total{lane="prod",reason="would_expire"} 3.0' in text_of(metrics)
        assert expired is (mode == "on")


async def test_breakers_and_failovers_are_counted() -> None:
    """Changes of a breaker are counted by lane, node and state; failovers by lane."""
    metrics = Metrics(topic="queries", group_id="g")
    bad, good = samples.FakeNode(fails=True), samples.FakeNode(fails=True)
    app = samples.pipeline(bad=bad, good=good)

    @app.decision
    async def decide(_query: Query, _ctx: StageContext) -> str:
        return "bad"

    async with MemoryBus(app, observer=metrics) as bus:
        await samples.ask_many(bus, "q", 3, lane="canary")
        good.fails = False
        await samples.ask_for_a_second(bus, 21, lane="canary")
        await samples.ask_many(bus, "s", 1)
        await asyncio.sleep(0.2)
    lines = text_of(metrics)
    assert 'fivestage_failovers_total{lane="canary"} 24.0' in lines  # at the last one the breaker was open
    assert 'fivestage_failovers_total{lane="prod"} 1.0' in lines
    changes = [line for line in lines if line.startswith("fivestage_breaker_transitions_total{")]
    assert changes == ['fivestage_breaker_transitions_total{lane="canary",node="bad",state="open"} 1.0']


def test_changes_of_controls_are_counted_and_logged() -> None:
    """A changed control has a metric and a log line with its subject and figures."""
    metrics = Metrics(topic="queries", group_id="g")
    with capture_logs() as lines:
        metrics.control_changed(ControlChange("breaker", "open", "14 of 20 failed in 1.2 s", "prod", "math"))
    assert 'fivestage_control_changes_total{change="open",control="breaker"} 1.0' in text_of(metrics)
    assert lines == [
        {
            "event": "breaker opened",
            "log_level": "warning",
            "reason": "14 of 20 failed in 1.2 s",
            "node": "math",
            "lane": "prod",
        }
    ]


def test_replaced_executors_are_counted() -> None:
    """Replaced executors are counted by reason."""
    metrics = Metrics(topic="queries", group_id="g")
    for reason in (ReplacementReason.RUNS_ON, ReplacementReason.RUNS_ON, ReplacementReason.THREAD_ENDED):
        metrics.executor_replaced(reason)
    lines = text_of(metrics)
    assert 'fivestage_replaced_executors_total{reason="code of ended queries runs on"} 2.0' in lines
    assert 'fivestage_replaced_executors_total{reason="its thread has ended"} 1.0' in lines
