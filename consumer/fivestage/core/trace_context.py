"""The place of a query in its trace, and the ids of its spans."""

from __future__ import annotations

from typing import Final, NamedTuple

SEND: Final = 1
"""The number of the send span; those of stages and calls are larger, see ``call_number``."""
_FACTOR: Final = 0x9E37_79B9_7F4A_7C15
"""Odd, so that no two numbers have the same product."""
_SPAN_IDS: Final = (1 << 64) - 1


class TraceContext(NamedTuple):
    """What the code of a query continues: the process span, as W3C headers."""

    traceparent: str
    tracestate: str = ""
    """Empty if the producer sent none."""
    recorded: bool = False
    """Spans are made for the stages, so that each call has an id; else only the trace goes on."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return self.traceparent[36:52]


def call_number(sequence: int, attempt: int) -> int:
    """The number of a call within its query; of the whole stage if *attempt* is 0."""
    return (sequence + 1 << 16) + attempt


def span_id_of(process_span_id: int, number: int) -> int:
    """The id of a span below a process span.

    It is computed rather than drawn: a worker knows it before the call, and the bus, which makes the span
    when the query has ended, knows it even if the worker is killed meanwhile.
    """
    return (process_span_id ^ (number * _FACTOR & _SPAN_IDS)) or 1
