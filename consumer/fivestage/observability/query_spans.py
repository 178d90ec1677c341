"""Makes the spans of a query when the broker has its events, so that no answer waits for a span.

The spans follow OpenTelemetry's messaging conventions. Below ``process {topic}`` (CONSUMER) are a span for
each stage, below that of processing one for each call of a node, and ``send {topic}`` (PRODUCER), whose id is
in the headers of the events. docs/traces.md lists their attributes. Query text is never recorded, except in
the message of an exception where ``logging.show_text`` is set.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from fivestage.core.attempts import with_kinds
from fivestage.core.trace_context import SEND, call_number, span_id_of
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context

    from fivestage.core.stage_history import StageRun
    from fivestage.observability.query_trace import Ending
    from fivestage_schemas import AttemptKind

OWN: Final = "lukhas.matriz"
"""The namespace of attributes that the conventions do not have."""
_PROCESSING: Final = StageType.PROCESSING
_FAILED: Final = (Outcome.ERROR, Outcome.TIMEOUT)


class ChosenIds:
    """Gives a span the id that was chosen for it, and all others those of the provider's own generator.

    Args:
        ids: The provider's generator.
    """

    def __init__(self, ids: Any) -> None:
        self._ids = ids
        self.span_id: int | None = None
        """The id of the next span."""

    @classmethod
    def of(cls, tracer: Any) -> ChosenIds | None:
        """Replace the generator of a tracer; None if it is not one of the SDK, whose ids cannot be chosen."""
        ids = getattr(tracer, "id_generator", None)
        if ids is None:
            return None
        tracer.id_generator = chosen = ids if isinstance(ids, cls) else cls(ids)
        return chosen

    def generate_span_id(self) -> int:
        """See opentelemetry.sdk.trace.id_generator."""
        chosen, self.span_id = self.span_id, None
        return int(self._ids.generate_span_id()) if chosen is None else chosen

    def generate_trace_id(self) -> int:
        """See opentelemetry.sdk.trace.id_generator."""
        return int(self._ids.generate_trace_id())

    def is_trace_id_random(self) -> bool:
        """See opentelemetry.sdk.trace.id_generator."""
        return bool(self._ids.is_trace_id_random())


class SpanMaker:
    """Makes the spans of queries that have ended.

    Args:
        tracer: Makes the spans.
        ids: The tracer's ids; None if they cannot be chosen, and no spans are made.
        results_topic: The topic named in the send span.
        show_text: Add the messages of exceptions.
    """

    def __init__(
        self, tracer: trace.Tracer, ids: ChosenIds | None, *, results_topic: str, show_text: bool
    ) -> None:
        self._tracer = tracer
        self._ids = ids
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
        """Whether spans are made at all."""
        return self._ids is not None

    def make(self, process: trace.Span, ending: Ending) -> None:
        """Make the spans below a process span, and end it."""
        envelope, outcome = ending.envelope, ending.outcome
        parent = trace.set_span_in_context(process)
        process_id = process.get_span_context().span_id
        if outcome is not None:
            offset_s = envelope.started_wall - envelope.started_at
            stages = _Stages(self, process_id, parent, offset_s)
            for run in outcome.runs:
                earlier = [one for one in outcome.earlier if one.spec is run.spec]
                stages.make([*earlier, run])
        send = self.start(
            self._send_name,
            span_id_of(process_id, SEND),
            parent,
            ending.wall_s,
            self._send_attributes,
            SpanKind.PRODUCER,
        )
        send.end(end_time=_ns(max(time.time(), ending.wall_s)))
        process.set_attributes(_attributes_of(ending))
        if ending.error_type is not None:
            mark_failed(process, ending.error_type)
        process.end(end_time=_ns(ending.wall_s))

    def start(
        self,
        name: str,
        span_id: int,
        parent: Context,
        wall_s: float,
        attributes: dict[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> trace.Span:
        """Start a span with a chosen id, at *wall_s* (seconds since the epoch)."""
        assert self._ids is not None  # noqa: S101 - see can_record
        self._ids.span_id = span_id
        try:
            return self._tracer.start_span(
                name, context=parent, kind=kind, attributes=attributes, start_time=_ns(wall_s)
            )
        finally:
            self._ids.span_id = None  # where the sampler has raised, the next span must not get it

    def fail(self, span: trace.Span, run: StageRun, wall_s: float) -> None:
        """Mark the span of a call that failed; an exception is an event, with its class and place."""
        error_type = run.error_type or "error"
        mark_failed(span, error_type)
        if run.where is not None:  # else it raised nothing: its worker died, for instance
            path, _, line = run.where.rpartition(":")
            attributes: dict[str, Any] = {"exception.type": error_type}
            attributes |= {"code.file.path": path, "code.line.number": int(line)}
            if self._show_text and run.error is not None:
                attributes["exception.message"] = run.error
            span.add_event("exception", attributes, timestamp=_ns(wall_s))


class _Stages:
    """Makes the spans of the stages of one query."""

    def __init__(self, spans: SpanMaker, process_id: int, parent: Context, offset_s: float) -> None:
        self._spans = spans
        self._process_id = process_id
        self._parent = parent
        self._offset_s = offset_s
        """From monotonic to wall-clock time."""

    def make(self, attempts: Sequence[StageRun]) -> None:
        """Make the spans of one stage: of each call, and in processing of the whole stage above them."""
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
                self._call(name, run, kind, started_at, self._parent)
            return
        stage_id = span_id_of(self._process_id, call_number(spec.sequence, 0))
        began_at = min(started_at for _, _, started_at in called) + self._offset_s
        stage = self._spans.start(name, stage_id, self._parent, began_at, _stage_attributes(last))
        for run, kind, started_at in called:
            name = f"node {run.node}" if run.node else "node"
            self._call(name, run, kind, started_at, trace.set_span_in_context(stage))
        if last.outcome in _FAILED:
            mark_failed(stage, last.error_type or "error")
        stage.end(end_time=_ns(last_at + last.duration_s + self._offset_s))

    def _call(self, name: str, run: StageRun, kind: AttemptKind, started_at: float, parent: Context) -> None:
        """Make the span of one call."""
        attributes = _stage_attributes(run)
        attributes |= {
            f"{OWN}.attempt": run.attempt,
            f"{OWN}.attempt_kind": kind.value,
            f"{OWN}.granted_ms": _ms(run.granted_s),
            f"{OWN}.waited_ms": _ms(run.waited_s),
        }
        span_id = span_id_of(self._process_id, call_number(run.spec.sequence, run.attempt))
        wall_s = started_at + self._offset_s
        span = self._spans.start(name, span_id, parent, wall_s, attributes)
        if run.outcome in _FAILED:
            self._spans.fail(span, run, wall_s + run.duration_s)
        span.end(end_time=_ns(wall_s + run.duration_s))


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
        attributes[f"{OWN}.node"] = outcome.node
    return attributes


def _stage_attributes(run: StageRun) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        f"{OWN}.stage": run.spec.stage_type.value,
        f"{OWN}.critical": run.spec.critical,
        f"{OWN}.outcome": run.outcome.value,
        f"{OWN}.slo_target_ms": _ms(run.spec.limit_s),
    }
    if run.node is not None:
        attributes[f"{OWN}.node"] = run.node
    return attributes


def mark_failed(span: trace.Span, error_type: str) -> None:
    """Set a span's status and ``error.type``."""
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", error_type)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
