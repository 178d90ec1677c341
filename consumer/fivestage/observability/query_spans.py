"""Makes the spans of a query when the broker has its events, so that no answer waits for a span.

The spans follow OpenTelemetry's messaging conventions. Below ``process {topic}`` (CONSUMER) are a span for
each stage, below that of processing one for each call of a node, and ``send {topic}`` (PRODUCER), whose id is
in the headers of the events. docs/traces.md lists their attributes. Query text is never recorded, except in
the message of an exception where ``logging.show_text`` is set.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanContext, SpanKind

from fivestage.core.attempts import with_kinds
from fivestage.core.trace_context import SEND, call_number, span_id_of
from fivestage.observability.ended_span import ChosenIds, EndedSpan, InSteps, WholeSpans, mark_failed
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry import trace

    from fivestage.core.stage_run import StageRun
    from fivestage.observability.query_trace import Ending
    from fivestage_schemas import AttemptKind

OWN: Final = "lukhas.matriz"
"""The namespace of attributes that the conventions do not have."""
_ATTEMPT, _ATTEMPT_KIND = f"{OWN}.attempt", f"{OWN}.attempt_kind"
_GRANTED_MS, _WAITED_MS, _SLO_TARGET_MS = f"{OWN}.granted_ms", f"{OWN}.waited_ms", f"{OWN}.slo_target_ms"
_STAGE, _NODE, _OUTCOME, _CRITICAL = f"{OWN}.stage", f"{OWN}.node", f"{OWN}.outcome", f"{OWN}.critical"
_INTERNAL: Final = SpanKind.INTERNAL
_PRODUCER: Final = SpanKind.PRODUCER
_PROCESSING: Final = StageType.PROCESSING
_FAILED: Final = (Outcome.ERROR, Outcome.TIMEOUT)


class SpanMaker:
    """Makes the spans of queries that have ended.

    Args:
        provider: Takes whole spans, if it is one that can (``observability.sampling``).
        tracer: Makes the spans otherwise, for four times the cost.
        results_topic: The topic named in the send span.
        show_text: Add the messages of exceptions.
    """

    def __init__(
        self, provider: trace.TracerProvider, tracer: trace.Tracer, *, results_topic: str, show_text: bool
    ) -> None:
        self._whole: WholeSpans | None = provider if isinstance(provider, WholeSpans) else None
        self._tracer = tracer
        self._ids = ChosenIds.of(tracer)
        self._show_text = show_text
        self._send_name = f"send {results_topic}"
        self._send_attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": results_topic,
        }

    @property
    def can_record(self) -> bool:
        """Whether spans are made at all: not where their ids cannot be chosen."""
        return self._ids is not None

    def make(self, process: trace.Span, ending: Ending) -> None:
        """Make the spans below a process span, and end it."""
        envelope, outcome, own = ending.envelope, ending.outcome, process.get_span_context()
        spans: list[EndedSpan] = []
        if outcome is not None:
            offset_s = envelope.started_wall - envelope.started_at
            for run in outcome.runs:
                earlier = [one for one in outcome.earlier if one.spec is run.spec]
                spans += self._of_stage(own, [*earlier, run], offset_s)
        sent_at = _ns(ending.wall_s)
        times = sent_at, max(time.time_ns(), sent_at)
        context, attributes = _below(own, own, SEND), dict(self._send_attributes)
        spans.append(EndedSpan(self._send_name, context, own, _PRODUCER, attributes, *times))
        self._record(process, spans)
        process.set_attributes(_attributes_of(ending))
        if ending.error_type is not None:
            mark_failed(process, ending.error_type)
        process.end(end_time=sent_at)

    def _of_stage(
        self, own: SpanContext, attempts: Sequence[StageRun], offset_s: float
    ) -> Iterator[EndedSpan]:
        """The spans of one stage: of each call, and in processing then that of the whole stage above them.

        Args:
            own: The process span's context.
            attempts: All that were made at the stage.
            offset_s: What is to be added to a monotonic time for the wall clock's.
        """
        called = [
            (run, kind, run.started_at) for run, kind in with_kinds(attempts) if run.started_at is not None
        ]
        if not called:
            return
        last, _, last_at = called[-1]
        spec = last.spec
        name = f"stage {spec.stage_type}"
        if spec.stage_type is not _PROCESSING:
            for run, kind, started_at in called:
                yield self._of_call(name, own, own, run, kind, started_at + offset_s)
            return
        context = _below(own, own, call_number(spec.sequence, 0))
        for run, kind, started_at in called:
            node = f"node {run.node}" if run.node else "node"
            yield self._of_call(node, own, context, run, kind, started_at + offset_s)
        failed = (last.error_type or "error") if last.outcome in _FAILED else None
        began_at = min(started_at for _, _, started_at in called)
        times = _ns(began_at + offset_s), _ns(last_at + last.duration_s + offset_s)
        yield EndedSpan(name, context, own, _INTERNAL, _stage_attributes(last), *times, failed)

    def _of_call(
        self,
        name: str,
        own: SpanContext,
        parent: SpanContext,
        run: StageRun,
        kind: AttemptKind,
        began_at: float,
    ) -> EndedSpan:
        """The span of one call, which began at *began_at* (seconds since the epoch)."""
        attributes = _stage_attributes(run)
        attributes[_ATTEMPT] = run.attempt
        attributes[_ATTEMPT_KIND] = kind.value
        attributes[_GRANTED_MS] = _ms(run.granted_s)
        attributes[_WAITED_MS] = _ms(run.waited_s)
        context = _below(own, parent, call_number(run.spec.sequence, run.attempt))
        failed, exception = None, None
        if run.outcome in _FAILED:
            failed = run.error_type or "error"
            exception = None if run.where is None else self._exception(run, run.where, failed)
        times = _ns(began_at), _ns(began_at + run.duration_s)
        return EndedSpan(name, context, parent, _INTERNAL, attributes, *times, failed, exception)

    def _exception(self, run: StageRun, where: str, error_type: str) -> dict[str, Any]:
        """Class and place of what a call has raised."""
        path, _, line = where.rpartition(":")
        attributes: dict[str, Any] = {"exception.type": error_type}
        attributes |= {"code.file.path": path, "code.line.number": int(line)}
        if self._show_text and run.error is not None:
            attributes["exception.message"] = run.error
        return attributes

    def _record(self, process: trace.Span, spans: list[EndedSpan]) -> None:
        """Hand over the spans below a process span, in the order in which they end."""
        if self._whole is not None and self._whole.takes_whole_spans:
            for span in spans:
                self._whole.record(span, process)
        else:
            InSteps(self._tracer, self._ids, process, spans).record()


def _below(process: SpanContext, parent: SpanContext, number: int) -> SpanContext:
    """The context of a span of the query below *parent*; see ``call_number``."""
    return SpanContext(
        parent.trace_id,
        span_id_of(process.span_id, number),
        is_remote=False,
        trace_flags=parent.trace_flags,
        trace_state=parent.trace_state,
    )


def _attributes_of(ending: Ending) -> dict[str, Any]:
    """The attributes of a process span that are known at its end."""
    envelope, outcome = ending.envelope, ending.outcome
    attributes: dict[str, Any] = {
        f"{OWN}.lane": envelope.lane,
        f"{OWN}.queue_ms": _ms(envelope.queue_s),
        f"{OWN}.status": ending.status,
    }
    if outcome is None:
        attributes[f"{OWN}.reason"] = ending.reason
        return attributes
    attributes |= {
        f"{OWN}.degraded": outcome.degraded,
        f"{OWN}.within_budget": outcome.within_budget,
        f"{OWN}.budget_ms": _ms(outcome.budget_s),
    }
    if outcome.partial:
        attributes[f"{OWN}.partial"] = True
    if outcome.node is not None:
        attributes[_NODE] = outcome.node
    return attributes


def _stage_attributes(run: StageRun) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        _STAGE: run.spec.stage_type.value,
        _CRITICAL: run.spec.critical,
        _OUTCOME: run.outcome.value,
        _SLO_TARGET_MS: _ms(run.spec.limit_s),
    }
    if run.node is not None:
        attributes[_NODE] = run.node
    return attributes


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
