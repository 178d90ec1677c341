"""The ids of spans below a process span."""

from __future__ import annotations

from fivestage.core.trace_context import SEND, TraceContext, call_number, span_id_of

PROCESS = 0x00F0_67AA_0BA9_02B7


def test_ids_of_a_query_differ() -> None:
    """The send span, the stages and all calls have different valid ids, none that of the process span."""
    numbers = [SEND, *(call_number(stage, attempt) for stage in range(5) for attempt in range(200))]
    found = {span_id_of(PROCESS, number) for number in numbers}
    assert len(found | {PROCESS}) == len(numbers) + 1
    assert all(0 < span_id < 1 << 64 for span_id in found)


def test_the_ids_in_a_traceparent() -> None:
    """Trace id and span id are read from the header."""
    trace = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert trace.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert int(trace.span_id, 16) == PROCESS
