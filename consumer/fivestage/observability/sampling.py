"""The sampling decision, taken before a span is made: most queries are not sampled, and then need none.

Nor do those that are sampled while spans are exported to nobody: they need a header that says so, no more.

The decisions are those of OpenTelemetry's ``ParentBasedTraceIdRatio``: the producer's where it sent one, else
by the trace's number. Making a span only to find that nobody will see it costs four times as much.
"""

from __future__ import annotations

import threading
from random import getrandbits
from typing import Any, Final

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

SAMPLED: Final = 1
RANDOM: Final = 2
"""The flag of trace context level 2: the number is random."""


class EarlySampling(RandomIdGenerator):
    """Numbers traces, so that what was decided by a trace's number is found again by the SDK's own sampler.

    Args:
        ratio: Share of the traces without a parent that are sampled, 0 to 1.
    """

    def __init__(self, ratio: float) -> None:
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._next = threading.local()
        self.is_received = True
        """Whether somebody is there to receive spans."""

    def unrecorded(self, parent: str | None) -> str | None:
        """The ``traceparent`` of a query that needs no span.

        Args:
            parent: The producer's ``traceparent``, well-formed; None where a new trace begins.

        Returns:
            None for a query that is recorded: a span begun next in this thread gets its number.
        """
        if parent is not None:
            if self.is_received and int(parent[-2:], 16) & SAMPLED:
                return None
            return f"{parent[:36]}{self.generate_span_id():016x}{parent[-3:]}"
        trace_id = getrandbits(128) or 1
        flags = RANDOM
        if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound:
            if self.is_received:
                self._next.trace_id = trace_id
                return None
            flags |= SAMPLED
        return f"00-{trace_id:032x}-{self.generate_span_id():016x}-{flags:02x}"

    def generate_trace_id(self) -> int:
        """The number that was decided about, else a random one."""
        chosen: int | None = self._next.__dict__.pop("trace_id", None)
        return super().generate_trace_id() if chosen is None else chosen


class Provider(TracerProvider):
    """A provider that tells its numbering whether anybody receives spans.

    Args:
        numbering: Its id generator.
        arguments: Those of TracerProvider.
    """

    def __init__(self, numbering: EarlySampling, **arguments: Any) -> None:
        super().__init__(id_generator=numbering, **arguments)
        self._numbering = numbering
        numbering.is_received = False

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """See TracerProvider."""
        super().add_span_processor(span_processor)
        self._numbering.is_received = True
