"""The work of contestants other than fivestage: one query in, five stage results and a result out.

Contestants differ in how records are read, written and committed; this module is the common part in between.
It needs only pydantic, OpenTelemetry and prometheus-client: some contestants have separate
environments.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fivestage_schemas import (
    Outcome,
    PipelineMetrics,
    PipelineResult,
    PipelineStatus,
    QueryEvent,
    Source,
    StageResult,
)
from fivestage_schemas import headers as h

from .metrics import Metrics
from .spans import export
from .stages import STAGES, TOTAL_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping

    from .stages import Stage

SAMPLE_RATIO = 0.05
LANE = "prod"
FAILED = {Outcome.ERROR, Outcome.TIMEOUT}
PROPAGATOR = TraceContextTextMapPropagator()


class Where(NamedTuple):
    """The source record of a query."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    headers: Mapping[str, str]


class Event(NamedTuple):
    """An event to publish."""

    is_result: bool
    value: StageResult | PipelineResult
    headers: dict[str, str]

    def encoded(self) -> bytes:
        """Return the record's value."""
        return self.value.model_dump_json().encode()

    def header_list(self) -> list[tuple[str, bytes]]:
        """Return the record's headers, as clients take them."""
        return [(name, text.encode()) for name, text in self.headers.items()]


class Work:
    """Answers queries: limits, traces, metrics and events included.

    Args:
        group_id: Names the source of the events.
    """

    def __init__(self, group_id: str) -> None:
        self._source = f"/fivestage/{group_id}"
        provider = TracerProvider(sampler=ParentBasedTraceIdRatio(SAMPLE_RATIO))
        export(provider)
        self._tracer = provider.get_tracer("bench")
        self._metrics = Metrics()

    async def answer(self, query: QueryEvent, where: Where) -> list[Event]:
        """The events of one query."""
        parent = PROPAGATOR.extract(where.headers)
        span = self._tracer.start_span(f"process {where.topic}", parent, trace.SpanKind.CONSUMER)
        context = trace.set_span_in_context(span)
        run = Run(query, self._tracer if span.is_recording() else None, context)
        for stage in STAGES:
            await run.attempt(stage)
        result = run.result(where)
        self._metrics.observe(result)
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, context)
        span.end()
        return [*self._events(run.stages, result, where, carrier)]

    def _events(
        self, stages: Iterable[StageResult], result: PipelineResult, where: Where, carrier: dict[str, str]
    ) -> Iterator[Event]:
        coordinates = f"{where.topic}/{where.partition}/{where.offset}"
        shared = {
            h.CE_SPECVERSION: "1.0",
            h.CE_SOURCE: self._source,
            h.CE_SUBJECT: result.query_id,
            h.CE_TIME: result.finished_at.isoformat(),
            h.CE_CORRELATION_ID: where.headers.get(h.CE_CORRELATION_ID, result.query_id),
            h.CE_CAUSATION_ID: where.headers.get(h.CE_ID, coordinates),
            h.CONTENT_TYPE: h.JSON_CONTENT_TYPE,
            h.LANE: result.lane,
            **carrier,
        }
        for stage in stages:
            ce_id = f"{coordinates}/stage_result/{stage.sequence}"
            yield Event(False, stage, {h.CE_ID: ce_id, h.CE_TYPE: h.STAGE_RESULT_TYPE, **shared})
        own = {h.CE_ID: f"{coordinates}/result", h.CE_TYPE: h.RESULT_TYPE, h.STATUS: result.status}
        yield Event(True, result, {**own, **shared})


class Run:
    """One query in the stages."""

    def __init__(self, query: QueryEvent, tracer: trace.Tracer | None, context: Any) -> None:
        self._query = query
        self._tracer = tracer
        self._context = context
        self._clock = asyncio.get_running_loop().time
        self._started_at = self._clock()
        self._wall = time.time()
        self._failed: StageResult | None = None
        self.stages: list[StageResult] = []

    async def attempt(self, stage: Stage) -> None:
        """Run a stage within the remaining time; later ones are skipped when a critical one fails."""
        at = self._clock()
        limit_s = min(stage.limit_s, self._started_at + TOTAL_S - at)
        data, error, outcome = None, None, Outcome.SKIPPED
        if self._failed is None and limit_s > 0:
            data, error, outcome = await _bounded(stage.call(self._query), limit_s)
        result = self._stage_result(stage, at, limit_s, outcome, data, error)
        if stage.critical and outcome in FAILED:
            self._failed = result
        self.stages.append(result)
        if self._tracer is not None:
            started = int((self._wall + at - self._started_at) * 1e9)
            self._tracer.start_span(f"stage {stage.kind}", self._context, start_time=started).end()

    def _stage_result(
        self, stage: Stage, at: float, limit_s: float, outcome: Outcome, data: Any, error: str | None
    ) -> StageResult:
        ran = outcome is not Outcome.SKIPPED
        return StageResult(
            query_id=self._query.query_id,
            stage_type=stage.kind,
            sequence=stage.sequence,
            outcome=outcome,
            success=outcome is Outcome.SUCCESS,
            timeout=outcome is Outcome.TIMEOUT,
            critical=stage.critical,
            data=data,
            error=error,
            error_type=None if outcome is Outcome.SUCCESS else outcome.value,
            node=stage.node,
            duration_ms=_ms(self._clock() - at) if ran else 0.0,
            timeout_ms=_ms(limit_s) if ran else 0.0,
            started_at=self._at(at) if ran else None,
            lane=self._query.lane or LANE,
        )

    def result(self, where: Where) -> PipelineResult:
        """Build the terminal event."""
        took_s = self._clock() - self._started_at
        outcomes = [stage.outcome for stage in self.stages]
        failed, answer = self._failed, self.stages[2].data
        status = PipelineStatus.SUCCESS if failed is None else PipelineStatus(failed.outcome.value)
        return PipelineResult(
            query_id=self._query.query_id,
            status=status,
            answer=answer["answer"] if answer and failed is None else None,
            confidence=answer["confidence"] if answer and failed is None else None,
            degraded=failed is None and any(one in FAILED for one in outcomes),
            validated=self.stages[3].data,
            error=failed.error if failed else None,
            error_type=failed.error_type if failed else None,
            node=self.stages[2].node,
            lane=self._query.lane or LANE,
            stages=self.stages,
            metrics=PipelineMetrics(
                total_duration_ms=_ms(took_s),
                queue_ms=max(0.0, self._wall * 1000 - where.timestamp_ms),
                stage_durations={stage.stage_type.value: stage.duration_ms for stage in self.stages},
                stages_completed=outcomes.count(Outcome.SUCCESS),
                stages_failed=sum(one in FAILED for one in outcomes),
                stages_skipped=outcomes.count(Outcome.SKIPPED),
                timeout_count=outcomes.count(Outcome.TIMEOUT),
                budget_ms=TOTAL_S * 1000,
                within_budget=took_s <= TOTAL_S,
            ),
            started_at=self._at(self._started_at),
            finished_at=self._at(self._started_at + took_s),
            source=Source(topic=where.topic, partition=where.partition, offset=where.offset),
        )

    def _at(self, moment: float) -> datetime:
        return datetime.fromtimestamp(self._wall + moment - self._started_at, UTC)


async def _bounded(call: Awaitable[Any], limit_s: float) -> tuple[Any, str | None, Outcome]:
    """Return its value or its failure; asyncio.timeout starts no task, unlike wait_for."""
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await call, None, Outcome.SUCCESS
    except Exception as error:  # noqa: BLE001 - a stage may raise anything
        return None, str(error), Outcome.TIMEOUT if limit.expired() else Outcome.ERROR


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def texts(headers: Iterable[tuple[str, bytes | str | None]] | None) -> dict[str, str]:
    """A record's headers as text."""
    return {
        name: value.decode() if isinstance(value, bytes) else value or "" for name, value in headers or ()
    }
