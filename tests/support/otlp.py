"""Receives spans by OTLP over HTTP, and records the trace headers of all other requests."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMIT_S = 60.0


class Received(NamedTuple):
    """One span."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    failed: bool
    events: list[tuple[str, dict[str, Any]]]
    links: list[tuple[str, str]]
    scope: tuple[str, str]
    """Name and schema URL."""
    resource: dict[str, Any]


class Collector:
    """An OTLP receiver on a free port of this machine, during the ``with`` block."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.called: list[tuple[str, str | None]] = []
        """Path and ``traceparent`` of each request that is no export."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.spans += _spans_in(ExportTraceServiceRequest.FromString(body))
                self._answer()

            def do_GET(self) -> None:
                collector.called.append((self.path, self.headers["traceparent"]))
                self._answer()

            def _answer(self) -> None:
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def trace(self, trace_id: str, count: int) -> dict[str, Received]:
        """Return the spans of a trace by id, once *count* have arrived."""
        ends_at = time.monotonic() + LIMIT_S
        while True:
            found = [span for span in tuple(self.spans) if span.trace_id == trace_id]
            if len(found) >= count:
                spans = {span.span_id: span for span in found}
                assert len(spans) == len(found) == count, sorted(span.name for span in found)
                return spans
            assert time.monotonic() < ends_at, f"{len(found)} of {count} spans: {[one.name for one in found]}"
            time.sleep(0.01)


def tree(spans: Iterable[Received], parent_id: str, depth: int = 0) -> list[str]:
    """Draw the spans below a parent, one a line: name, kind unless internal, and error type."""
    lines = []
    for span in sorted((one for one in spans if one.parent_id == parent_id), key=lambda one: one.start_ns):
        kind = "" if span.kind == "INTERNAL" else f" {span.kind}"
        error = f" !{span.attributes.get('error.type')}" if span.failed else ""
        lines.append("  " * depth + span.name + kind + error)
        lines += tree(spans, span.span_id, depth + 1)
    return lines


def _spans_in(request: ExportTraceServiceRequest) -> list[Received]:
    return [
        _received(span, (scoped.scope.name, scoped.schema_url), _values(resourced.resource.attributes))
        for resourced in request.resource_spans
        for scoped in resourced.scope_spans
        for span in scoped.spans
    ]


def _received(span: Span, scope: tuple[str, str], resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        span.status.code == Status.STATUS_CODE_ERROR,
        [(event.name, _values(event.attributes)) for event in span.events],
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        scope,
        resource,
    )


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
